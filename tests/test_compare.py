"""Models side by side: each one's own answers and figures, and no figures on what it has seen."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from PIL import Image

from contrastive import RunSpec, build_model, classify, load_model
from contrastive.errors import BadSample, DataError, SpecError
from contrastive.evaluation.comparison import compare, compare_retrieval
from contrastive.evaluation.evaluate import evaluate
from contrastive.prompts import TEMPLATES
from contrastive.reporting.plots import draw_comparison
from contrastive.training.train import train
from tests.duals import save_clip
from tests.miniature import Picture
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

CLASSES = ["red circle", "blue square", "green cross"]
ASKED = ("--classes", ", ".join(CLASSES))
PAIR = ("runs/a", "hf:./clip")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Return a folder with a run, a saved model without one, a tiny CLIP, and images."""
    shop = tmp_path_factory.mktemp("shop")
    spec = toy_dict(shop / "data", epochs=1, cache="off")
    spec["evaluation"] = {"split": None}
    train(RunSpec.model_validate(spec), shop / "runs" / "a")
    torch.manual_seed(1)
    spec["model"]["loss"]["temperature"] = 0.01
    build_model(spec).save(shop / "bare")
    torch.manual_seed(0)
    save_clip(shop / "clip")
    (shop / "pictures").mkdir()
    for number in range(4):
        Picture(7 * number).draw().save(shop / "pictures" / f"{number}.png")
    (shop / "toy.yaml").write_text(json.dumps(spec))
    return shop


@pytest.fixture(scope="module")
def models(shop):
    return {
        "ours": load_model(shop / "runs" / "a"),
        "theirs": load_model(f"hf:{shop / 'clip'}"),
    }


@pytest.fixture(scope="module")
def paths(shop):
    return sorted((shop / "pictures").iterdir())


@pytest.fixture(scope="module")
def data(shop):
    return RunSpec.model_validate(toy_dict(shop / "data")).data


@pytest.fixture
def here(shop, monkeypatch):
    monkeypatch.chdir(shop)
    return shop


def result(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out)


@pytest.mark.parametrize("templates", [TEMPLATES, ["{} on white"]])
def test_every_model_answers_as_it_does_alone_in_the_same_words(models, paths, templates):
    found = compare(models, paths, CLASSES, templates=templates)
    assert list(found.probabilities) == ["ours", "theirs"]
    answers = []
    for name, model in models.items():
        alone = classify(model, paths, CLASSES, templates=templates)
        assert torch.equal(found.probabilities[name], alone)
        answers.append([CLASSES[i] for i in alone.argmax(1)])
        assert [top for top, _ in found.top(name)] == answers[-1]
        assert [p for _, p in found.top(name)] == pytest.approx(alone.amax(1).tolist())
    assert found.agreed == sum(a == b for a, b in zip(*answers, strict=True))
    assert found.templates == tuple(templates)


def test_a_model_agrees_with_itself_and_with_no_picture_there_is_nothing_to_agree_on(models, paths):
    twins = {"one": models["ours"], "other": models["ours"], "third": models["ours"]}
    assert compare(twins, paths, CLASSES).agreed == len(paths)
    assert compare(twins, [], CLASSES).agreed == 0


def test_a_picture_without_a_path_has_a_number(models, paths):
    found = compare(models, [paths[0], paths[1].read_bytes(), Picture(3).draw()], CLASSES)
    names = [image["image"] for image in found.as_dict()["images"]]
    assert names == [str(paths[0]), "image 1", "image 2"]
    one = compare(models, paths[0], CLASSES).as_dict()["images"]
    assert [image["image"] for image in one] == [str(paths[0])]


def test_one_model_is_not_compared(models, paths, data):
    one = {"ours": models["ours"]}
    with pytest.raises(SpecError, match="at least two models"):
        compare(one, paths, CLASSES)
    with pytest.raises(SpecError, match="at least two models"):
        compare_retrieval(one, data.build("test"))


def test_retrieval_is_that_of_each_model_alone(models, data):
    found = compare_retrieval(models, data.build("test"), split="test")
    for name, model in models.items():
        assert found[name].report == evaluate(model, data.build("test"), split="test")
    assert [one.held_out for one in found.values()] == ["yes", "not known"]


def test_a_model_has_no_figures_on_what_it_was_trained_on_and_others_have(models, data):
    found = compare_retrieval(models, data.build("train"), split="train")
    assert found["ours"].report is None
    assert found["ours"].held_out == "no"
    assert "shares 160 of 160 image rows" in found["ours"].refusal
    with pytest.raises(DataError, match=r"^this data shares 160 of 160 image rows"):
        evaluate(models["ours"], data.build("train"))  # nobody said what it is called
    assert found["theirs"].report == evaluate(models["theirs"], data.build("train"), split="train")


def test_an_empty_split_is_refused_rather_than_taken_for_a_seen_one(models):
    with pytest.raises(DataError, match="split 'test' is empty"):
        compare_retrieval(models, [], split="test")


def test_the_command_has_answers_and_retrieval(here, models, command):
    found = result(
        command(
            *("compare", *PAIR, "--images", "pictures", *ASKED),
            *("--template", "a {}", "--json"),
        )
    )
    assert found["templates"] == ["a {}"]
    assert [one["image"] for one in found["images"]] == [f"pictures/{i}.png" for i in range(4)]
    for number, one in enumerate(found["images"]):
        assert list(one["probabilities"]) == [*PAIR]
        for name, model in zip(PAIR, models.values(), strict=True):
            alone = classify(model, f"pictures/{number}.png", CLASSES, templates=["a {}"])
            assert list(one["probabilities"][name]) == CLASSES
            shown = list(one["probabilities"][name].values())
            assert shown == pytest.approx(alone[0].tolist(), abs=1e-6)
    assert found["retrieval"]["split"] == "test"
    ours, theirs = found["retrieval"]["models"].values()
    assert (ours["held_out"], theirs["held_out"]) == ("yes", "not known")
    figure = ours["report"]["retrieval"]["text_to_image"]["recall"]["1"]
    assert figure["low"] <= figure["value"] <= figure["high"]


