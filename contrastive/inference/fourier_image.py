"""An image as a spectrum of decorrelated colours: what an optimizer can paint with.

Plain pixels are a bad canvas: gradient steps make high frequencies that look like noise. Waves
whose amplitude falls with frequency, in colours that vary independently, start from what images
are like (Olah, Mordvintsev, Schubert 2017, Feature Visualization, Distill, "Preconditioning").

Shapes: 3 colour axes or channels, S by S pixels, K = S // 2 + 1 frequencies of a real image.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

# luminance, red against blue, green against purple: nearly the principal axes of natural
# images (Ohta, Kanade, Sakai 1980, Color information for region segmentation)
AXES = ((1.0, 1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 2.0, -1.0))
# Natural images have about 1, 0.3 and 0.15 along them, and amplitudes that fall as 1/f. More
# colour and less detail than that looks more like what the words say, and scores higher.
WIDTHS = (1.0, 0.5, 0.5)
STEEPNESS = 2


class FourierImage(nn.Module):
    """A square image in (0, 1) whose only parameter is a scaled spectrum."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        """Draw a faint spectrum.

        Args:
            size: S, pixels of a side.
            generator: makes the image, on the CPU.
        """
        super().__init__()
        self.size = size
        drawn = torch.randn(3, size, size // 2 + 1, 2, generator=generator)
        self.spectrum = nn.Parameter(0.01 * drawn)  # faint: all but grey, so no colour is ahead
        self.falloff: Tensor
        self.colours: Tensor
        self.register_buffer("falloff", falloff(size), persistent=False)
        self.register_buffer("colours", colour_axes(), persistent=False)

    def forward(self) -> Tensor:
        """Return the image ``[3, S, S]``."""
        scaled = torch.view_as_complex(self.spectrum) * self.falloff
        waves = _waves(scaled, self.size)
        return torch.sigmoid(torch.einsum("ac,ayx->cyx", self.colours, waves))


def falloff(size: int) -> Tensor:
    """Return ``1 / max(f, 1) ** STEEPNESS`` for f cycles an image, ``[S, K]``, at any size."""
    right = torch.arange(size // 2 + 1)
    down = torch.arange(size)
    down = torch.minimum(down, size - down)  # the upper half are negative frequencies
    return torch.hypot(down[:, None].float(), right.float()).clamp(min=1) ** -STEEPNESS


def colour_axes() -> Tensor:
    """Return the axes as rows ``[3, 3]``, each as long as its width."""
    rows = [
        [width * value / math.hypot(*axis) for value in axis]
        for axis, width in zip(AXES, WIDTHS, strict=True)
    ]
    return torch.tensor(rows)


def _waves(spectrum: Tensor, size: int) -> Tensor:
    """Return the sum of waves ``[3, S, S]`` whose amplitudes are ``[3, S, K]``."""
    fft: Any = torch.fft  # untyped
    return fft.irfft2(spectrum, s=(size, size), norm="forward")
