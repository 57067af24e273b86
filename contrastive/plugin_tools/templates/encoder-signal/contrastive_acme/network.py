"""Signals to features.

Shapes: B signals, L numbers, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from contrastive.interface import BadSample, EncoderModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive_acme import AcmeEncoder


class AcmeEncoderModule(EncoderModule):
    """A convolution and the mean over the windows that lie in the signal."""

    modality = "MODALITY"

    def __init__(self, config: AcmeEncoder) -> None:
        """Draw random weights."""
        super().__init__()
        self.out_dim = config.width
        self.window = config.window
        self.preprocess = Padded(config.window)
        self.net = nn.Sequential(nn.Conv1d(1, config.width, config.window), nn.GELU())

    def forward(self, signal: Tensor, length: Tensor) -> Tensor:
        """Return features ``[B, F]`` of signals ``[B, L]`` and their lengths ``[B]``."""
        steps_BFT = self.net(signal[:, None])
        windows_B1 = (length - self.window + 1)[:, None]
        real_BT = torch.arange(steps_BFT.shape[2], device=length.device) < windows_B1
        return (steps_BFT * real_BT[:, None]).sum(2) / windows_B1


@dataclass(frozen=True)
class Padded:
    """Pads signals by zeros. Picklable, as it runs in the workers that read samples."""

    least: int

    def __call__(self, samples: Sequence[Sequence[float]]) -> dict[str, Tensor]:
        """Return ``{"signal": [B, L], "length": [B]}``.

        Raises:
            BadSample: a sample is not a sequence of numbers.
        """
        rows = [self._row_of(sample) for sample in samples]
        length = torch.tensor([len(row) for row in rows])
        return {"signal": pad_sequence(rows, batch_first=True), "length": length}

    def _row_of(self, sample: Sequence[float]) -> Tensor:
        try:
            row = torch.as_tensor(sample, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError) as error:
            raise BadSample(f"not a sequence of numbers: {error}") from None
        if row.dim() != 1 or not row.isfinite().all():
            raise BadSample("a signal is one sequence of finite numbers")
        return torch.cat([row, row.new_zeros(max(self.least - len(row), 0))])
