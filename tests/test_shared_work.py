"""Ranks that share work: what each does, and how they end together."""

from typing import ClassVar

import pytest
import torch
from torch import nn

from contrastive import build_model
from contrastive.distributed import shared_work as module
from contrastive.distributed.collectives import LostRank
from contrastive.distributed.ranks import Ranks
from contrastive.distributed.shared_work import FailedRank, shared_work, work_shared_by
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample, DataError, TrainingError
from contrastive.features import cache as features
from contrastive.features.cache import FeatureCache
from contrastive.training.same_start import check_same_rows
from tests.ranks_as_threads import together
from tests.toys import tiny_model, write_noise


def steps(rank, fails, how):
    """Be a rank of two steps, at one of which a rank fails."""
    work = shared_work()
    for step in range(3):
        if fails.get(rank) == step:
            raise how
        if step < 2:
            assert work.all_gather(f"step {step}", (rank, step)) == [(0, step), (1, step)]
    return "done"


@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("how", [DataError("no disk"), ZeroDivisionError("by zero")])
def test_a_rank_that_fails_ends_all_with_one_line(monkeypatch, step, how):
    said = "no disk" if isinstance(how, DataError) else "ZeroDivisionError: by zero"
    main, other = together(monkeypatch, lambda rank: steps(rank, {1: step}, how))
    assert isinstance(main, FailedRank)
    assert str(main).startswith("rank 1: ")
    assert said in str(main)
    if isinstance(how, DataError):  # which the main rank tells
        assert isinstance(other, FailedRank)
    else:
        assert other is how, "its traceback is known here alone"

    main, other = together(monkeypatch, lambda rank: steps(rank, {0: step}, how))
    assert main is how
    assert isinstance(other, FailedRank)
    both = dict.fromkeys(range(2), step)
    main, other = together(monkeypatch, lambda rank: steps(rank, both, how))
    assert main is how
    assert isinstance(other, FailedRank), "told once"


def test_ranks_without_a_mistake_go_on_and_those_that_differ_are_told(monkeypatch):
    assert together(monkeypatch, lambda rank: steps(rank, {}, None)) == ["done", "done"]
    found = together(
        monkeypatch, lambda rank: rank and shared_work().all_gather(f"embeds {rank} texts", None)
    )
    assert {type(each) for each in found} == {FailedRank}
    assert str(found[0]) == (
        "the ranks have different data: rank 0 has done its part, rank 1 embeds 1 texts; the data "
        "have to be the same on every machine"
    )


def test_a_rank_that_is_gone_is_not_waited_for_again(monkeypatch):
    rounds = []

    def lost(*_):
        rounds.append(1)
        raise LostRank("another rank of this run has ended")

    monkeypatch.setattr(module, "all_gather_objects", lost)
    with pytest.raises(LostRank), work_shared_by(Ranks(0, 2)):
        shared_work().all_gather("embeds", None)
    assert len(rounds) == 1
    with pytest.raises(LostRank), work_shared_by(Ranks(0, 2)):
        pass
    with pytest.raises(LostRank), work_shared_by(Ranks(0, 2)):
        steps(0, {0: 0}, DataError("bad images"))


def another_file(rows):
    """Return rows of which the last image is another."""
    return [*rows[:-1], rows[-1] | {"image": rows[0]["image"]}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows, None),
        (lambda rows: rows[1:], "rank 0 has held-out rows: 3, rank 1 has 2"),
        (lambda rows: rows[::-1], "rank 0 has 3 held-out rows of SHA-256: '"),
        (another_file, "rank 0 has held-out image samples of SHA-256: '"),
    ],
)
def test_rows_of_evaluation_that_differ_between_ranks_are_refused(
    tmp_path, monkeypatch, change, said
):
    images = write_noise(tmp_path)
    rows = [{"image": x, "text": "a", "id": i, "source": f"{i}"} for i, x in enumerate(images)]

    def compared(rank):
        measured = change(rows) if rank else rows
        check_same_rows(shared_work().ranks, rows, measured, ["image", "text"])

    main, other = together(monkeypatch, compared)
    if said is None:
        assert (main, other) == (None, None)
        return
    assert type(main) is TrainingError
    assert said in str(main)
    assert isinstance(other, FailedRank), "told once"