def test_the_command_shows_tables_and_says_who_was_trained_on_the_split(here, command):
    shown = command("compare", *PAIR, "--split", "train")
    assert shown.code == 3, "those who were trained on it are not measured"
    assert "runs/a: split 'train' shares 160 of 160 image rows" in shown.err
    assert "no: trained on it" in shown.out
    assert "not known" in shown.out
    several = ("--images", "pictures/0.png", "--images", "pictures/1.png")
    shown = command("compare", *PAIR, "bare", *several, *ASKED).out
    assert "of 2 images" in shown
    assert "1.png" in shown
    assert "retrieval on test" in shown


def test_models_without_data_compare_pictures_or_the_data_of_a_spec(here, command):
    pair = ("hf:./clip", "bare")
    assert "retrieval" not in result(
        command("compare", *pair, "--images", "pictures/0.png", *ASKED, "--json")
    )
    found = result(command("compare", *pair, "--data", "toy.yaml", "--split", "val", "--json"))
    assert found["retrieval"]["split"] == "val"
    assert "images" not in found


def test_data_with_classes_have_an_accuracy_of_each_model(here, command):
    rows = [f"{i}.png,a {Picture(7 * i).shape},{Picture(7 * i).shape},test" for i in range(4)]
    (here / "captions.csv").write_text("\n".join(["image,text,label,split", *rows]))
    spec = toy_dict(here / "data")
    data = {"type": "image-folder", "folder": "pictures", "captions": str(here / "captions.csv")}
    spec["data"] = data
    (here / "labelled.yaml").write_text(json.dumps(spec))
    asked = ("compare", "bare", "hf:./clip", "--data", "labelled.yaml")
    for one in result(command(*asked, "--json"))["retrieval"]["models"].values():
        assert one["report"]["classification"]["images"] == 4
    assert "majority class" in command(*asked).out


def test_the_run_may_come_second(here, command):
    found = result(command("compare", "bare", "runs/a", "--json"))
    assert list(found["retrieval"]["models"]) == ["bare", "runs/a"]


def test_pictures_are_compared_even_if_the_data_are_gone(here, monkeypatch, command):
    (here / "data").rename(here / "moved")
    try:
        ended = command("compare", *PAIR, "--images", "pictures/0.png", *ASKED)
        assert ended.code == 3
        assert "retrieval is not measured: " in ended.err
        assert "of 1 images" in ended.out
        asked_for = command("compare", *PAIR, "--images", "pictures", *ASKED, "--split", "test")
        assert asked_for.code == 2
    finally:
        (here / "moved").rename(here / "data")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("runs/a",), "give at least two models"),
        (("runs/a", "runs/a"), "each once"),
        ((*PAIR, "--images", "pictures"), "--images without --classes"),
        ((*PAIR, *ASKED), "--classes without --images"),
        ((*PAIR, "--plot", "out.png"), "give --images and --classes"),
        (("bare", "hf:./clip"), "bare: holds a model without data; give --data"),
        ((*PAIR, "--images", "nonesuch.png", *ASKED), "nonesuch.png: cannot be read: No such file"),
        ((*PAIR, "--images", "pictures", "--classes", "a,a"), "class 'a' is given twice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(here, command, given, said):
    ended = command("compare", *given)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert ended.err.count("\n") == 1


def test_the_picture_shows_every_image_and_names_that_would_be_markup(models, paths, tmp_path):
    pytest.importorskip("matplotlib")
    odd = {"_ours $x^{": models["ours"], "theirs/" * 20: models["theirs"]}
    classes = ["$5 and ${", "_", "a" * 200, *(f"name {i}" for i in range(9))]
    sizes = []
    for images in (paths[:1], paths):
        draw_comparison(compare(odd, images, classes), tmp_path / "side.png")
        with Image.open(tmp_path / "side.png") as drawn:
            assert drawn.format == "PNG"
            sizes.append(drawn.height)
    assert sizes[1] == pytest.approx(4 * sizes[0], abs=4)
    with pytest.raises(DataError, match="no images to draw"):
        draw_comparison(compare(models, [], classes), tmp_path / "none.png")


def test_the_command_draws(here, command, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    picture = tmp_path / "side.png"
    asked = ("--images", "pictures", *ASKED, "--plot", picture)
    with matplotlib.rc_context({"text.usetex": True}):  # as a matplotlibrc may say, without LaTeX
        ended = command("compare", *PAIR, *asked)
    assert f"drawn: {picture}\n" in ended.err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_is_refused_before_anything_is_computed_without_matplotlib(
    here, command, monkeypatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = ("--images", "pictures", *ASKED, "--plot", "side.png")
    ended = command("compare", *PAIR, *asked)
    assert ended.code == 2
    assert 'pip install "contrastive-kit[report]"' in ended.err


def test_a_broken_picture_is_named(models, tmp_path):
    (tmp_path / "text.jpg").write_text("a cat")
    with pytest.raises(BadSample, match=r"text\.jpg: not a readable"):
        compare(models, tmp_path / "text.jpg", CLASSES)
