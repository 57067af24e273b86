"""Sounds to log-mel spectrograms: the ``preprocess`` and the ``augment`` of the encoder.

Shapes: B clips, N samples in time, T frames, M mel bands, K bins of the spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from contrastive.interface import sample_list
from contrastive_audio.scale import edges, fft_of, hop_of, window_of
from contrastive_audio.sound import open_sound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive_audio.sound import SoundSource

QUIETEST = 1e-10  # power; digital silence has a logarithm, too


@lru_cache(maxsize=8)
def mel_filters(sample_rate: int, mels: int) -> Tensor:
    """Return triangles of height 1, evenly wide in mel, over the FFT's bins: fp32 ``[M, K]``."""
    size = fft_of(sample_rate)
    bins_K = torch.arange(size // 2 + 1, dtype=torch.float64) * sample_rate / size
    edge = torch.tensor(edges(sample_rate, mels), dtype=torch.float64)
    left, peak, right = (edge[i : i + mels, None] for i in range(3))
    rising, falling = (bins_K - left) / (peak - left), (right - bins_K) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0).float()


def mel_power(samples_N: Tensor, sample_rate: int, mels: int) -> Tensor:
    """Return the power in each band ``[T, M]``, a frame each 10 ms, the first around sample 0."""
    window = window_of(sample_rate)
    spectrum_KT = torch.stft(
        samples_N,
        fft_of(sample_rate),
        hop_of(sample_rate),
        window,
        torch.hann_window(window, dtype=samples_N.dtype),
        pad_mode="constant",
        return_complex=True,
    )
    filters_MK = mel_filters(sample_rate, mels).to(samples_N.dtype)
    return (filters_MK @ spectrum_KT.abs().square()).T


@dataclass(frozen=True)
class LogMelSpectrogram:
    """Opens sounds and transforms each; all clips of an encoder get the same number of frames."""

    sample_rate: int
    seconds: float
    mels: int
    frames: int
    """T."""
    decibels: int = 80
    """Below the clip's loudest place, which is 1; what is quieter is -1, as the padding is."""

    def __call__(self, samples: Sequence[SoundSource]) -> dict[str, Tensor]:
        """Return ``{"mel": [B, T, M], "frames": [B]}``, the latter counts the real ones.

        Raises:
            BadSample: a sound cannot be read.
        """
        clips = [self._transform(sample) for sample in sample_list(samples, "audio", least=1)]
        lengths = [len(clip) for clip in clips]
        mel = [pad(clip, (0, 0, 0, self.frames - len(clip)), value=-1.0) for clip in clips]
        return {"mel": torch.stack(mel), "frames": torch.tensor(lengths)}

    def _transform(self, sample: SoundSource) -> Tensor:
        samples_N = open_sound(sample, sample_rate=self.sample_rate, seconds=self.seconds)
        power_TM = mel_power(samples_N, self.sample_rate, self.mels)[: self.frames]
        level_TM = 10 * power_TM.clamp(min=QUIETEST).log10()
        below_TM = (level_TM - level_TM.max()).clamp(min=-self.decibels)
        return 1 + 2 * below_TM / self.decibels


@dataclass(frozen=True)
class SpecAugment:
    """Gives ranges of frames and of bands the clip's mean; the randomness is torch's."""

    spectrogram: LogMelSpectrogram
    ranges: int = 2
    """Of each kind."""
    share: float = 0.25
    """Of the real frames, or of the bands, that one range covers at most."""

    def __call__(self, samples: Sequence[SoundSource]) -> dict[str, Tensor]:
        """Return what ``LogMelSpectrogram`` returns, with blanks.

        Raises:
            BadSample: a sound cannot be read.
        """
        inputs = self.spectrogram(samples)
        for mel_TM, frames in zip(inputs["mel"], inputs["frames"].tolist(), strict=True):
            heard_TM = mel_TM[:frames]
            mean = heard_TM.mean().item()  # so that a blank is neither loud nor quiet
            for _ in range(self.ranges):
                heard_TM[self._range(frames)] = mean
                heard_TM[:, self._range(heard_TM.shape[1])] = mean
        return inputs

    def _range(self, size: int) -> slice:
        length = int(torch.randint(int(self.share * size) + 1, ()))
        start = int(torch.randint(size - length + 1, ()))
        return slice(start, start + length)
