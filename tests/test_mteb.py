"""Tasks of mteb: its recall is ours; and what cannot be measured is said in a line."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from contrastive import build_model, load_model
from contrastive.errors import SpecError
from contrastive.evaluation.mteb_encoder import MtebEncoder
from contrastive.evaluation.mteb_tasks import names_of_tasks
from tests.miniature import write_flickr30k
from tests.pages import ROOT
from tests.toys import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what mteb imports
INSTALLED = importlib.util.find_spec("mteb") is not None
NAMES = ["plane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
by_mteb = pytest.mark.skipif(not INSTALLED, reason="mteb is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with Flickr30k's miniature, and models of both modalities and of texts."""
    place = tmp_path_factory.mktemp("place")
    write_flickr30k(place / "flickr30k", images=60)
    torch.manual_seed(0)
    spec = tiny_model("infonce")
    build_model(spec).save(place / "both")
    texts = {"towers": {"text": spec["towers"]["text"]}, "pairs": [("text", "text")]}
    build_model(spec | texts).save(place / "texts")
    return place


@pytest.fixture
def measured(command, place, monkeypatch):
    """Measure a model on tasks: ``measured("both", "STS12", ...) -> Outcome``."""
    monkeypatch.chdir(place)
    return lambda model, tasks, *more: command(
        "evaluate", "-m", model, "--mteb", tasks, "--device", "cpu", *more
    )


@pytest.fixture
def model(place):
    return load_model(place / "both")


def test_texts_images_and_both_are_embedded_as_by_the_model(model):
    images = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue", "white")]
    texts = ["red", "blue", "no colour"]
    encoder = MtebEncoder(model)
    by_text, by_image = model.embed("text", texts), model.embed("image", images)
    both = normalize((by_text + by_image) / 2, dim=1)
    for batches, expected in (
        ([{"text": texts[:2]}, {"text": texts[2:]}], by_text),
        ([{"image": images, "title": texts}], by_image),
        ([{"image": images[:1], "text": texts[:1]}], both[:1]),
        ([{"text": texts, "image": images}], both),
    ):
        found = torch.from_numpy(encoder.encode(batches, task_metadata=None, hf_split="test"))
        torch.testing.assert_close(found, expected)
    cosines = encoder.similarity(by_text.numpy(), by_image)
    torch.testing.assert_close(cosines, by_text @ by_image.T)
    torch.testing.assert_close(encoder.similarity_pairwise(by_text, by_image), cosines.diag())
    with pytest.raises(SpecError, match="the batch has audio, the model text, image; choose"):
        encoder.encode([{"audio": [0.0]}])


def test_a_revision_is_that_of_the_weights_and_of_the_spec(model, place):
    known = MtebEncoder(model).revision
    assert MtebEncoder(load_model(place / "both")).revision == known
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert MtebEncoder(model).revision != known
    resized = load_model(place / "both", overrides=["towers.image.encoder.image_size=16"])
    assert MtebEncoder(resized).revision != known


def test_names_are_joined_by_commas_but_for_those_in_brackets():
    found = names_of_tasks(["STS12, MTEB(eng, v2),data", "STS12", " MIEB(lite) ,"])
    assert found == ["STS12", "MTEB(eng, v2)", "data", "MIEB(lite)"]


@pytest.mark.parametrize(
    ("tasks", "more", "said"),
    [
        (" , ", [], "--mteb: is empty; give names of tasks, or data"),
        ("STS12", ["--split", "val"], "--split: mteb's tasks have data of their own; leave it"),
        ("STS12", ["--data", "flickr30k"], "--data: mteb's tasks have data of their own; leave it"),
        ("data", ["--clip-benchmark", "x"], "--clip-benchmark is not for --mteb; mteb's result"),
    ],
)
def test_options_that_do_not_go_together_are_told(tasks, more, said, measured):
    found = measured("both", tasks, *more)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert said in found.err


def test_the_data_of_a_model_of_texts_are_no_task(measured, command, place):
    found = measured("texts", "data", "--data", "lines.txt")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert "and the model has no tower for image; leave data out, and measure it by" in found.err
    (place / "lines.txt").write_text("one\tuno\ntwo\tdos\n")
    lines = "type=lines,file=lines.txt,holdout=0"
    told = command("evaluate", "-m", "texts", "--data", lines, "--split", "train")
    assert told.code == 0, told.err


def test_output_without_tasks_is_refused_and_without_mteb_its_extra_is_named(
    command, measured, monkeypatch
):
    found = command("evaluate", "-m", "both", "-o", "results")
    assert found.err.startswith("--output results: keeps the result files of --mteb alone")
    monkeypatch.setitem(sys.modules, "mteb", None)
    found = measured("both", "STS12")
    assert found.code == 2
    assert found.err == 'mteb is not installed; run: pip install "contrastive-kit[mteb]"\n'


