"""Template sets: the sentences that were published, found by name wherever templates are taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from contrastive import build_model, classify
from contrastive.errors import SpecError
from contrastive.prompts import SETS, TEMPLATES, templates
from contrastive.spec import EvaluationSpec
from tests.miniature import Picture
from tests.toys import toy_dict

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a model that has learned nothing, and two folders that hold it."""
    folder = tmp_path_factory.mktemp("models")
    model = build_model(toy_dict(folder / "flickr30k", images=4)["model"]).eval()
    for name in ("ours", "theirs"):
        model.save(folder / name)
    return model, folder / "ours", folder / "theirs"


@pytest.fixture
def picture(tmp_path):
    Picture(0).draw().save(tmp_path / "0.png")
    return tmp_path / "0.png"


def test_imagenets_are_the_eighty_of_clips_notebook():
    found = templates("imagenet")
    assert len(found) == len(set(found)) == 80
    assert found[:2] == ("a bad photo of a {}.", "a photo of many {}.")
    assert found[-2:] == ("a photo of a small {}.", "a tattoo of the {}.")
    assert {"itap of my {}.", "a {} in a video game.", "the origami {}."} < set(found)
    assert templates("imagenet-7")[:2] == ("itap of a {}.", "a bad photo of the {}.")
    assert set(templates("imagenet-7")) < set(found)


def test_the_sets_have_as_many_sentences_as_were_published():
    published = {"aircraft": 2, "caltech101": 34, "cars": 8, "cifar": 18, "country211": 5, "dtd": 8}
    published |= {"eurosat": 3, "fer2013": 6, "flowers102": 1, "food101": 1, "gtsrb": 3}
    published |= {"imagenet": 80, "imagenet-7": 7, "mnist": 1, "pets": 1, "sun397": 2}
    assert {name: len(templates(name)) for name in SETS} == published
    assert templates("gtsrb")[0] == 'a zoomed in photo of a "{}" traffic sign.'


@pytest.mark.parametrize("name", SETS)
def test_every_sentence_stands_once_and_has_one_gap(name):
    found = templates(name)
    assert len(set(found)) == len(found) > 0
    assert all(sentence.count("{}") == 1 for sentence in found)
    assert all(sentence == sentence.strip() and sentence.isascii() for sentence in found)


def test_every_file_is_a_set_says_where_it_is_from_and_is_in_the_wheel():
    from hatchling.builders.wheel import WheelBuilder

    files = sorted((ROOT / "contrastive" / "prompts").glob("*.txt"))
    assert {path.stem for path in files} == set(SETS)
    assert all("https://github.com/openai/CLIP" in path.read_text() for path in files)
    packed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    assert wanted | {"contrastive/prompts/LICENSE"} <= packed


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("imagnet", "unknown templates 'imagnet'; did you mean 'imagenet'? there are: aircraft, "),
        ("xyz", "unknown templates 'xyz'; there are: aircraft, "),
        ("../LICENSE", "unknown templates '../LICENSE'; there are: aircraft, "),
        (
            "a {}",
            "unknown templates 'a {}'; sentences of your own go in a list, each with {} ",
        ),
    ],
)
def test_an_unknown_set_is_one_line_with_the_known_ones(name, hint):
    with pytest.raises(SpecError) as caught:
        templates(name)
    assert str(caught.value).startswith(hint)
    assert "\n" not in str(caught.value)


def test_a_spec_names_a_set_and_holds_its_sentences():
    assert EvaluationSpec(templates="pets").templates == ("a photo of a {}, a type of pet.",)
    whole = EvaluationSpec(templates="imagenet")
    assert whole.templates == templates("imagenet")
    assert EvaluationSpec.model_validate(whole.model_dump(mode="json")) == whole
    assert EvaluationSpec().templates == TEMPLATES


def test_a_spec_that_names_no_set_is_told_so(command, tmp_path):
    path = ROOT / "examples" / "flickr30k_clip" / "clip.yaml"
    assert command("validate", path, "evaluation.templates=imagenet").code == 0
    ended = command("validate", path, "evaluation.templates=imagnet")
    assert ended.code == 2
    (line,) = ended.err.splitlines()
    assert "evaluation.templates: unknown templates 'imagnet'; did you mean 'imagenet'?" in line


def test_classify_takes_a_set_by_name(saved, picture, command):
    model, folder, _ = saved
    names = ["red circle", "blue square"]
    (answer,) = json.loads(
        command(
            *("classify", picture, "--classes", ",".join(names), "--model", folder),
            *("--templates", "imagenet", "--json"),
        ).out
    )
    expected = classify(model, picture, names, templates=templates("imagenet"))[0]
    assert list(answer["probabilities"].values()) == pytest.approx(expected.tolist(), abs=1e-5)
    plain = classify(model, picture, names)[0]
    assert plain.tolist() != pytest.approx(expected.tolist(), abs=1e-5)


def test_compare_takes_a_set_by_name(saved, picture, command):
    _, ours, theirs = saved
    ended = command(
        *("compare", ours, theirs, "--images", picture, "--classes", "red circle"),
        *("--templates", "pets", "--json"),
    )
    assert json.loads(ended.out)["templates"] == list(templates("pets"))


@pytest.mark.parametrize("verb", ["classify", "compare"])
def test_a_set_and_sentences_together_are_refused(saved, picture, command, verb):
    _, ours, theirs = saved
    asked = ("--classes", "a", "--templates", "pets", "--template", "a {}")
    where = (picture, "--model", ours) if verb == "classify" else (ours, theirs)
    images = () if verb == "classify" else ("--images", picture)
    ended = command(verb, *where, *images, *asked)
    assert ended.code == 2
    assert ended.err == "--templates pets and --template: give a set or sentences, not both\n"
