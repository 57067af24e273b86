"""Each use in the README runs as it is written there, on a model like the demo's but smaller."""

from __future__ import annotations

import glob
import re
import runpy
import shlex
import sys

import pytest
import typer

from contrastive.cli.options import app
from contrastive.cli.verbs import add_verbs
from contrastive.evaluation import logistic
from tests.exports import here
from tests.pages import PAGES, ROOT, stood_in

SMALLER = [
    "model.towers.image.encoder={type: resnet, width: 4, image_size: 32}",
    "model.towers.text.encoder={type: cbow, width: 64}",
    "data={type: emoji, captions_per_image: 1, vendors: [google]}",
    "training.epochs=1",
    "training.workers=0",
]
PRINTED = {  # whatever the model has learned
    "search": r"│ 1 │ +-?\d\.\d{3} │",
    "classify": r"│ dog\.png +│ (animal|food|vehicle|flower|instrument) +│ +\d+\.\d% │",
    "caption": r"│ taxi\.png │ +-?\d\.\d{3} │ \S",
    "answer": r"│ rose\.png │ (red|blue|yellow) +│ +\d+\.\d% │",
    "export": r"^written: runs/emoji/images-anywhere$",
    "embed": r"^saved: runs/emoji/embedded$",
    "index": r"^runs/emoji/indexed: 6 image rows$",
    "generate": r"^saved: runs/emoji/heart\.png; cosine ",
    "train": r"^epoch 1: image to text R@1 ",
    "compare": r"^the models agree on [0-6] of 6 images",
    "probe": r"│ linear, all +│ 1031 +│",
    "compositional": r"│ pairs │ .* │ 50 +│ 6 +│",
    "calibrate": r"^image and text: expected calibration error \d\.\d{3} of 1,000 pairs ",
    "evaluate": r"^written: runs/emoji/clip_benchmark/emoji_test_\S*zeroshot_retrieval\.json$",
    "doctor": r"^runs/emoji: ",
}
ABOUT_SPECS = {
    "init",
    "validate",
    "schema",
    "data",
    "plugins",
    "cache",
    "serve",
}  # need no model, or go on


USES = stood_in()["README.md 1"]


def typed() -> list[list[str]]:
    lines = re.findall(r"^\$ contrastive (.*)$", USES.text, re.M)
    return [shlex.split(line) for line in lines]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """Run the demo in a folder that holds the examples, as a checkout does.

    What is exported is compared in this process.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRASTIVE_MODEL", "runs/emoji")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.setattr("contrastive.exporters.verification.compared", here)
    monkeypatch.setattr(sys, "argv", ["examples/emoji/demo.py", *SMALLER])
    runpy.run_path("examples/emoji/demo.py", run_name="__main__")


@pytest.mark.slow
def test_every_use_runs_from_its_line_on_the_model_of_the_demo(
    demo, command, monkeypatch, record_property
):
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(logistic, "ITERATIONS", 20)  # what is printed is not how good the fits are
    for verb, *words in typed():
        arguments = [path for word in words for path in sorted(glob.glob(word)) or [word]]  # noqa: PTH207
        if verb == "train":
            arguments += SMALLER
        elif verb == "probe":
            arguments += ["--seeds", "1"]
        ended = command(verb, *arguments)
        printed = f"{ended.err}{ended.out}"
        # the doctor may find something in so short a run, and says so by its exit code
        assert ended.code == 0 or (verb == "doctor" and ended.code == 1), f"{verb}: {printed}"
        assert re.search(PRINTED[verb], printed, re.M), f"{verb} {arguments}: {printed}"
    record_property("stand-in", f"{USES.where} ({USES.reason})")


def test_the_section_has_every_verb_that_uses_a_model():
    add_verbs()
    verbs = set(typer.main.get_command(app).commands)
    assert {verb for verb, *_ in typed()} == set(PRINTED) == verbs - ABOUT_SPECS


def test_the_readme_names_every_verb():
    text = PAGES[0].read_text(encoding="utf-8")
    named = set(re.findall(r"\bcontrastive ([a-z]+)", text))
    add_verbs()
    assert set(typer.main.get_command(app).commands) - named == set()
