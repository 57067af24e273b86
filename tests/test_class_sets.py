"""Names of classes as data: folders that are called by ids or numbers have classes with names."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from contrastive import build_model
from contrastive.datasets import ClassFolders
from contrastive.errors import SpecError
from contrastive.prompts.class_sets import CLASS_SETS, NUMBERED, class_names, class_set
from tests.toys import tiny_model

COUNTS = {"aircraft": 100, "caltech101": 102, "cars": 196, "cifar10": 10, "cifar100": 100}
COUNTS |= {"dtd": 47, "eurosat": 10, "fer2013": 7, "flowers102": 102, "food101": 101, "gtsrb": 43}
COUNTS |= {"imagenet": 1000, "mnist": 10, "pets": 37, "resisc45": 45, "stl10": 10}
IDS = {"n01440764": "tench", "n01443537": "goldfish", "n02012849": "crane bird"}
WORDS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a folder with a model, and images of ImageNet's classes by ids, numbers and names."""
    place = tmp_path_factory.mktemp("place")
    torch.manual_seed(0)
    build_model(tiny_model("infonce")).save(place / "model")
    called = {"ids": [*IDS], "numbers": ["0", "0001", "134"], "names": ["Tench", "goldfish"]}
    called["names"].append("crane_bird")
    for folder, names in called.items():
        for name, word in zip(names, WORDS, strict=True):
            (place / folder / "val" / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 9 + i), word).save(place / folder / "val" / name / f"{i}.png")
    return place


def test_imagenets_ids_and_names_are_in_the_order_of_timm():
    info = pytest.importorskip("timm.data").ImageNetInfo()
    found = class_set("imagenet")
    assert [*found.ids] == info.label_names()
    described = [info.index_to_description(i).casefold() for i in range(1000)]
    alike = [
        any(word in text for word in name.casefold().split())
        for name, text in zip(found.names, described, strict=True)
    ]
    assert sum(alike) > 900, "the others have another word for it"


@pytest.mark.parametrize("name", CLASS_SETS)
def test_every_class_is_found_by_its_name_its_id_and_its_number(name):
    found = class_set(name)
    assert len(set(found.names)) == len(found.names) == COUNTS[name]
    for ways in (found.names, found.ids, [each.upper().replace(" ", "_") for each in found.names]):
        assert [found.name_of(way) for way in ways] == [*found.names]
    if (first := NUMBERED.get(name)) is not None:
        numbers = range(first, first + len(found.names))
        assert [found.name_of(f"{i:05}") for i in numbers] == [*found.names]
        assert found.name_of(str(numbers.stop)) is None
    assert all(each == " ".join(each.split()) for each in found.names)


@pytest.mark.parametrize(
    ("name", "label", "expected"),
    [
        ("imagenet", "n04355933", "sunglass"),
        ("imagenet", "837", "sunglasses"),
        ("imagenet", "great_white_shark", "great white shark"),
        ("imagenet", "n00000000", None),
        ("caltech101", "BACKGROUND_Google", "background"),
        ("caltech101", "cougar_face", "face of a cougar cat"),
        ("eurosat", "SeaLake", "lake or sea"),
        ("eurosat", "9", None),
        ("fer2013", "sad", "sad"),
        ("fer2013", "6", "neutral"),
        ("flowers102", "1", "pink primrose"),
        ("flowers102", "0", None),
        ("gtsrb", "00014", "stop"),
        ("mnist", "7", "7"),
        ("pets", "American_Bulldog", "american bulldog"),
        ("dtd", "polka-dotted", "polka-dotted"),
        ("food101", "apple_pie", "apple pie"),
        ("cars", "Ram C-V Cargo Van Minivan 2012", "Ram C/V Cargo Van Minivan 2012"),
    ],
)
def test_a_label_is_read_as_people_have_it(name, label, expected):
    assert class_set(name).name_of(label) == expected


@pytest.mark.parametrize("folder", ["ids", "numbers", "names"])
def test_folders_called_by_ids_numbers_or_names_are_evaluated_alike(folder, place, command, capsys):
    found = ClassFolders(folder=place / folder, classes="imagenet").build("val")
    assert found.classes == ("crane bird", "goldfish", "tench")
    data = f"type=class-folders,folder={place / folder},classes=imagenet"
    told = command("evaluate", "-m", place / "model", "--data", data, "--split", "val", "--json")
    assert (told.code, told.err) == (0, "")
    named = f"type=class-folders,folder={place / 'names'},classes=imagenet"
    ours = command("evaluate", "-m", place / "model", "--data", named, "--split", "val", "--json")
    found, expected = (json.loads(each.out)["classification"] for each in (told, ours))
    assert found == expected
    assert found["classes"] == 3


def test_captions_to_train_on_have_the_names(place):
    data = ClassFolders(folder=place / "ids/val", captions=["a {}."], classes="imagenet", holdout=0)
    rows = data.build("train", purpose="training")
    assert {rows[i]["text"] for i in range(len(rows))} == {f"a {name}." for name in IDS.values()}


def test_ids_without_a_set_are_told_and_the_remedy_helps(place, command):
    evaluate = ("evaluate", "-m", place / "model", "--split", "val", "--data")
    told = command(*evaluate, place / "ids").err
    assert "are ids, of which a text encoder knows nothing; call" in told
    assert "(type=class-folders) have them by classes=imagenet" in told
    remedied = command(*evaluate, f"type=class-folders,folder={place / 'ids'},classes=imagenet")
    assert (remedied.code, remedied.err) == (0, "")


@pytest.mark.parametrize(
    ("folder", "classes", "said"),
    [
        (
            "ids",
            "pets",
            "ids: 'n01440764', 'n01443537', 'n02012849' are no classes of pets, which has names "
            "such as 'Abyssinian'; give another set, or leave out classes",
        ),
        (
            "numbers",
            "flowers102",
            "numbers: '0', '134' are no classes of flowers102, which has names such as 'pink "
            "primrose', numbers from 1 to 102; give another set, or leave out classes",
        ),
        ("ids", "image_net", "unknown set of classes 'image_net'; did you mean 'imagenet'? there"),
    ],
)
def test_a_set_that_does_not_fit_is_told_with_the_names(folder, classes, said, place, command):
    data = f"type=class-folders,folder={place / folder},classes={classes}"
    found = command("evaluate", "-m", place / "model", "--data", data, "--split", "val")
    assert (found.code, found.err.count("\n")) == (2, 1)
    assert said in found.err


def test_a_set_is_given_for_classes(place, command):
    image = place / "ids" / "val" / "n01440764" / "0.png"
    found = command(
        "classify",
        image,
        "-m",
        place / "model",
        "--classes",
        "stl10",
        "--templates",
        "cifar",
        "--json",
    )
    assert found.err == "--classes stl10: the 10 classes of that set; --classes-file takes a name\n"
    (result,) = json.loads(found.out)
    assert [*result["probabilities"]] == [*class_names("stl10")]
    with pytest.raises(SpecError, match="unknown set of classes 'stl'; did you mean 'stl10'"):
        class_names("stl")
