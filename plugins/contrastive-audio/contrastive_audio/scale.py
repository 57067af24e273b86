"""The mel scale, and how finely a spectrum can follow it; without torch, as specs are checked."""

from __future__ import annotations

import math

WINDOW, HOP = 0.025, 0.010  # seconds: a frame, and from one frame to the next


def to_mel(hertz: float) -> float:
    """Return O'Shaughnessy's mel (1987), as HTK has it."""
    return 2595 * math.log10(1 + hertz / 700)


def to_hertz(mel: float) -> float:
    """Invert ``to_mel``."""
    return 700 * (10 ** (mel / 2595) - 1)


def window_of(sample_rate: int) -> int:
    """Return the samples of a frame."""
    return round(WINDOW * sample_rate)


def hop_of(sample_rate: int) -> int:
    """Return the samples from one frame to the next."""
    return round(HOP * sample_rate)


def fft_of(sample_rate: int) -> int:
    """Return the size of the FFT: a power of two, at least two windows, for narrow low bands."""
    return 2 ** math.ceil(math.log2(2 * window_of(sample_rate)))


def edges(sample_rate: int, mels: int) -> list[float]:
    """Return, in hertz, where the ``mels`` triangles begin, peak and end: ``mels + 2`` numbers."""
    step = to_mel(sample_rate / 2) / (mels + 1)
    return [to_hertz(step * i) for i in range(mels + 2)]


def most_mels(sample_rate: int) -> int:
    """Return how many bands there can be before the lowest has no bin of the spectrum in it."""
    bin_width = sample_rate / fft_of(sample_rate)
    return math.ceil(2 * to_mel(sample_rate / 2) / to_mel(bin_width)) - 2
