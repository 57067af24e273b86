"""The encoder ``log-mel``."""

import math
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from contrastive_audio import LogMel
from contrastive_audio.scale import most_mels
from contrastive_audio.spectrogram import mel_filters, mel_power

from contrastive import Tower, testing
from contrastive.interface import SpecError, encoders

from .speech import say

SMALL = LogMel(seconds=0.8, mels=40, width=32, depth=2, heads=2)


@pytest.fixture(scope="module")
def sounds():
    rate = SMALL.sample_rate
    noise = np.random.default_rng(0)
    chirp = np.sin(np.cumsum(np.linspace(0.05, 1.0, rate))).astype(np.float32)
    return [chirp, *(noise.standard_normal(n).astype(np.float32) for n in (500, 6_000, 2 * rate))]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return SMALL.build().eval()


def test_a_spec_finds_it_by_name():
    tower = Tower.model_validate({"encoder": {"type": "log-mel"}, "head": {"type": "linear"}})
    assert type(tower.encoder) is LogMel
    assert encoders.package_of(LogMel) == ("contrastive-audio", "0.1.0")


@pytest.mark.slow
def test_naming_it_in_a_spec_does_not_import_torch():
    code = "import contrastive_audio as a, sys; a.LogMel(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 30}, "width 30 is not a multiple of heads 4"),
        ({"mels": 300}, "300 mels are too fine for 16000 Hz; at most 227"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields, says):
    with pytest.raises(SpecError, match=says):
        LogMel(**fields)


@pytest.mark.parametrize("sample_rate", [4_000, 16_000, 44_100])
def test_no_band_is_empty_up_to_the_limit(sample_rate):
    most = most_mels(sample_rate)
    assert (mel_filters(sample_rate, most).sum(1) > 0).all()
    assert not (mel_filters(sample_rate, most + 1).sum(1) > 0).all()


def test_the_spectrogram_is_that_of_its_definition():
    """A Hann window of 25 ms each 10 ms, its Fourier sum, and triangles on HTK's mel scale."""
    rate, mels, size, window = 8_000, 12, 512, 200
    x = np.random.default_rng(0).standard_normal(1_000)
    step = 2595 * math.log10(1 + rate / 2 / 700) / (mels + 1)
    edge = [700 * (10 ** (step * i / 2595) - 1) for i in range(mels + 2)]
    found = mel_power(torch.from_numpy(x), rate, mels)
    assert found.shape == (1 + 1_000 // 80, mels)
    for t in (0, 5, 12):
        powers = []
        for k in range(size // 2 + 1):
            total = 0j
            for i in range(window):
                n = 80 * t - window // 2 + i
                hann = 0.5 - 0.5 * math.cos(2 * math.pi * i / window)
                sample = x[n] if 0 <= n < 1_000 else 0.0
                total += sample * hann * np.exp(-2j * math.pi * k * i / size)
            powers.append(abs(total) ** 2)
        for m in range(mels):
            left, peak, right = edge[m : m + 3]
            band = 0.0
            for k, power in enumerate(powers):
                f = k * rate / size
                if left < f <= peak:
                    band += power * (f - left) / (peak - left)
                elif peak < f < right:
                    band += power * (right - f) / (right - peak)
            assert float(found[t, m]) == pytest.approx(band, rel=1e-5)


def test_loudness_makes_no_difference(module):
    samples, _ = say("orange")
    quiet, loud = module.preprocess([0.01 * samples, samples])["mel"]
    torch.testing.assert_close(quiet, loud, atol=1e-3, rtol=0)
    assert loud.max() == 1
    assert loud.min() == -1


@torch.inference_mode()
def test_features_do_not_depend_on_the_batch(module, sounds):
    together = module(**module.preprocess(sounds))
    assert together.shape == (4, SMALL.width)
    for sound, expected in zip(sounds, together, strict=True):
        alone = module(**module.preprocess([sound]))[0]
        torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_padding_is_not_heard(module, sounds):
    inputs = module.preprocess(sounds)
    expected = module(**inputs)
    real = torch.arange(inputs["mel"].shape[1]) < -(-inputs["frames"][:, None] // 4) * 4
    garbage = torch.where(real[:, :, None], inputs["mel"], 7.0)
    assert not torch.equal(garbage, inputs["mel"])
    torch.testing.assert_close(module(garbage, inputs["frames"]), expected)


def test_digital_silence_has_features(module):
    silent = module.preprocess([np.zeros(8_000, np.float32)])
    assert module(**silent).isfinite().all()


def test_preprocess_can_be_sent_to_workers_and_names_what_it_does(module, sounds):
    again = ForkingPickler.loads(ForkingPickler.dumps(module.preprocess))
    assert again == module.preprocess
    assert torch.equal(again(sounds)["mel"], module.preprocess(sounds)["mel"])
    assert repr(module.preprocess) == (
        "LogMelSpectrogram(sample_rate=16000, seconds=0.8, mels=40, frames=80, decibels=80)"
    )


def test_augmentation_blanks_ranges_by_torch_s_generator(sounds):
    module = SMALL.model_copy(update={"augment": "spec"}).build()
    views = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        views.append(module.augment(sounds)["mel"])
    plain, frames = module.preprocess(sounds).values()
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    for view, clip, count in zip(views[0], plain, frames, strict=True):
        changed = view != clip
        assert changed[:count].float().mean() < 0.95
        assert not changed[count:].any()
        torch.testing.assert_close(view[changed], clip[:count].mean().expand(int(changed.sum())))


def test_it_keeps_what_every_encoder_promises(sounds):
    if not hasattr(testing, "check_component"):
        pytest.skip("contrastive.testing has no check_component")
    testing.check_component(SMALL, samples=sounds)
