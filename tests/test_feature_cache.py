"""The feature cache: hits what is the same, misses what changed, survives being cut off."""

import hashlib
import os
from typing import ClassVar

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from torch import nn

from contrastive.data.content_hash import sample_key
from contrastive.encoders import Encoder, TextTransformer, ViT
from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample, DataError
from contrastive.features import store
from contrastive.features.cache import FeatureCache
from contrastive.features.encoder_rows import tell_once
from contrastive.features.store import Store
from contrastive.nn.fingerprint import weights_fingerprint

PIPES = ["features.bin", "keys.bin"] if hasattr(os, "mkfifo") else []
"""Files that are a pipe, which has no end."""


class Letters:
    """Counts letters; stands for a tokenizer."""

    def __init__(self, alphabet="abcdef"):
        self.alphabet = alphabet
        self.seen = []

    def __call__(self, samples):
        for sample in samples:
            if "!" in sample:
                raise BadSample(f"{sample!r}: shouts")
        self.seen += samples
        counts = [[float(s.count(letter)) for letter in self.alphabet] for s in samples]
        return {"counts": torch.tensor(counts)}

    def __repr__(self):
        return f"Letters({self.alphabet!r})"


class Linear(EncoderModule):
    modality = "text"
    out_dim = 3

    def __init__(self, alphabet="abcdef"):
        super().__init__()
        self.preprocess = Letters(alphabet)
        self.layer = nn.Linear(len(alphabet), 3)
        self.norm = nn.BatchNorm1d(3)
        with torch.no_grad():
            self.layer.bias.zero_()
            self.layer.weight.copy_(torch.arange(3 * len(alphabet)).view(3, -1) / 10)

    def forward(self, counts):
        return self.norm(self.layer(counts))


class Spec(Encoder):
    modality: ClassVar[str] = "text"
    size: int = 1

    def build(self):
        return Linear()


