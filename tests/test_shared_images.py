"""Images that training and evaluation share, and images that are there under several names."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from contrastive import build_model, evaluate, probe
from contrastive.data.bad_rows import BadRows
from contrastive.data.samples import rows_of
from contrastive.datasets import ImageFolder
from contrastive.errors import DataError
from contrastive.evaluation.comparison import compare_retrieval
from contrastive.evaluation.leakage import content_keys, copies_in, seen_samples
from contrastive.interface import RowList
from tests.toys import tiny_model

pytestmark = pytest.mark.slow

MODEL = tiny_model("infonce")


def draw(path, shade):
    Image.new("RGB", (8, 8), (shade, 80, 80)).save(path)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """Return 12 images for training and 6 for val, of which 0 is a copy of one to train on.

    The images 0 and 1 of val are a group.
    """
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "shop"
    folder.mkdir()
    lines = ["image,text,split,group"]
    for i in range(12):
        draw(folder / f"train{i}.png", 10 * i)
        lines.append(f"train{i}.png,shade {i},train,")
    for i in range(6):
        draw(folder / f"val{i}.png", 0 if i == 0 else 10 * i + 5)
        lines += [f"val{i}.png,shade {i} {k},val,{'two' if i < 2 else ''}" for k in range(2)]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder


def trained_on(rows):
    model = build_model(MODEL)
    model.seen = seen_samples(content_keys(rows, ["image", "text"]))
    return model


def labels(rows):
    """Return rows, each of one of two classes, as a split."""
    named = [row | {"label": "ab"[i % 2]} for i, row in enumerate(rows)]
    return RowList(named, BadRows(), classes=("a", "b"))


def test_shared_rows_and_their_groups_are_dropped_counted_and_told(shop):
    data = ImageFolder(folder=shop)
    model, samples = trained_on(rows_of(data.build("train"))), data.build("val")
    with pytest.raises(
        DataError, match=r"shares 2 of 12 image rows .*; measure on a split .*"
    ) as e:
        evaluate(model, samples, split="val")
    assert "leave the shared rows out: evaluation.shared: drop (to measure: --shared drop)" in str(
        e.value
    )
    report = evaluate(model, samples, split="val", shared="drop")
    assert report.dropped == 4
    assert report.notes == [
        "4 of 12 rows are left out: the training split has their image, or that of another row of "
        "their group"
    ]
    others = rows_of(samples)[4:]
    assert evaluate(model, others).retrieval == report.retrieval
    unshared = evaluate(model, others, shared="drop")
    assert (unshared.dropped, unshared.notes) == (0, [])


def test_where_all_rows_are_shared_none_is_left_to_measure(shop):
    train = ImageFolder(folder=shop).build("train")
    for shared in ("refuse", "drop"):
        with pytest.raises(DataError, match=r"shares 12 of 12 image rows .* not seen$"):
            evaluate(trained_on(rows_of(train)), train, shared=shared)


def test_where_each_group_is_shared_that_is_said(shop):
    data = ImageFolder(folder=shop)
    rows = [row for row in rows_of(data.build("val")) if row["image"].stem in ("val0", "val1")]
    with pytest.raises(DataError, match="has no group of which the training split shares no row"):
        evaluate(trained_on(rows_of(data.build("train"))), rows, split="val", shared="drop")


def test_a_run_leaves_them_out_where_its_spec_or_the_command_says_so(shop, command):
    data = {"type": "image-folder", "folder": "shop"}
    run = {"model": MODEL, "data": data, "training": {"epochs": 1, "batch_size": 6, "workers": 0}}
    (shop.parent / "run.yaml").write_text(json.dumps(run))
    refused = command("train", "run.yaml")
    assert refused.code == 2
    assert "evaluation.shared: drop" in refused.err
    assert command("train", "run.yaml", "evaluation.shared=drop").code == 0
    lines = (shop.parent / "runs/run/log.jsonl").read_text().splitlines()
    log = [json.loads(line) for line in lines]
    assert [line["evaluation"]["dropped"] for line in log if "evaluation" in line] == [4]
    shown = command("evaluate", "--split", "val")
    assert "\n4 of 12 rows are left out: the training split has their image" in shown.out
    assert command("evaluate", "--split", "val", "--shared", "refuse").code == 2
    found = command("evaluate", "--data", "shop", "--split", "val", "--shared", "drop", "--json")
    assert json.loads(found.out)["dropped"] == 4


def test_a_probe_drops_what_the_model_and_what_the_probe_have_seen(shop):
    data = ImageFolder(folder=shop)
    train, test = labels(rows_of(data.build("train"))), rows_of(data.build("val"))[::2]
    model = trained_on(test[5:])
    for known in (test[:5], test[2:]):
        with pytest.raises(
            DataError, match=r"shares 1 of . image rows with .*measure: --shared drop\)"
        ):
            probe(model, train, labels(known), k=1)
    report = probe(model, train, labels(test), k=1, shared="drop")
    assert (report.dropped, report.test) == (3, 3)
    assert report.notes[0].startswith("3 of 6 rows are left out: the training split has their ")
    apart = probe(model, train, labels(test[2:5]), k=1, shared="drop")
    assert report.linear == apart.linear
    assert apart.notes == []


def test_models_are_compared_on_what_none_of_them_has_seen(shop):
    data = ImageFolder(folder=shop)
    rows = rows_of(data.build("val"))
    models = {"a": trained_on(rows[4:6]), "b": trained_on(rows[6:8]), "all": trained_on(rows)}
    assert not any(one.report for one in compare_retrieval(models, rows).values())
    found = compare_retrieval(models, rows, shared="drop")
    expected = evaluate(models["a"], [*rows[:4], *rows[8:]])
    assert found["a"].report.retrieval == expected.retrieval
    assert [found[name].report.dropped for name in "ab"] == [4, 4]
    assert found["b"].report.notes[0].startswith("4 of 12 rows are left out")
    assert found["all"].refusal
    halves = {"a": trained_on(rows[:6]), "b": trained_on(rows[6:])}
    with pytest.raises(DataError, match="has no group that none of the models has seen"):
        compare_retrieval(halves, rows, shared="drop")


def test_tests_of_captions_with_an_image_that_was_trained_on_are_dropped(shop, command):
    run = {"model": MODEL, "data": {"type": "image-folder", "folder": "shop"}}
    run["training"] = {"epochs": 1, "batch_size": 6, "workers": 0}
    run["evaluation"] = {"split": None, "shared": "drop"}
    (shop.parent / "run.yaml").write_text(json.dumps(run))
    assert command("train", "run.yaml").code == 0
    lines = [f"val{i}.png,shade {i},shade {i + 1}" for i in range(6)]
    (shop / "tests.csv").write_text("\n".join(["image,caption,negative_caption", *lines]))
    given = ("compositional", "shop/tests.csv", "--images", "shop")
    assert "--shared drop" in command(*given, "--shared", "refuse").err
    [found] = json.loads(command(*given, "--json").out)["pairs"]
    assert (found["tests"], found["dropped"]) == (5, 1)
    said = "tests: 1 of 6 tests are left out: the training split has an image"
    assert said in command(*given).out


@pytest.fixture
def copies(tmp_path):
    """Return 8 images under three names each, with a caption for each name."""
    lines = ["image,text"]
    for i in range(8):
        for name in "abc":
            draw(tmp_path / f"{name}{i}.png", 20 * i)
            lines.append(f"{name}{i}.png,{name} {i}")
    lines.append("nowhere.png,a")
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    return tmp_path


def test_copies_are_told_of_with_the_way_on(copies, monkeypatch, command):
    monkeypatch.chdir(copies)
    data = {"folder": ".", "holdout": 0, "max_bad": 0.1}
    run = {
        "model": MODEL,
        "data": {"type": "image-folder", **data},
        "training": {"epochs": 1, "batch_size": 6, "workers": 0},
        "evaluation": {"split": None},
    }
    (copies / "run.yaml").write_text(json.dumps(run))
    told = command("train", "run.yaml").err
    assert "16 of 24 image rows are copies of others with another id, which makes them neg" in told
    assert "captions.csv:2 and captions.csv:3 are equal; a column of groups gives copies" in told
    rows = rows_of(ImageFolder(**data, group_by="content").build("train"))
    assert copies_in(rows, content_keys(rows, ["image"])) == []


def test_by_content_copies_are_a_group_in_one_split(copies):
    config = ImageFolder(folder=copies, group_by="content", holdout=0.3, max_bad=0.1)
    splits = {name: rows_of(config.build(name)) for name in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == 24
    groups = {}
    for name, rows in splits.items():
        for row in rows:
            groups.setdefault(row["image"].name[1:], set()).add((name, row["id"]))
    assert all(len(group) == 1 for group in groups.values())
    assert len({id_ for group in groups.values() for _, id_ in group}) == 8
    by_name = ImageFolder(folder=copies, holdout=0, max_bad=0.1).build("train")
    assert len({row["id"] for row in rows_of(by_name)}) == 24
