"""Several datasets at once: what each batch has is a function of the step, and all rows come."""

import json
import shutil
from fractions import Fraction
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contrastive import RunSpec, build_model, train
from contrastive.data.columns import Columns, ids_of, values_of
from contrastive.data.content_hash import sample_keys
from contrastive.data.row_order import order_of
from contrastive.data.samples import check_modalities, rows_of
from contrastive.datasets import Dataset, Mix, datasets
from contrastive.datasets.miniature import write_class_folders, write_image_folder
from contrastive.datasets.mix.order import interleaved, rows_before, shares_of
from contrastive.distributed.ranks import Ranks
from contrastive.errors import DataError, EmptySplit, SpecError, UnknownSplit
from contrastive.training.batches import TrainingBatches
from tests.miniature import write_flickr30k
from tests.toys import tiny_model

WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=6)


class Words(Dataset):
    """Rows of one word each."""

    words: list[str]
    ids: list[int | str] | None = None

    def build(self, split, *, purpose="evaluation"):
        if split not in ("train", "test"):
            raise UnknownSplit(f"words: no split {split!r}; there are: 'train', 'test'")
        rows = [{"text": w, "id": i, "source": f"w:{i}"} for i, w in enumerate(self.words)]
        return [row | {"id": self.ids[i]} for i, row in enumerate(rows)] if self.ids else rows


def words(name, count):
    return Words(words=[f"{name}{i}" for i in range(count)])


def mix_of(sizes, **fields):
    return Mix(datasets={name: words(name, size) for name, size in sizes.items()}, **fields)


def epoch(samples, number, *, seed=0, count=None):
    rows = np.arange(len(samples))
    found = order_of(samples).of_epoch(rows, seed=seed, epoch=number, count=count or len(rows))
    return values_of(samples, "text"), found


def texts(samples, number, **how):
    held, found = epoch(samples, number, **how)
    return [held[i] for i in found.rows_U.tolist()]


def by_loops(weights, count):
    """Return whose each row is: that of the dataset whose next one is due first."""
    had, order = [0] * len(weights), []
    for _ in range(count):
        due = [
            (Fraction(2 * len(weights) * had[d] + 2 * d + 1, w), d) for d, w in enumerate(weights)
        ]
        order.append(min(due)[1])
        had[order[-1]] += 1
    return order, had


@settings(deadline=None)
@given(weights=WEIGHTS, cuts=st.lists(st.integers(0, 300), min_size=2, max_size=5))
def test_each_dataset_has_its_share_of_any_number_of_rows_wherever_they_begin(weights, cuts):
    cuts = sorted(cuts)
    share_D = shares_of(weights)
    order, had = by_loops(weights, cuts[-1])
    which = [interleaved(share_D, a, b)[0] for a, b in zip([0, *cuts], cuts, strict=False)]
    # shares are floats: what is due at one time may come in another order, but in the same number
    assert [*np.bincount(np.concatenate(which), minlength=len(had))] == [
        *rows_before(share_D, cuts[-1])
    ]
    bound = 1 + share_D * len(weights) / 2
    for n in cuts:
        found = rows_before(share_D, n)
        assert found.sum() == n
        assert (abs(found - np.bincount(order[:n], minlength=len(had))) <= 1).all()
        assert (abs(found - share_D * n) <= bound).all()
    numbers = [interleaved(share_D, a, b) for a, b in zip([0, *cuts], cuts, strict=False)]
    for d in range(len(weights)):
        own = np.concatenate([number[part == d] for part, number in numbers])
        assert own.tolist() == [*range(len(own))]


