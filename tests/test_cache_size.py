"""How large the feature cache may be, and what is not kept in it."""

import pytest
import torch

from contrastive import FeatureCache, answer, build_model, classify, list_cache, rerank, search
from contrastive.config.amounts import byte_count, seconds_of, shown_bytes
from contrastive.errors import SpecError
from contrastive.features import encoder_rows, size_bound
from contrastive.features import store as stores
from contrastive.features.encoder_rows import tell_once
from tests.test_feature_cache import TEXTS, Linear, Spec
from tests.toys import write_noise


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("contrastive.features.cache.check_foreign", lambda *_, **__: None)
    monkeypatch.setattr(size_bound, "LOOK_EVERY", 0.0)
    tell_once.cache_clear()


def sizes(folder):
    return [each.bytes for each in list_cache(folder).encoders]


def other():
    module = Linear()
    module.layer.weight.data += 1
    return module


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_beyond_the_bound_the_encoder_that_was_used_longest_ago_goes(
    tmp_path, capsys, monkeypatch, by
):
    FeatureCache(tmp_path).table(Spec(), Linear(), TEXTS)
    (one,) = sizes(tmp_path)
    most = one + 100
    if by == "variable":
        monkeypatch.setenv("CONTRASTIVE_CACHE_SIZE", str(most))
    cache = FeatureCache(tmp_path, max_size=None if by == "variable" else f"{most}B")
    FeatureCache(tmp_path, max_size=10**9).table(Spec(), other(), TEXTS[:1])
    assert len(sizes(tmp_path)) == 2
    table = cache.table(Spec(), other(), TEXTS)
    (left,) = sizes(tmp_path)
    assert left <= most
    assert "are deleted: the cache is larger than" in capsys.readouterr().err
    assert torch.equal(table[range(5)], cache.table(Spec(), other(), TEXTS)[range(5)])


def test_where_all_is_in_use_the_rest_is_held_in_memory_and_told(tmp_path, capsys):
    cache = FeatureCache(tmp_path, max_size=1)
    module = Linear()
    running = FeatureCache(tmp_path).table(Spec(), other(), TEXTS)
    right = running[range(5)].clone()
    table = cache.table(Spec(), module, TEXTS)
    expected = FeatureCache(tmp_path / "another").table(Spec(), module, TEXTS)
    assert torch.equal(table[range(5)], expected[range(5)])
    assert torch.equal(running[range(5)], right)
    said = capsys.readouterr().err
    assert said.count("raise CONTRASTIVE_CACHE_SIZE (or max_size)") == 1
    again = FeatureCache(tmp_path, max_size="1 MB").table(Spec(), module, TEXTS)  # as it says
    assert "CONTRASTIVE_CACHE_SIZE" not in capsys.readouterr().err
    assert torch.equal(again[range(5)], table[range(5)])
    assert [each.rows for each in list_cache(tmp_path).encoders] == [4, 4]


@pytest.mark.parametrize("given", ["much", -1, 1.5, True, "50 XB", "", "9" * 400])
def test_a_bound_that_is_no_size_is_one_line(given, tmp_path, monkeypatch):
    with pytest.raises(SpecError, match="give bytes, or a size such as 50GB"):
        FeatureCache(tmp_path, max_size=given)
    if given == "much":
        monkeypatch.setenv("CONTRASTIVE_CACHE_SIZE", given)
        with pytest.raises(SpecError, match=r"\$CONTRASTIVE_CACHE_SIZE is 'much'"):
            FeatureCache(tmp_path)
        monkeypatch.setenv("CONTRASTIVE_CACHE_SIZE", "50GB")
        assert FeatureCache(tmp_path).max_bytes == 50 * 10**9


def test_sizes_and_times_are_read_as_people_write_them():
    sizes = {
        "0": 0,
        "5": 5,
        "2kB": 2000,
        "1.5 GB": 1_500_000_000,
        "1GiB": 1 << 30,
        "3T": 3 * 10**12,
    }
    assert {text: byte_count("size", text) for text in sizes} == sizes
    times = {"30d": 30 * 86_400, "1.5h": 5400, "2 w": 14 * 86_400, "0s": 0}
    assert {text: seconds_of("age", text) for text in times} == times
    assert [shown_bytes(x) for x in (0, 999, 1500, 2_000_000)] == [
        "0 bytes", "999 bytes", "1.5 kB", "2.0 MB",
    ]  # fmt: skip


def test_what_the_disk_has_not_kept_for_sure_is_in_memory_when_a_flush_fails(
    tmp_path, monkeypatch, capsys
):
    right = FeatureCache(tmp_path / "right").table(Spec(), Linear(), TEXTS)[range(5)]
    cache = FeatureCache(tmp_path / "cache")

    def fails(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(stores.Store, "flush", fails)
    table = cache.table(Spec(), Linear(), TEXTS)
    assert torch.equal(table[range(5)], right)
    assert "Input/output error; these features are not kept" in capsys.readouterr().err
    assert not any(hasattr(part.base, "filename") for part in table.parts), "none is on the disk"


def test_what_is_asked_for_once_is_not_kept_and_what_is_kept_is_used(tmp_path, monkeypatch):
    torch.manual_seed(0)
    tower = {"head": {"type": "linear"}, "frozen": "encoder"}
    towers = {
        "image": tower | {"encoder": {"type": "resnet", "width": 8, "image_size": 32}},
        "text": tower | {"encoder": {"type": "cbow", "width": 16}},
    }
    loss = {"type": "infonce"}
    model = build_model({"embed_dim": 16, "towers": towers, "loss": loss}).eval()
    photos = write_noise(tmp_path)
    cache = FeatureCache(tmp_path / "cache")
    asked = {
        "search": lambda c: search(model, "a dog", images=photos, cache=c)[0].similarity,
        "classify": lambda c: classify(model, photos, ["dog", "cat"], cache=c).tolist(),
        "answer": lambda c: answer(model, photos, "what is it?", ["dog"], cache=c).tolist(),
        "rerank": lambda c: rerank(model, "a dog", photos, cache=c)[0].cosine,
    }
    for name, ask in asked.items():
        assert ask(cache) == ask(None), name
    (of_images,) = list_cache(tmp_path / "cache").encoders
    assert of_images.rows == len(photos)
    kept = model.embed("text", ["a photo of a dog"], cache=cache)
    counted, real = [], encoder_rows.EncoderRows.find

    def find(rows):
        real(rows)
        counted.append(int(rows.there().sum()))

    monkeypatch.setattr(encoder_rows.EncoderRows, "find", find)
    texts = cache.reading()
    asked_for = model.embed("text", ["a photo of a dog", "new"], cache=texts)
    assert counted[0] == 1
    assert torch.equal(asked_for[:1], kept)
    assert sum(each.rows for each in list_cache(tmp_path / "cache").encoders) == len(photos) + 1
