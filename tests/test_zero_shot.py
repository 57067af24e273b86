"""Zero-shot classification against a slow, obvious reference."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image

from contrastive import build_model, classify, prompts
from contrastive.errors import BadSample, SpecError
from contrastive.inference.zero_shot import embed_classes
from contrastive.prompts import TEMPLATES
from tests.miniature import Picture
from tests.toys import toy_dict

CLASSES = ["red circle", "blue square", "green cross"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model that has learned nothing, sharp enough that its opinions differ."""
    spec = toy_dict(tmp_path_factory.mktemp("data") / "flickr30k", images=4)
    spec["model"]["loss"]["temperature"] = 0.01
    return build_model(spec).eval()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        Picture(7 * number).draw().save(path)
    return paths


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(x * x for x in vector))
    return [x / length for x in vector]


def embed(model, modality, sample) -> list[float]:
    return unit(model.embed(modality, [sample])[0].double().tolist())


def reference(model, images, classes, templates) -> torch.Tensor:
    """CLIP's ensemble, restated with loops: normalise, mean, normalise, softmax of s * cosine."""
    names = []
    for name in classes:
        sentences = [embed(model, "text", t.replace("{}", name)) for t in templates]
        mean = [sum(column) / len(templates) for column in zip(*sentences, strict=True)]
        names.append(unit(mean))
    rows = []
    for image in images:
        picture = embed(model, "image", image)
        weights = [
            math.exp(model.scale * sum(x * y for x, y in zip(picture, name, strict=True)))
            for name in names
        ]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows)


@pytest.mark.parametrize(
    "templates",
    [("{}",), TEMPLATES, ["{} and {}", "no {}", "a {} at night"], prompts.templates("imagenet")],
)
def test_probabilities_are_those_of_the_reference(model, paths, templates):
    found = classify(model, paths, CLASSES, templates=templates)
    torch.testing.assert_close(
        found, reference(model, paths, CLASSES, templates), atol=2e-5, rtol=1e-4
    )
    torch.testing.assert_close(found.sum(1), torch.ones(len(paths)))
    assert found.std() > 0.01, "all alike would agree with any reference"


def test_three_templates_are_used_unless_others_are_given(model, paths):
    expected = classify(model, paths, CLASSES, templates=TEMPLATES)
    assert torch.equal(classify(model, paths, CLASSES), expected)
    assert len(TEMPLATES) == 3


def test_classes_keep_their_probabilities_in_any_order(model, paths):
    found = classify(model, paths, CLASSES)
    torch.testing.assert_close(classify(model, paths, CLASSES[::-1]), found.flip(1))
    torch.testing.assert_close(classify(model, paths[::-1], CLASSES), found.flip(0))


def test_a_picture_may_be_a_path_its_name_its_bytes_or_open_already(model, paths):
    path = paths[0]
    with Image.open(path) as picture:
        forms = [path, str(path), path.read_bytes(), picture]
        expected = classify(model, paths, CLASSES)[:1]
        for form in forms:
            torch.testing.assert_close(classify(model, form, CLASSES), expected)
        torch.testing.assert_close(classify(model, forms, CLASSES), expected.expand(4, -1))
        torch.testing.assert_close(classify(model, tuple(forms), CLASSES), expected.expand(4, -1))


def test_no_picture_has_no_row_and_one_class_is_certain(model, paths):
    assert classify(model, [], CLASSES).shape == (0, 3)
    assert classify(model, paths, ["cat"]).tolist() == [[1]] * len(paths)


def test_embedded_classes_have_length_1(model):
    lengths = embed_classes(model, CLASSES).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(3))


def test_a_name_with_braces_is_a_name(model):
    found = embed_classes(model, ["{0}", "{}", "{name}"], templates=["a {}"])
    expected = model.embed("text", ["a {0}", "a {}", "a {name}"])
    torch.testing.assert_close(found, expected)


def test_the_bias_of_a_sigmoid_loss_changes_nothing(paths, tmp_path):
    spec = toy_dict(tmp_path / "flickr30k", images=4)
    probabilities = []
    for bias in (-10.0, 0.0):
        torch.manual_seed(0)
        spec["model"]["loss"] = {"type": "sigmoid", "bias": bias}
        probabilities.append(classify(build_model(spec), paths, CLASSES))
    torch.testing.assert_close(*probabilities, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("classes", "templates", "said"),
    [
        ([], TEMPLATES, "at least one class"),
        ("cat", TEMPLATES, "class 'cat' is not in a list"),
        (["cat", "dog", "cat"], TEMPLATES, "class 'cat' is given twice"),
        (["cat"], [], "at least one template"),
        (["cat"], "a {}", "template 'a {}' is not in a list"),
        (["cat"], ["a {}", "a cat"], "template 'a cat' has no {} for the class"),
    ],
)
def test_what_cannot_be_classes_or_templates_is_refused(classes, templates, said, model, paths):
    with pytest.raises(SpecError) as error:
        classify(model, paths, classes, templates=templates)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_that_cannot_be_read_is_named(model, paths, tmp_path):
    (tmp_path / "text.jpg").write_text("a cat")
    with pytest.raises(BadSample, match=r"text\.jpg: not a readable"):
        classify(model, [*paths, tmp_path / "text.jpg"], CLASSES)
    with pytest.raises(BadSample, match=r"nonesuch\.jpg: no such file"):
        classify(model, "nonesuch.jpg", CLASSES)


@pytest.mark.parametrize("names", [["n01440764", "n01443537"], ["10", "11", "12"], ["1.0", "2.0"]])
def test_classes_that_are_ids_are_told_so(names, model, paths, capsys):
    classify(model, paths, names)
    told = f"classes such as {names[0]!r} are ids, of which a text encoder knows nothing; call"
    assert told in capsys.readouterr().err
    classify(model, paths, ["tench", "goldfish", "n01443537"])
    assert "are ids" not in capsys.readouterr().err


def test_classes_that_are_digits_are_told_unless_the_template_asks_for_digits(model, paths, capsys):
    classify(model, paths, ["7", "8"])
    told = "classes such as '7' are taken for what the images show; digits are best asked for by"
    assert told in capsys.readouterr().err
    classify(model, paths, ["7", "8"], templates=prompts.templates("mnist"))
    classify(model, paths, ["7", "eight"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("names", [["狗", "猫"], ["いぬ", "ねこ"], ["собака", "кошка"]])
def test_templates_of_another_language_than_the_classes_are_told(names, model, paths, capsys):
    classify(model, paths, names)
    told = f"such as {names[0]!r} are in another language than the template 'a picture of a {{}}'"
    assert told in capsys.readouterr().err
    classify(model, paths, names, templates=["{}"])
    classify(model, paths, names, templates=["一张{}的照片"])
    classify(model, paths, ["perro", "niño"])
    assert "another language" not in capsys.readouterr().err