TEXTS = ["abc", "fade", "bead", "abc", "cab"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    # the tests count what is encoded, and that does not include trying an encoder of others
    monkeypatch.setattr("contrastive.features.cache.check_foreign", lambda *_, **__: None)
    return FeatureCache(tmp_path)


def encoded(module):
    """Return what the module was asked to encode, and forget it."""
    seen, module.preprocess.seen = module.preprocess.seen, []
    return sorted(seen)


def test_cached_features_are_bitwise_those_of_the_encoder(cache):
    module = Linear()
    table = cache.table(Spec(), module, TEXTS)
    again = cache.table(Spec(), module, TEXTS)
    module.eval()
    with torch.no_grad():
        live = module(**Letters()(TEXTS))
    assert torch.equal(table[range(5)], live)
    assert torch.equal(again[[4, 0, 0]], live[[4, 0, 0]])
    assert isinstance(again.parts[0].base, np.memmap)
    assert len(again.parts[0]) == 4, "a repeated text is one row"


def test_a_sample_is_encoded_once_whatever_else_is_asked_for(cache):
    module = Linear()
    cache.table(Spec(), module, TEXTS)
    assert encoded(module) == sorted(set(TEXTS))
    cache.table(Spec(), module, ["cab", "new", "abc"])
    assert encoded(module) == ["new"]


def test_encoding_leaves_the_module_as_it_was(cache):
    module = Linear()
    module.train()
    before = weights_fingerprint(module)
    cache.table(Spec(), module, TEXTS)
    assert module.training
    assert weights_fingerprint(module) == before, "BatchNorm's statistics have moved"


@pytest.mark.parametrize("change", ["spec", "weight", "buffer", "preprocess"])
def test_a_change_of_the_encoder_misses(cache, change):
    cache.table(Spec(), Linear(), TEXTS)
    module, spec = Linear(), Spec()
    if change == "spec":
        spec = Spec(size=2)
    elif change == "weight":
        module.layer.weight.data[0, 0] += 1e-6
    elif change == "buffer":
        module.norm.running_mean += 1e-6
    else:
        module.preprocess = Letters("bcdefg")
    table = cache.table(spec, module, TEXTS)
    assert encoded(module) == sorted(set(TEXTS))
    module.eval()
    with torch.no_grad():
        assert torch.equal(table[range(5)], module(**module.preprocess(TEXTS)))


def test_the_same_encoder_built_again_hits(cache):
    cache.table(Spec(), Linear(), TEXTS)
    module = Linear()
    cache.table(Spec(), module, TEXTS)
    assert encoded(module) == []


def test_a_changed_file_misses_and_a_moved_one_hits(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(path)
    before = sample_key(path, "image")
    moved = tmp_path / "b.png"
    moved.write_bytes(path.read_bytes())
    assert sample_key(moved, "image") == before == sample_key(path.read_bytes(), "image")
    Image.new("RGB", (8, 9), "blue").save(path)
    assert sample_key(path, "image") != before


def test_words_and_files_of_the_same_bytes_differ():
    assert sample_key("abc", "text") != sample_key(b"abc", "image")
    image = Image.new("RGB", (2, 2))
    assert sample_key(image, "image") != sample_key(Image.new("L", (2, 6)), "image")


def test_bad_samples_are_told_and_the_rest_is_encoded(cache):
    told = {}
    table = cache.table(Spec(), Linear(), ["abc", "no!", "bed", "no!"], on_bad=told.__setitem__)
    assert set(told) == {1, 3}
    assert told[1] == "'no!': shouts"
    assert table.good.tolist() == [True, False, True, False]
    with pytest.raises(BadSample, match="shouts"):
        cache.table(Spec(), Linear(), ["no!"])


def files_of(cache):
    [folder] = (cache.folder / "features").iterdir()
    return folder / "features.bin", folder / "keys.bin"


def test_an_encoding_that_was_cut_off_goes_on_where_it_was(cache, monkeypatch):
    monkeypatch.setattr("contrastive.nn.device.CPU_BATCH", 2)
    texts = [letters * 3 for letters in ("a", "b", "c", "d", "e", "f")]
    module = Linear()
    calls = []

    def fails_on_the_third(counts):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Linear.forward(module, counts)

    module.forward = fails_on_the_third
    with pytest.raises(KeyboardInterrupt):
        cache.table(Spec(), module, texts)
    resumed = Linear()
    cache.table(Spec(), resumed, texts)
    assert len(encoded(resumed)) == 2


@pytest.mark.parametrize("lost", [1, 5, 11, 13, 40])
@pytest.mark.parametrize("which", [0, 1])
def test_a_torn_or_damaged_row_is_computed_again(cache, which, lost):
    right = cache.table(Spec(), Linear(), TEXTS)[range(5)]
    path = files_of(cache)[which]
    data = path.read_bytes()
    path.write_bytes(data[:-lost])
    torch.testing.assert_close(cache.table(Spec(), Linear(), TEXTS)[range(5)], right)
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(flipped)
    torch.testing.assert_close(cache.table(Spec(), Linear(), TEXTS)[range(5)], right)


@pytest.mark.parametrize("lost", [1, 36, 100])
def test_mending_a_store_leaves_what_a_training_has_mapped(cache, lost):
    """A file that shrinks under a memory map ends the process that reads it (SIGBUS)."""
    running = cache.table(Spec(), Linear(), TEXTS)
    right = running[range(5)].clone()
    features, keys = files_of(cache)
    size = features.stat().st_size
    keys.write_bytes(keys.read_bytes()[:-lost])
    again = cache.table(Spec(), Linear(), [*TEXTS, "deaf", "cafe"])
    assert features.stat().st_size > size
    assert torch.equal(running[range(5)], right)
    torch.testing.assert_close(again[range(5)], right)


def test_preprocessing_that_cannot_be_told_apart_is_not_cached(cache):
    def letters(samples):  # its repr is an address
        return Letters()(samples)

    module = Linear()
    module.preprocess = letters
    with pytest.raises(DataError, match=r"cannot be cached.*training.cache: off"):
        cache.table(Spec(), module, TEXTS)


def test_the_fingerprint_is_over_names_shapes_and_bytes():
    module = nn.Linear(2, 1)
    expected = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        expected.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        expected.update(tensor.numpy().tobytes())
    assert weights_fingerprint(module) == expected.hexdigest()


def test_palette_pictures_are_told_apart_by_what_one_sees():
    red, blue = (Image.new("P", (4, 4)) for _ in range(2))
    red.putpalette([255, 0, 0])
    blue.putpalette([0, 0, 255])
    assert sample_key(red, "image") != sample_key(blue, "image")


def test_edited_code_misses(cache, tmp_path, monkeypatch):
    source = "from tests.test_feature_cache import *\nclass Own(Linear):\n    pass\n"
    (tmp_path / "own_encoder.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import own_encoder

    before = cache.table(Spec(), own_encoder.Own(), TEXTS)[range(5)]
    (tmp_path / "own_encoder.py").write_text(source + "EDITED = 1\n")
    module = own_encoder.Own()
    cache.table(Spec(), module, TEXTS)
    assert encoded(module) == sorted(set(TEXTS))
    torch.testing.assert_close(cache.table(Spec(), module, TEXTS)[range(5)], before)


def test_a_wrong_out_dim_is_one_line_and_nothing_is_kept(cache):
    module = Linear()
    module.out_dim = 4
    said = r"Linear with out_dim 4 gave torch.float32 of shape \(8, 3\) for 8"
    with pytest.raises(DataError, match=said):
        cache.table(Spec(), module, TEXTS)


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda x: {"features": x}, "Linear with out_dim 3 gave a dict"),
        (lambda x: x.to(torch.complex64), "gave torch.complex64 of shape"),
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_one_line(give, said, cache):
    module = Linear()
    module.register_forward_hook(lambda *given: give(given[-1]))
    with pytest.raises(DataError, match=said):
        cache.table(Spec(), module, TEXTS)


@pytest.mark.parametrize("rows", [1, 9])
def test_another_number_of_rows_than_samples_is_one_line(cache, rows):
    class Other(Linear):
        def forward(self, counts):
            return super().forward(counts[:1].expand(rows, -1))

    with pytest.raises(DataError, match=rf"float32 of shape \({rows}, 3\) for 8 samples"):
        cache.table(Spec(), Other(), TEXTS)


def test_what_is_packed_is_not_repeated(cache):
    class Packed(Letters):
        def __call__(self, samples):
            lengths = [len(sample) for sample in samples]
            return super().__call__(samples) | {"ends": torch.tensor([0, *lengths]).cumsum(0)}

    class Reads(Linear):
        def forward(self, counts, ends):
            assert len(ends) == len(counts) + 1
            return super().forward(counts)

    module = Reads()
    module.preprocess = Packed()
    right = FeatureCache(cache.folder / "right").table(Spec(), Linear(), ["abc"])[[0]]
    assert torch.allclose(cache.table(Spec(), module, ["abc"])[[0]], right)


def test_of_two_rows_for_a_sample_the_first_is_read(cache):
    module = Linear()
    first = cache.table(Spec(), module, TEXTS)[range(5)]
    features, keys = files_of(cache)
    raw = keys.read_bytes()
    keys.write_bytes(raw + raw[:36])  # another process encoded the first sample too
    changed = np.frombuffer(features.read_bytes()[:12], np.float32) + 1
    features.write_bytes(features.read_bytes() + changed.tobytes())
    assert torch.equal(cache.table(Spec(), module, TEXTS)[range(5)], first)


def test_features_that_are_not_finite_are_a_bad_sample_and_not_kept(cache):
    class Faulty(Linear):
        def forward(self, counts):
            features = super().forward(counts)
            return features.where(counts[:, :1] < 2, torch.nan)  # of texts with two a

    said = {}
    table = cache.table(Spec(), Faulty(), ["abc", "aab", "bed"], on_bad=said.__setitem__)
    assert table.good.tolist() == [True, False, True]
    assert "its features are not finite" in said[1]
    with pytest.raises(BadSample, match="sample 1 of 3: its features are not finite"):
        cache.table(Spec(), Faulty(), ["abc", "aab", "bed"])


@pytest.mark.parametrize(
    "obstacle",
    ["a file", "read-only rows", "locked", "no home", "an address", "unreadable", *PIPES],
)
def test_without_a_cache_that_can_be_written_features_are_computed(
    tmp_path, obstacle, monkeypatch, capsys
):
    module, place = Linear(), tmp_path / "cache"
    right = FeatureCache(tmp_path / "right").table(Spec(), module, TEXTS)[range(5)]
    if obstacle == "a file":
        place.write_text("in the way")
    elif obstacle == "read-only rows":
        FeatureCache(place).table(Spec(), module, ["abc", "old"])
        monkeypatch.setattr(Store, "append", refuse)
    elif obstacle == "locked":  # by a process that was stopped
        FeatureCache(place).table(Spec(), module, ["old"])
        monkeypatch.setattr(store, "PATIENCE", 0.0)
        held = FileLock(next(place.rglob("lock")))
        held.acquire()
    elif obstacle == "unreadable":
        monkeypatch.setattr(Store, "find", refuse)
    elif obstacle.endswith(".bin"):
        FeatureCache(place).table(Spec(), module, ["old"])
        path = next(place.rglob(obstacle))
        path.unlink()
        os.mkfifo(path)
    monkeypatch.setenv("CONTRASTIVE_CACHE", "s3://b/cache" if obstacle == "an address" else "")
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where no user is known
    cache = FeatureCache(None if obstacle in ("no home", "an address") else place)
    tell_once.cache_clear()
    module.preprocess.seen.clear()
    table = cache.table(Spec(), module, [*TEXTS, "no!"], on_bad=lambda *_: None)
    assert torch.equal(table[range(5)], right)
    assert table.good.tolist() == [True] * 5 + [False]
    assert ("abc" in module.preprocess.seen) == (obstacle != "read-only rows")
    cache.table(Spec(), module, TEXTS)
    if obstacle not in ("no home", "an address"):
        assert capsys.readouterr().err.count("CONTRASTIVE_CACHE") == 1, "told once"


def refuse(self, *_):
    raise PermissionError(13, "Permission denied", str(self.folder / "lock"))


@pytest.mark.parametrize(
    ("spec", "samples"),
    [
        (TextTransformer(width=64, depth=1, heads=4), ["ab " * n for n in range(1, 20)]),
        (ViT(image_size=64, width=192, depth=1, heads=3), range(19)),
    ],
)
def test_a_samples_last_bits_do_not_depend_on_what_is_encoded_beside_it(tmp_path, spec, samples):
    if spec.modality == "image":
        noise = np.random.default_rng(0).integers(0, 256, (19, 64, 64, 3), np.uint8)
        samples = [Image.fromarray(noise[i]) for i in samples]
    torch.manual_seed(0)
    module = spec.build()
    whole = FeatureCache(tmp_path / "whole").table(spec, module, samples)[range(19)]
    cache = FeatureCache(tmp_path / "parts")
    for part in (samples[4:7], samples[:1], samples[9:17:3]):
        cache.table(spec, module, part)
    assert torch.equal(cache.table(spec, module, samples)[range(19)], whole)
