"""Speech for tests: espeak-ng as a library, from the wheel ``espeakng-loader``, by ctypes.

Rate, pitch and voice are espeak-ng's own; gain and noise are added here, with numpy.
"""

from __future__ import annotations

from ctypes import CDLL, CFUNCTYPE, POINTER, c_char_p, c_int, c_short, c_size_t, c_uint, c_void_p
from functools import cache
from typing import NamedTuple

import espeakng_loader
import numpy as np

RETRIEVAL = 1  # AUDIO_OUTPUT_RETRIEVAL: samples go to the callback, and synthesis waits for it
UTF8 = 1
RATE, PITCH = 1, 3  # espeak_PARAMETER
ON_SAMPLES = CFUNCTYPE(c_int, POINTER(c_short), c_int, c_void_p)


class Voice(NamedTuple):
    """Who speaks, and how."""

    name: str = "en"
    """A language, and a variant behind a plus: ``en-us+f3``."""
    rate: int = 160
    """Words a minute."""
    pitch: int = 50
    """0 to 99."""


VOICES = [
    Voice(f"{accent}+{variant}", rate, pitch)
    for accent, variant, rate, pitch in (
        ("en", "m1", 160, 50),
        ("en-us", "m2", 190, 30),
        ("en", "m3", 140, 60),
        ("en-us", "m4", 170, 40),
        ("en", "f1", 150, 60),
        ("en-us", "f2", 180, 50),
        ("en", "f3", 165, 70),
        ("en-us", "m5", 200, 55),
        ("en", "f4", 175, 45),
        ("en-us", "m7", 155, 65),
    )
]


@cache
def _espeak() -> tuple[CDLL, int]:
    library = CDLL(espeakng_loader.get_library_path())
    library.espeak_Initialize.argtypes = [c_int, c_int, c_char_p, c_int]
    numbers = (c_size_t, c_uint, c_int, c_uint, c_uint)  # size, begin, kind, end, flags
    library.espeak_Synth.argtypes = [c_char_p, *numbers, c_void_p, c_void_p]
    data = espeakng_loader.get_data_path().encode()
    sample_rate = library.espeak_Initialize(RETRIEVAL, 0, data, 0)
    assert sample_rate > 0, "espeak-ng does not find its data"
    return library, sample_rate


def say(words: str, voice: Voice = VOICES[0]) -> tuple[np.ndarray, int]:
    """Return what espeak-ng says, fp32 in [-1, 1], and its sample rate."""
    library, sample_rate = _espeak()
    heard: list[np.ndarray] = []

    @ON_SAMPLES
    def keep(samples: object, count: int, _: object) -> int:
        if samples and count:
            heard.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(keep)
    assert library.espeak_SetVoiceByName(voice.name.encode()) == 0, voice.name
    library.espeak_SetParameter(RATE, voice.rate, 0)
    library.espeak_SetParameter(PITCH, voice.pitch, 0)
    text = words.encode()
    assert library.espeak_Synth(text, len(text) + 1, 0, 0, 0, UTF8, None, None) == 0
    library.espeak_Synchronize()
    return np.concatenate(heard).astype(np.float32) / 32768, sample_rate


def recorded(
    words: str, voice: Voice, *, seed: int, decibels: float = 30
) -> tuple[np.ndarray, int]:
    """Return the words as from a bad microphone: of any loudness, noise ``decibels`` below."""
    samples, sample_rate = say(words, voice)
    dice = np.random.default_rng(seed)
    noise = dice.standard_normal(len(samples)).astype(np.float32)
    noise *= samples.std() / 10 ** (decibels / 20)
    return (samples + noise) * np.float32(dice.uniform(0.2, 0.9)), sample_rate