class Count:
    """Numbers of letters, in rows of as many as a text has."""

    def __call__(self, samples):
        for sample in samples:
            if "!" in sample:
                raise BadSample(f"{sample!r}: shouts")
        return {"counts": torch.tensor([[[float(ord(c)) for c in s]] for s in samples])}

    def __repr__(self):
        return "Count()"


class Letters(EncoderModule):
    modality = "text"
    out_dim = 3

    def __init__(self):
        super().__init__()
        self.preprocess = Count()
        torch.manual_seed(0)
        self.layer = nn.Conv1d(1, 3, 1)

    def forward(self, counts):
        return self.layer(counts).sin().mean(-1)


class LettersSpec(Encoder):
    modality: ClassVar[str] = "text"

    def build(self):
        return Letters()


TEXTS = [f"{'abcdefgh'[i % 8] * (1 + i % 3)}{i}" for i in range(60)] + ["a0", "no!", "no!", "oh!"]


@pytest.fixture
def count_encoded(monkeypatch):
    """Count the samples that each module encodes."""
    monkeypatch.setattr(features, "check_foreign", lambda *_, **__: None)
    real, counts = features.run_encoder, {}

    def run_encoder(module, batch, **how):
        counts[module] = counts.get(module, 0) + len(batch.indices)
        return real(module, batch, **how)

    monkeypatch.setattr(features, "run_encoder", run_encoder)
    return counts


@pytest.mark.parametrize("folders", ["one", "two", "none", "filled"])
def test_ranks_encode_what_is_missing_once_and_have_all(
    tmp_path, monkeypatch, count_encoded, capsys, folders
):
    modules = [Letters() for _ in range(4)]

    def encoded(cache, samples=TEXTS):
        module, bad = modules.pop(), {}
        table = cache.table(LettersSpec(), module, samples, on_bad=bad.__setitem__)
        good = table.good.nonzero()[0]
        return table[good], good.tolist(), bad, count_encoded.get(module, 0)

    rows, good, bad, count = encoded(FeatureCache(tmp_path / "alone"))
    assert count == 60
    assert [*bad] == [61, 62, 63]
    shared = FeatureCache(tmp_path / "shared")
    caches = [shared, FeatureCache(tmp_path / "other") if folders == "two" else shared]
    if folders == "filled":
        encoded(shared, TEXTS[:40])
    if folders == "none":
        (tmp_path / "shared").touch()  # no folder can be made there
    capsys.readouterr()
    found = together(monkeypatch, lambda rank: encoded(caches[rank]))
    for each in found:
        assert torch.equal(each[0], rows), each
        assert each[1:3] == (good, bad)
    counts = [each[3] for each in found]
    told = capsys.readouterr().err
    if folders in ("two", "none"):
        assert counts == [60, 60]
        assert "31 text samples that other ranks have encoded are not in the cache of ra" in told
    else:
        assert sum(counts) == (20 if folders == "filled" else 60), "each once"
        assert max(counts) <= 32
        assert "other ranks" not in told


@pytest.mark.parametrize("frozen", ["none", "encoder"])
def test_ranks_embed_what_one_embeds(tmp_path, monkeypatch, frozen):
    images = write_noise(tmp_path, count=30)
    for i in (3, 20):
        images[i].write_bytes(b"no image")
    spec = tiny_model("infonce")
    spec["towers"]["image"]["frozen"] = frozen
    model = build_model(spec).eval()

    caches = [FeatureCache(tmp_path / name) for name in ("shared", "alone")]
    caches.insert(1, caches[0])

    def embedded(rank):
        bad = {}
        return model.embed("image", images, cache=caches[rank], on_bad=bad.__setitem__), bad

    alone, bad = embedded(2)
    assert [*bad] == [3, 20]
    for rows, told in together(monkeypatch, embedded):
        assert torch.equal(rows, alone)
        assert told == bad
        assert [*told] == [*bad]
