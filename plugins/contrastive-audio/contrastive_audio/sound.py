"""Reading a sound that somebody else made: bounded, in known formats, mono, at one sample rate.

Shapes: N samples in time, C channels, P phases of a resampling filter, T taps of it.
"""

from __future__ import annotations

import io
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor
from torch.nn.functional import pad

from contrastive.interface import BadSample

SoundSource = str | Path | bytes | np.ndarray | Tensor

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3")
RATES = range(1_000, 400_000)
MAX_CHANNELS = 64
SHORTEST = 0.025  # seconds: a frame of the spectrogram
CROSSINGS = 16  # of zero, to each side of the filter's peak
ROLLOFF = 0.95  # of the lower Nyquist frequency: where the filter has fallen to a half
BLOCK = 16_384  # samples resampled at a time: with 187 taps, 12 MB


def open_sound(source: SoundSource, *, sample_rate: int, seconds: float) -> Tensor:
    """Return the first ``seconds`` of a sound, fp32 ``[N]`` with N at most ``seconds`` of samples.

    Args:
        source: a path, the bytes of a file, or a 1-D float array that has ``sample_rate`` already.
        sample_rate: of the result, in samples a second.
        seconds: how much to read; the rest is not decoded.

    Raises:
        BadSample: it is missing, broken, empty, too short or of another format; names the file.
    """
    name = str(source) if isinstance(source, (str, Path)) else "audio"
    try:
        if isinstance(source, (np.ndarray, Tensor)):
            samples, rate = _as_floats(source), sample_rate
        else:
            samples, rate = _decoded(source, seconds)
        if not samples.isfinite().all():
            _refuse("has samples that are not numbers")
        if len(samples) < SHORTEST * rate:
            _refuse(f"{len(samples) / rate:.3f} s of sound; at least {SHORTEST} s are needed")
        return resample(samples, rate, sample_rate)[: round(seconds * sample_rate)]
    except BadSample as error:
        problem = str(error)
    except MemoryError:  # says nothing of the sound
        raise
    except FileNotFoundError:
        problem = "no such file"
    except Exception as error:  # a damaged file makes decoders raise many kinds of error
        problem = " ".join(str(getattr(error, "error_string", error)).split())
        problem = f"not a readable WAV, FLAC, OGG or MP3 ({problem or type(error).__name__})"
    msg = f"{name}: {problem}"
    raise BadSample(msg)


def _refuse(problem: str) -> None:
    raise BadSample(problem)


def _as_floats(array: np.ndarray | Tensor) -> Tensor:
    samples = array.detach().cpu() if isinstance(array, Tensor) else torch.tensor(array)
    if samples.ndim != 1 or not samples.is_floating_point():
        shape = f"{samples.dtype} of shape {tuple(samples.shape)}".removeprefix("torch.")
        _refuse(f"an array is one row of floats, not {shape}")
    return samples.float()


def _decoded(source: str | Path | bytes, seconds: float) -> tuple[Tensor, int]:
    """Return the mean of the channels and the file's own sample rate."""
    if isinstance(source, (str, Path)) and not Path(source).is_file():
        raise FileNotFoundError
    if not isinstance(source, (str, Path, bytes)):  # pyright: ignore[reportUnnecessaryIsInstance]
        _refuse(f"a sound cannot be of type {type(source).__name__}")
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with soundfile.SoundFile(file) as sound:
        if sound.format not in FORMATS:
            _refuse(f"the format is {sound.format}; WAV, FLAC, OGG and MP3 are read")
        if sound.samplerate not in RATES or sound.channels > MAX_CHANNELS:
            _refuse(f"{sound.samplerate} Hz in {sound.channels} channels cannot be right")
        heard = math.ceil((seconds + 0.1) * sound.samplerate)  # resampling looks a little ahead
        samples_NC = sound.read(heard, dtype="float32", always_2d=True)
        return torch.from_numpy(samples_NC.mean(1)), sound.samplerate


def resample(samples_N: Tensor, old: int, new: int) -> Tensor:
    """Change the sample rate by a linear-phase filter, a sinc under a Hann window.

    Sample j of the result is the filter at time ``j / new``: ``sum_n x[n] h(j old / new - n)``.
    What lies above both Nyquist frequencies is removed. It has ``ceil(N new / old)`` samples.
    """
    if old == new:
        return samples_N
    kernel_PT = _kernel(old, new)
    reach = kernel_PT.shape[1] // 2
    windows_NT = pad(samples_N, (reach, reach)).unfold(0, kernel_PT.shape[1], 1)
    count = -(-len(samples_N) * new // old)
    blocks: list[Tensor] = []
    for start in range(0, count, BLOCK):
        places = torch.arange(start, min(count, start + BLOCK)) * old
        phases = places % new // math.gcd(old, new)
        blocks.append((windows_NT[places // new] * kernel_PT[phases]).sum(1))
    return torch.cat(blocks)


@lru_cache(maxsize=8)
def _kernel(old: int, new: int) -> Tensor:
    """Return the filter at each place between two samples that the result can fall on."""
    cutoff = ROLLOFF * min(1, new / old)  # of the old Nyquist frequency
    reach = math.ceil(CROSSINGS / cutoff)
    phases = new // math.gcd(old, new)
    between_P1 = torch.arange(phases, dtype=torch.float64)[:, None] / phases
    away_PT = between_P1 - torch.arange(-reach, reach + 1)
    hann_PT = (math.pi * away_PT / (2 * (reach + 1))).cos() ** 2
    return (cutoff * torch.sinc(cutoff * away_PT) * hann_PT).float()