def write_copy(place, task):
    """Write the data of a task of mteb as a copy of its repository, where mteb looks for one."""
    import datasets

    folder = place / task.metadata.dataset["path"] / "data"
    folder.mkdir(parents=True)
    if task.metadata.type == "STS":
        rows = {name: [f"{name} {i % 3}" for i in range(6)] for name in ("sentence1", "sentence2")}
        features = None
        rows["score"] = [0.5 * i for i in range(6)]
    else:
        rows = {"image": sorted(map(str, (place / "flickr30k").rglob("*.jpg")))[:20]}
        rows["label"] = [i % 10 for i in range(20)]
        label = datasets.ClassLabel(names=NAMES)
        features = datasets.Features({"image": datasets.Image(), "label": label})
    table = datasets.Dataset.from_dict(rows, features=features)
    table.to_parquet(folder / "test-00000-of-00001.parquet")


@by_mteb
def test_recall_with_ties_is_that_of_evaluate_and_mteb_reads_its_result_files(
    measured, command, place
):
    found = measured(
        "both", "data", "--data", "flickr30k", "--split", "train", "--json", "-o", "results"
    )
    assert found.code == 0, found.err
    report = json.loads(found.out)
    ours = command("evaluate", "-m", "both", "--data", "flickr30k", "--split", "train", "--json")
    retrieval = json.loads(ours.out)["retrieval"]
    ways = {"T2I": "text_to_image", "I2T": "image_to_text"}
    assert [score["task"] for score in report["scores"]] == [f"flickr30k-train-{w}" for w in ways]
    for score, way in zip(report["scores"], ways.values(), strict=True):
        expected = {k: recall["value"] for k, recall in retrieval[way]["recall"].items()}
        assert score["recall"] == pytest.approx(expected, abs=1e-6)
        assert 0 < score["recall"]["10"] < 1
        assert all(  # which ties do not lower, and which is rounded
            score["scores"][f"hit_rate_at_{k}"] >= value - 1e-5 for k, value in expected.items()
        )
    import mteb

    results = mteb.ResultCache(place / "results").load_results(
        tasks=[score["task"] for score in report["scores"]]
    )
    (kept,) = results.model_results
    assert (kept.model_name, kept.model_revision) == ("contrastive/both", report["revision"])
    assert len(kept.task_results) == 2


@by_mteb
def test_a_task_whose_data_are_not_there_is_told_and_measured_from_a_copy(measured, place, model):
    import mteb

    tasks = [mteb.get_task(name) for name in ("STL10ZeroShot", "STS12")]
    found = measured("both", "STL10ZeroShot")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert found.err.startswith("STL10ZeroShot: mteb/stl10 cannot be loaded from the Hugging Face ")
    assert found.err.endswith("; without a connection, a copy of it in ./mteb/stl10 is read\n")
    write_copy(place, tasks[0])
    found = measured("both", "STL10ZeroShot,STS12", "--json", "-o", "kept")
    assert found.code == 3
    assert "STS12: mteb/sts12-sts cannot be loaded" in found.err
    (score,) = json.loads(found.out)["scores"]
    images = sorted((place / "flickr30k").rglob("*.jpg"))[:20]
    by_image = model.embed("image", images)
    by_name = model.embed("text", [f"a photo of a {name}." for name in NAMES])
    guessed = (by_image @ by_name.T).argmax(1)
    accuracy = (guessed == torch.arange(20) % 10).float().mean().item()
    assert score["value"] == pytest.approx(accuracy, abs=1e-5)
    write_copy(place, tasks[1])
    found = measured("both", "STL10ZeroShot,STS12", "-o", "kept")
    assert found.code == 0
    assert "STL10ZeroShot: measured before with these weights, read from kept" in found.err
    assert "accuracy" in found.out
    assert "cosine_spearman" in found.out


@by_mteb
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ("Flickr30kT2IRetrieva", "no such task or benchmark; did you mean 'Flickr30kT2IRetrieval'"),
        ("mieb(lite)", "no such task or benchmark; did you mean 'MIEB(lite)'?"),
        ("zzzzzzzzzzzz", "no such task or benchmark; mteb.get_tasks() lists them"),
        ("STL10ZeroShot", "is of image, for which the model has no tower; choose tasks of what"),
        ("MIEB(Img)", "each of its tasks is of image, for which the model has no tower; choose"),
    ],
)
def test_a_task_that_is_not_there_or_needs_another_tower_is_told(tasks, said, measured):
    found = measured("texts", tasks)
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert found.err.startswith(f"--mteb {tasks}: ")
    assert said in found.err


@pytest.mark.nightly
@pytest.mark.skipif(INSTALLED, reason="the other tests ran with mteb")
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_these_tests_pass_in_an_environment_with_mteb(resolution, tmp_path):
    uv, python = Path(sys.executable).with_name("uv"), tmp_path / "env" / "bin" / "python"
    tools = ["hypothesis>=6.120", "pytest>=8.3", "pytest-benchmark>=5.1", "pytest-randomly>=3.16"]
    install = ("pip", "install", "--quiet", "--resolution", resolution, "--python", python)
    for words in (
        ("venv", "--quiet", "--python", sys.executable, tmp_path / "env"),
        (*install, f"{ROOT}[mteb,timm]", *tools),
    ):
        made = subprocess.run([uv, *map(str, words)], capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
    env = os.environ | {"HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    here = Path(__file__).relative_to(ROOT)
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", here],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "passed, 2 skipped" in ran.stdout  # this one alone
