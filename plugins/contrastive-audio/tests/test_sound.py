"""Any sound file becomes one row of samples at one rate, or a BadSample of one line."""

import io
import math

import numpy as np
import pytest
import soundfile
import torch
from contrastive_audio.sound import CROSSINGS, ROLLOFF, open_sound, resample

from contrastive.interface import BadSample

RATE = 16_000


def tone(hertz, sample_rate, seconds=0.5):
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.sin(2 * np.pi * hertz * time).astype(np.float32)


def encoded(samples, sample_rate=RATE, kind="WAV", **options):
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format=kind, **options)
    return file.getvalue()


def opened(source, *, seconds=0.5):
    return open_sound(source, sample_rate=RATE, seconds=seconds)


@pytest.mark.parametrize(
    ("kind", "error"), [("WAV", 1e-4), ("FLAC", 1e-4), ("OGG", 0.05), ("MP3", 0.05)]
)
def test_every_form_of_a_sound_gives_the_same(tmp_path, kind, error):
    samples = tone(440, RATE) / 2
    expected = torch.from_numpy(samples)
    path = tmp_path / f"tone.{kind.lower()}"
    path.write_bytes(encoded(samples, kind=kind))
    for source in (path, str(path), path.read_bytes()):
        inner = slice(800, -800)  # lossy codecs start and end softly
        torch.testing.assert_close(opened(source)[inner], expected[inner], atol=error, rtol=0)
    assert torch.equal(opened(samples), expected)
    assert torch.equal(opened(expected.double()), expected)


def test_channels_are_averaged():
    left, right = tone(300, RATE), tone(500, RATE)
    stereo = encoded(np.stack([left, right], 1), subtype="FLOAT")
    torch.testing.assert_close(opened(stereo), torch.from_numpy((left + right) / 2))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 44_101])
def test_a_tone_is_the_same_tone_at_another_rate(rate):
    heard = opened(encoded(tone(1_000, rate), rate, subtype="FLOAT"))
    expected = torch.from_numpy(tone(1_000, RATE))
    assert len(heard) == len(expected)
    inner = slice(400, -400)
    torch.testing.assert_close(heard[inner], expected[inner], atol=2e-3, rtol=0)


def test_what_the_lower_rate_cannot_hold_is_removed_not_folded():
    heard = opened(encoded(tone(11_000, 44_100), 44_100, subtype="FLOAT"))
    assert heard[400:-400].abs().max() < 2e-3


@pytest.mark.parametrize(("old", "new"), [(3, 2), (2, 3), (7, 5), (5, 1)])
def test_resampling_is_its_sum(old, new):
    x = torch.randn(60, generator=torch.Generator().manual_seed(0))
    cutoff = ROLLOFF * min(1, new / old)
    reach = math.ceil(CROSSINGS / cutoff)
    expected = []
    for j in range(math.ceil(60 * new / old)):
        total = 0.0
        for n in range(60):
            away = j * old / new - n
            if abs(away) < reach + 1 and -reach <= n - j * old // new <= reach:
                phase = math.pi * cutoff * away
                sinc = math.sin(phase) / phase if phase else 1.0
                hann = math.cos(math.pi * away / (2 * (reach + 1))) ** 2
                total += float(x[n]) * cutoff * sinc * hann
        expected.append(total)
    torch.testing.assert_close(resample(x, old, new), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_only_the_beginning_of_a_long_sound_is_kept():
    long = encoded(tone(440, 44_100, seconds=3), 44_100)
    assert len(opened(long, seconds=1.25)) == 20_000


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (b"", "not a readable WAV, FLAC, OGG or MP3"),
        (b"RIFF and no more", "not a readable WAV, FLAC, OGG or MP3"),
        (encoded(tone(440, RATE))[:60], r"audio: 0.001 s of sound; at least 0.025 s are needed"),
        (encoded(tone(440, RATE)[:99]), r"audio: 0.006 s of sound; at least 0.025 s are needed"),
        (encoded(tone(440, RATE), kind="AIFF"), "the format is AIFF; WAV, FLAC, OGG and MP3"),
        (tone(440, RATE) * np.nan, "has samples that are not numbers"),
        (np.zeros((2, 8_000), np.float32), r"one row of floats, not float32 of shape \(2, 8000\)"),
        (np.zeros(8_000, np.int16), "one row of floats, not int16"),
        ("nowhere.wav", "nowhere.wav: no such file"),
        (7, "a sound cannot be of type int"),
        (None, "a sound cannot be of type NoneType"),
    ],
    ids=range(11),
)
def test_what_is_no_sound_is_refused_in_one_line(source, says):
    with pytest.raises(BadSample, match=says) as caught:
        opened(source)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "hiss.flac"
    whole = encoded(np.random.default_rng(0).standard_normal(8_000) / 9, kind="FLAC")
    path.write_bytes(whole[: len(whole) // 3] + bytes(range(256)) * 9)
    with pytest.raises(BadSample, match=r"hiss\.flac: "):
        opened(path)