def test_a_batch_has_what_the_weights_say_and_every_row_comes_once_a_pass():
    samples = mix_of({"a": 40, "b": 10, "c": 30}, weights={"a": 2, "b": 1, "c": 1}).build("train")
    stream = [text for number in range(3) for text in texts(samples, number)]
    assert len(stream) == 240
    for first in range(0, 240, 8):  # a batch
        assert sorted(text[0] for text in stream[first : first + 8]) == [*"aaaabbcc"]
    for name, size in (("a", 40), ("b", 10), ("c", 30)):
        own = [text for text in stream if text[0] == name]
        passes = [own[i : i + size] for i in range(0, len(own) // size * size, size)]
        assert all(sorted(each) == sorted(passes[0]) for each in passes)
        assert len({tuple(each) for each in passes}) == len(passes) > 1
    _, found = epoch(samples, 1)
    assert found.passes_U.tolist() != [1] * 80
    assert texts(samples, 2, seed=1) != texts(samples, 2)


def test_a_dataset_comes_in_the_same_order_whatever_else_is_in_the_mix():
    def own(mix):
        return [text for text in texts(mix.build("train"), 0) if text[0] == "b"]

    alone = own(mix_of({"b": 10}))
    with_others = own(mix_of({"c": 30, "b": 10, "a": 20}, weights={"a": 1, "b": 1, "c": 1}))
    assert with_others[:10] == alone


def test_without_weights_each_row_is_as_likely_and_the_order_of_names_makes_no_difference():
    samples = mix_of({"b": 10, "a": 30}).build("train")
    assert sorted(texts(samples, 0)) == sorted(row["text"] for row in samples)
    assert texts(mix_of({"a": 30, "b": 10}).build("train"), 1) == texts(samples, 1)


def test_a_mix_in_a_mix_has_the_order_of_its_own():
    inner = mix_of({"x": 6, "y": 6}, weights={"x": 2, "y": 1})
    outer = Mix(datasets={"in": inner, "a": words("a", 12)})
    stream = texts(outer.build("train"), 0)
    inside = [text for text in stream if text[0] in "xy"]
    assert len(inside) == 12
    assert sum(text[0] == "x" for text in inside) == 8


def test_batches_are_the_same_for_any_ranks_and_workers_and_start(tmp_path, capsys):
    write_flickr30k(tmp_path / "flickr30k")
    write_image_folder(tmp_path / "shapes", images=12)
    model = tiny_model("infonce")
    model["towers"]["image"]["encoder"]["augment"] = "crop-flip"
    data = {
        "type": "mix",
        "datasets": {
            "flickr": {"type": "flickr30k", "folder": str(tmp_path / "flickr30k")},
            "shapes": {"type": "image-folder", "folder": str(tmp_path / "shapes")},
        },
        "weights": {"flickr": 1, "shapes": 2},
    }
    training = {"batch_size": 9, "accumulate": 2, "cache": "off", "epochs": 3}
    run = RunSpec.model_validate({"model": model, "data": data, "training": training})
    samples, built = run.data.build("train", purpose="training"), build_model(run.model)
    told = capsys.readouterr().err
    assert "flickr: 32 rows, 33.3% of each batch, read 0.75 times an epoch" in told

    def found(size, workers, start):
        settings = run.training.model_copy(update={"workers": workers})
        ranks = [
            TrainingBatches(samples, built, settings, Ranks(rank, size), cache=None)
            for rank in range(size)
        ]
        steps = 3 * ranks[0].steps_per_epoch
        for shards in zip(*(rank.iterate(start, steps) for rank in ranks), strict=True):
            images = [x for s in shards for x in s.inputs["image"][0].values()]
            yield [source for s in shards for source in s.sources], torch.cat(images)

    expected = [*found(1, 0, 0)]
    for sources, _ in expected:
        assert sum(source.startswith("flickr: ") for source in sources) == 3
    for size, workers, start in ((2, 0, 3), (1, 1, 4), (4, 0, 2)):
        for (sources, images), (same, as_one) in zip(
            found(size, workers, start), expected[2 * start :], strict=True
        ):
            assert sources == same
            assert torch.equal(images, as_one)


def test_a_run_on_a_mix_resumes_to_the_same_losses_from_other_folders(tmp_path):
    for name in ("a", "b"):
        write_image_folder(tmp_path / name, images=12)

    def spec(below):
        parts = {n: {"type": "image-folder", "folder": str(below / n)} for n in "ab"}
        return {
            "model": tiny_model("infonce"),
            "data": {"type": "mix", "datasets": parts, "weights": {"a": 3, "b": 1}},
            "training": {"batch_size": 8, "epochs": 2, "workers": 0, "checkpoint_every": 7},
            "evaluation": {"split": None},
        }

    def losses():
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    run = tmp_path / "run"
    train(spec(tmp_path), run)
    expected = losses()
    *_, older, newest = sorted((run / "checkpoints").iterdir())
    assert older.name == "step-00000014"  # within an epoch
    shutil.rmtree(run / "model")
    shutil.rmtree(newest)
    (tmp_path / "moved").mkdir()
    for name in ("a", "b"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    train(spec(tmp_path / "moved"), run, resume=True)
    assert losses() == expected


def test_ids_of_two_datasets_are_never_alike_unless_they_share_them():
    sizes = {"a": 3, "b": 3}
    own = ids_of(mix_of(sizes).build("train"))
    assert len(set(own.tolist())) == 6
    assert ids_of(mix_of(sizes, ids="shared").build("train")).tolist() == [0, 1, 2, 0, 1, 2]
    huge = Mix(
        datasets={
            "a": Words(words=["x", "y", "z"], ids=[2**62, -(2**62), 2**62]),
            "b": Words(words=["x", "y"], ids=["p", "q"]),
        }
    )
    ids = ids_of(huge.build("train")).tolist()
    assert ids[0] == ids[2]
    assert len(set(ids)) == 4


def test_rows_say_what_they_are_and_lack_what_their_dataset_lacks(tmp_path):
    write_class_folders(tmp_path / "classes", images=48)
    write_image_folder(tmp_path / "shapes", images=12)
    mix = Mix(
        datasets={
            "classes": {"type": "class-folders", "folder": str(tmp_path / "classes")},
            "shapes": {"type": "image-folder", "folder": str(tmp_path / "shapes")},
            "words": words("w", 2),
        }
    )
    samples = mix.build("train")
    parts = {name: rows_of(data.build("train")) for name, data in mix.datasets.items()}
    assert [row["source"] for row in samples] == [
        f"{name}: {row['source']}" for name, rows in parts.items() for row in rows
    ]
    as_they_were = [row for rows in parts.values() for row in rows]
    for row, before in zip(samples, as_they_were, strict=True):
        assert {**row, "id": 0, "source": 0} == {**before, "id": 0, "source": 0}
    assert samples.classes == ("circle", "cross", "square", "triangle")
    rest = samples.select(range(len(parts["classes"]), len(samples)))
    check_modalities(rest, ["text"])
    with pytest.raises(DataError, match=r"classes: .* has no text for towers.text, it has image"):
        check_modalities(samples, ["text"])
    shapes = samples.select(range(len(parts["classes"]), len(parts["classes"]) + 40))
    keys = sample_keys(values_of(shapes, "image"), "image")
    assert keys == sample_keys(values_of(parts["shapes"], "image"), "image")
    again = ForkingPickler.loads(ForkingPickler.dumps(samples))
    assert isinstance(again, Columns)
    assert again == samples


def test_a_split_that_a_dataset_lacks_is_told_or_refused(tmp_path, capsys):
    write_image_folder(tmp_path / "shapes", images=24)
    shapes = datasets["image-folder"](folder=tmp_path / "shapes")
    mix = Mix(datasets={"shapes": shapes, "words": words("w", 2)})
    assert len(mix.build("val")) == len(shapes.build("val"))
    assert "words: words: no split 'val'; there are: 'train', 'test'; the mix goes without it" in (
        capsys.readouterr().err
    )
    assert len(mix.build("val+test")) == len(shapes.build("val+test")) + 2
    assert "of 'val+test' it gives 'test'" in capsys.readouterr().err
    lines = datasets["lines"](file=tmp_path / "lines.txt", holdout=0)
    (tmp_path / "lines.txt").write_text("a dog\na cat\n")
    mix = Mix(datasets={"lines": lines, "words": words("w", 2)})
    assert len(mix.build("test")) == 2
    assert "no samples in split 'test'; the mix goes without it" in capsys.readouterr().err
    with pytest.raises(EmptySplit, match=r"lines: .*no samples in split 'test'"):
        mix.build("test", purpose="training")
    with pytest.raises(EmptySplit, match="lines"):
        mix.build("val", purpose="training")
    mix = Mix(datasets={"shapes": shapes, "words": words("w", 2)})
    with pytest.raises(UnknownSplit, match="words: words: no split 'val'"):
        mix.build("val", purpose="training")
    with pytest.raises(UnknownSplit, match=r"shapes: .*no split 'final'"):
        mix.build("final")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weights": {"a": 1}}, "'b' has no weight; give weights for: a, b"),
        ({"weights": {"a": 1, "b": 1, "c": 1}}, "'c' has a weight, but is no dataset"),
        ({"weights": {"a": 1, "b": 0}}, "weights.b: Input should be greater than 0"),
        ({"weights": {"a": 1, "b": float("inf")}}, "weights.b: Input should be a finite number"),
        ({"datasets": {}}, "datasets: Dictionary should have at least 1 item"),
        ({"datasets": {"a: b": words("a", 1)}}, "'a: b' is no name; use letters, digits"),
    ],
)
def test_a_mistake_in_a_mix_is_one_line(fields, said):
    with pytest.raises(SpecError, match=said):
        Mix(**{"datasets": {"a": words("a", 1), "b": words("b", 1)}, **fields})


def test_each_dataset_has_its_own_budget_of_bad_rows(tmp_path):
    for name in ("a", "b"):
        write_image_folder(tmp_path / name, images=12)
    folders = {n: {"type": "image-folder", "folder": str(tmp_path / n)} for n in "ab"}
    (tmp_path / "a" / "0.jpg").write_text("no image")
    with (tmp_path / "a" / "captions.csv").open("a") as file:
        file.write("gone.jpg,a dog,,train\n")
    folders["a"]["max_bad"] = 0.05
    samples = Mix(datasets=folders).build("train")
    assert samples.bad_rows.bad == 1
    assert samples.bad_rows.lines[0].startswith("a: captions.csv:")
    ledger = samples.bad_rows.copy()
    ledger.report("b: captions.csv:3", "is broken", rows=1)
    ledger.check(10**6)
    ledger.report("a: captions.csv:3", "is broken", rows=3)
    with pytest.raises(DataError, match=r"^a: 4 of 41 samples are bad, 3 may be"):
        ledger.check(10**6)
    samples.bad_rows.check(1)


def test_a_dataset_whose_rows_are_all_bad_is_told():
    samples = mix_of({"a": 4, "b": 2}).build("train")
    with pytest.raises(DataError, match="b: has no usable rows, but a share of each batch"):
        order_of(samples).of_epoch(np.arange(4), seed=0, epoch=0, count=4)


def test_the_rows_of_an_epoch_leave_out_bad_ones_of_a_dataset():
    samples = mix_of({"a": 4, "b": 4}).build("train")
    good = np.array([0, 2, 3, 5])
    found = order_of(samples).of_epoch(good, seed=0, epoch=0, count=4)
    assert sorted(found.rows_U.tolist()) == [0, 2, 3, 5]
