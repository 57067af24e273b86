"""The splits of somebody else's dataset, under any name, go right through the command line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contrastive.datasets import datasets
from contrastive.errors import UnknownSplit
from contrastive.interface import Dataset
from contrastive.reporting.run_log import read_log
from tests.toys import tiny_model

pytestmark = pytest.mark.slow

NAMED = ("training.split=fit", "evaluation.split=check", "evaluation.final_split=final")


class Shelf(Dataset):
    """Noise, in splits of any name."""

    names: tuple[str, ...] = ("fit", "check", "final")
    empty: tuple[str, ...] = ()
    form: str = "list"
    unknown: str = "told"

    def build(self, split: str, *, purpose: str = "evaluation") -> Any:
        rows: list[dict[str, Any]] = []
        for name in split.split("+"):
            if name not in self.names:
                if self.unknown == "None":
                    return None
                if self.unknown == "told":
                    there = ", ".join(self.names)
                    raise UnknownSplit(f"shelf: no split {name!r}; there are: {there}")
            elif name not in self.empty:
                rows += self.rows(self.names.index(name))
        return {"list": list, "tuple": tuple, "generator": iter}[self.form](rows)

    def rows(self, number: int):
        noise = np.random.default_rng(number)
        for i in range(100 * number, 100 * number + 12):
            image = Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            yield {"image": image, "text": f"thing {i}", "id": i, "source": f"thing {i}"}


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """Train on a shelf by the command line: ``run(*overrides, **fields of the shelf)``."""
    monkeypatch.chdir(tmp_path)
    datasets.register("shelf")(Shelf)

    def train(*overrides, **fields):
        training = {"epochs": 2, "batch_size": 8, "workers": 0, "device": "cpu"}
        data = {"type": "shelf"} | fields
        spec = {"model": tiny_model("infonce"), "data": data, "training": training}
        (tmp_path / "s.json").write_text(json.dumps(spec))
        return command("train", "s.json", "--output", "run", *overrides)

    return train


def measured(command, *more):
    ended = command("evaluate", "--model", "run", "--json", *more)
    assert ended.code == 0, ended.err
    return json.loads(ended.out)["split"]


@pytest.mark.parametrize("form", ["list", "tuple", "generator"])
def test_splits_are_trained_on_and_measured_by_their_own_names(run, command, form, tmp_path):
    ended = run(*NAMED, form=form)
    assert ended.code == 0, ended.err
    log = [x["evaluation"] for x in read_log(tmp_path / "run" / "log.jsonl") if "evaluation" in x]
    assert [each["split"] for each in log] == ["check", "check"]
    assert measured(command) == "final"
    assert measured(command, "--split", "check+final") == "check+final"
    assert measured(command, "--data", "type=shelf") == "final"
    assert measured(command, "--data", "s.json", "--split", "final") == "final"
    refused = command("evaluate", "--model", "run", "--split", "fit")
    assert "split 'fit' shares 12 of 12 image rows with the training split" in refused.err


def test_a_split_that_is_not_there_is_told_with_what_chooses_one(run, command):
    there = "shelf: no split {!r}; there are: fit, check, final"
    ended = run()
    assert (ended.code, ended.err) == (
        2,
        f"{there.format('train')}; choose one by training.split\n",
    )
    ended = run("training.split=fit")
    unmeasured = "set evaluation.split, or null to measure nothing after an epoch"
    assert (ended.code, ended.err) == (2, f"{there.format('val')}; {unmeasured}\n")
    assert run("training.split=fit", "evaluation.split=null").code == 0
    ended = command("evaluate", "--model", "run")
    assert (ended.code, ended.err) == (2, f"{there.format('test')}; choose one by --split\n")
    assert measured(command, "--split", "check") == "check"


def test_an_empty_split_is_told_with_what_chooses_another(run, command):
    assert run(*NAMED, empty=["fit"]).err == (
        "split 'fit' has 0 usable rows; training needs two; choose a split by training.split\n"
    )
    ended = run(*NAMED, empty=["check"])
    assert ended.err.endswith(
        "split 'check' is empty; measure a split that has rows; set evaluation.split, or null to "
        "measure nothing after an epoch\n"
    )
    assert run(*NAMED, "evaluation.split=null", empty=["check", "final"]).code == 0
    ended = command("evaluate", "--model", "run")
    assert (ended.code, ended.err) == (2, "split 'final' is empty; measure a split that has rows\n")


def test_a_dataset_that_returns_nothing_is_not_taken_for_one_without_measurements(run):
    ended = run("training.split=fit", unknown="None")
    assert ended.code == 2
    assert "Shelf: a NoneType holds no rows of data; give a built dataset, or" in ended.err
    assert ended.err.endswith("set evaluation.split, or null to measure nothing after an epoch\n")
