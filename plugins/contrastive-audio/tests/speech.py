"""Speech for tests: espeak-ng as a library, from the wheel ``espeakng-loader``, by ctypes.

Rate, pitch and voice are espeak-ng's own; gain and noise are added here, with numpy.

    python plugins/contrastive-audio/tests/speech.py FOLDER

writes the spoken colours that the tests train on.
"""

from __future__ import annotations

import csv
import sys
from ctypes import CDLL, CFUNCTYPE, POINTER, c_char_p, c_int, c_short, c_size_t, c_uint, c_void_p
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import espeakng_loader
import numpy as np
import soundfile
from PIL import Image

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


COLOURS = {
    "red": (200, 30, 30),
    "green": (30, 150, 40),
    "blue": (30, 50, 200),
    "yellow": (240, 220, 40),
    "black": (15, 15, 15),
    "white": (245, 245, 245),
    "orange": (250, 140, 20),
    "purple": (120, 30, 150),
    "pink": (250, 160, 190),
    "brown": (110, 70, 30),
    "gray": (130, 130, 130),
    "turquoise": (60, 210, 200),
}
SPLITS = {"train": VOICES[:6], "val": VOICES[6:7], "test": VOICES[7:]}
TAKES = {"train": 2, "val": 1, "test": 1}


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


def write_spoken(folder: Path) -> Path:
    """Write colours said by ten voices, each with its word and a square of the colour.

    The voices of ``val`` and ``test`` say nothing in ``train``, and no two squares are the same.
    """
    rows: list[list[str]] = []
    for split, voices in SPLITS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for voice, word, _ in product(voices, COLOURS, range(TAKES[split])):
            number = len(rows)
            stem = f"{split}/{word}-{number}"
            samples, sample_rate = recorded(word, voice, seed=number)
            soundfile.write(folder / f"{stem}.flac", samples, sample_rate)
            shifts = (number % 9 - 4, number // 9 % 9 - 4, number // 81 % 9 - 4)
            near = tuple(map(sum, zip(COLOURS[word], shifts, strict=True)))
            Image.new("RGB", (32, 32), near).save(folder / f"{stem}.png")
            rows.append([f"{stem}.flac", f"{stem}.png", word, word, word, split])
    header = ["audio", "image", "text", "group", "label", "split"]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return folder


if __name__ == "__main__":
    write_spoken(Path(sys.argv[1]))
