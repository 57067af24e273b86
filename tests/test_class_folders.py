"""Images in a folder for each class: captions to train on, zero-shot accuracy without captions,
and the dataset's old name.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import contrastive.datasets
from contrastive import build_model, evaluate, train
from contrastive.data.samples import rows_of
from contrastive.datasets import ClassFolders, datasets
from contrastive.errors import DataError, RenamedWarning, SpecError
from contrastive.inference.zero_shot import classify
from tests.toys import tiny_model

MODEL = tiny_model("supcon")
TEMPLATES = ["a photo of a {}", "{}"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return 40 images of two classes, and go where they lie."""
    for number in range(40):
        path = tmp_path / "animals" / ("big_cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (6 * number, 80, 80 * (number % 2))).save(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "animals"


def write_spec(data):
    run = {"model": MODEL, "data": data, "training": {"epochs": 1, "batch_size": 8, "workers": 0}}
    Path("run.yaml").write_text(json.dumps(run))


def test_captions_of_the_classes_are_for_training_alone(folder):
    data = ClassFolders(folder=folder, captions=TEMPLATES)
    rows = rows_of(data.build("train", purpose="training"))
    assert {(row["text"], row["label"]) for row in rows} == {
        (template.format(name), name) for template in TEMPLATES for name in ("big cat", "dog")
    }
    assert {(row["label"], row["id"]) for row in rows} == {("big cat", 0), ("dog", 1)}
    assert rows == rows_of(data.build("train", purpose="training"))
    measured = rows_of(data.build("train"))
    assert [row["image"] for row in measured] == [row["image"] for row in rows]
    assert not any("text" in row for row in measured)
    assert len({row["id"] for row in measured}) == len(measured)
    assert (
        len(
            {
                row["text"]
                for row in rows_of(
                    ClassFolders(folder=folder, captions="imagenet-7").build(
                        "train", purpose="training"
                    )
                )
            }
        )
        > 2
    )


def test_captions_need_classes_and_a_gap(folder):
    Image.new("RGB", (8, 8)).save(folder / "stray.png")
    with pytest.raises(DataError, match="some images are in no folder of a class, so that captio"):
        ClassFolders(folder=folder, captions=TEMPLATES).build("train", purpose="training")
    with pytest.raises(SpecError, match=r"captions: template 'a dog' has no \{\} for the class"):
        ClassFolders(folder=folder, captions=["a dog"])


def test_a_run_on_class_folders_is_measured_by_their_names(folder, command):
    write_spec({"type": "class-folders", "folder": "animals"})
    refused = command("train", "run.yaml")
    assert refused.code == 2
    assert "with type: class-folders, data.captions makes captions of the classes" in refused.err
    done = command("train", "run.yaml", f"data.captions={json.dumps(TEMPLATES)}")
    assert done.code == 0
    assert "not measured" not in done.err
    shown = command("evaluate")
    assert "zero-shot classification" in shown.out
    assert "retrieval on" not in shown.out
    assert shown.out.endswith("there are no captions, so that retrieval of them is not measured\n")
    named = command("evaluate", "--data", "type=class-folders,folder=animals", "--json")
    bare = command("evaluate", "--data", "animals", "--json")
    assert "animals: taken as data.type=class-folders\n" in bare.err
    assert json.loads(named.out)["classification"] == json.loads(bare.out)["classification"]
    assert json.loads(named.out)["retrieval"] == {}
    for options in (("evaluate", "--split"), ("probe", "--split"), ("probe", "--train-split")):
        missing = command(*options, "no")
        assert missing.err.endswith(f"'train', 'val'; choose one by {options[1]}\n")
    captioned = command("caption", "animals/dog/1.png")
    assert captioned.code == 2
    assert captioned.err.endswith("it has image; give sentences by --corpus or --data\n")
    searched = command("search", "animals/dog/1.png")
    assert searched.err.endswith("it has image; give other data, or texts (texts=, --texts)\n")


def test_zero_shot_accuracy_without_captions_is_that_of_classify(folder):
    model = build_model(MODEL)
    samples = ClassFolders(folder=folder, holdout=0.5).build("test")
    report = evaluate(model, samples, templates=["a {}"])
    likeliest = classify(
        model, [row["image"] for row in samples], samples.classes, templates=["a {}"]
    ).argmax(1)
    hits = [samples.classes[i] == row["label"] for i, row in zip(likeliest, samples, strict=True)]
    accuracy = report.classification.accuracy
    assert accuracy.value == sum(hits) / len(hits)
    assert accuracy.low <= accuracy.value <= accuracy.high
    assert not any("one class" in note for note in report.notes)


TOLD = {  # places, the classes of train, and what is told
    "in another case": (["Train/cat/1.png", "TEST/dog/2.png"], ["cat"], ""),
    "two folders of a split": (["train/cat/1.png", "training/dog/2.png"], ["cat", "dog"], ""),
    "a class that is called like a split": (
        ["train/1.png", "car/2.png"],
        ["car", "train"],
        "'train' is taken for a class, like the folders beside it",
    ),
    "beside the folders of splits": (
        ["train/cat/1.png", "more/cat/2.png", "3.png"],
        ["cat"],
        "3.png and 1 more: beside the folders of splits, left out",
    ),
    "no folder of a class": (
        ["cat/1.png", "dog/2.png", "all.png"],
        ["cat", "dog"],
        "all.png is in no folder of a class, so that there are no classes",
    ),
    "a folder around all": (["a/cat/1.png", "a/dog/2.png"], ["a/cat", "a/dog"], "give folder: "),
    "splits within classes": (
        ["cat/train/1.png", "dog/test/2.png"],
        ["cat/train", "dog/test"],
        "'cat/train' is taken for a class; folders of splits have to lie above",
    ),
    "no images of a class": (["cat/1.png", "dog/2.tif"], ["cat"], "dog: no images here (.jpg, "),
    "other formats": (
        ["cat/1.png", "cat/2.tif", "cat/3.TIFF"],
        ["cat"],
        "2.tif and 1 more: not .jpg, .jpeg, .png, .webp, .gif or .bmp; left out",
    ),
    "an accent in two forms": (
        ["train/caf\u00e9/1.png", "train/cafe\u0301/2.png"],
        ["caf\u00e9"],
        "",
    ),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_folders_are_taken_for_is_told(kind, tmp_path, capsys):
    places, labels, told = TOLD[kind]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / place)
    rows = rows_of(ClassFolders(folder=tmp_path, holdout=0).build("train"))
    assert sorted({row["label"] for row in rows if "label" in row}) == labels
    err = capsys.readouterr().err
    assert told in err if told else not err


def test_links_to_folders_are_followed_and_circles_end(folder, tmp_path, capsys):
    (folder / "dog").rename(tmp_path / "dogs")
    (folder / "dog").symlink_to(tmp_path / "dogs")
    (folder / "dog" / "back").symlink_to(folder)
    (folder / "twin").symlink_to(folder / "big_cat")
    (folder / "fox").symlink_to(tmp_path / "no disk")
    samples = ClassFolders(folder=folder, holdout=0).build("train")
    assert (len(samples), samples.classes) == (40, ("big cat", "dog"))
    told = capsys.readouterr().err
    assert f"{folder / 'twin'}: leads to {folder / 'big_cat'}, which is read where it is" in told
    assert f"{folder / 'fox'} and 1 more: no images here" in told


def test_one_class_is_noted(folder):
    samples = ClassFolders(folder=folder, holdout=0.5).build("test")
    cats = [row for row in samples if row["label"] == "big cat"]

    class Cats(list):
        classes = ("big cat",)

    report = evaluate(build_model(MODEL), Cats(cats))
    assert report.classification.accuracy.value == 1
    assert "there is one class, so that zero-shot accuracy is always 100 %" in report.notes


def test_the_old_name_works_and_is_told(folder, command):
    assert "pictures" not in datasets
    with pytest.warns(RenamedWarning, match="dataset 'pictures' is now 'class-folders'") as told:
        assert datasets["pictures"] is ClassFolders
    assert told[0].filename == __file__
    with pytest.warns(RenamedWarning, match="Pictures is now ClassFolders"):
        assert contrastive.datasets.Pictures is ClassFolders
    write_spec({"type": "pictures", "folder": "animals"})
    done = command("validate", "run.yaml", "--json")
    assert done.err.endswith(
        "data.type: pictures is now class-folders; run: contrastive validate --upgrade run.yaml\n"
    )
    assert json.loads(done.out)["data"]["type"] == "class-folders"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type: pictures, folder: p", "type: class-folders, folder: p"),
        ('"type": "pictures"  , "folder": p', '"type": "class-folders"  , "folder": p'),
        ("type: &kind pictures, folder: pictures", "type: &kind class-folders, folder: pictures"),
    ],
)
def test_the_old_name_in_a_spec_is_upgraded(folder, command, old, new):
    write_spec({"type": "lines", "file": "x"})
    text = Path("run.yaml").read_text()
    data = json.dumps({"type": "lines", "file": "x"})
    Path("run.yaml").write_text(text.replace(data, f"{{{old}}}"))
    assert command("validate", "--upgrade", "run.yaml").code == 0
    assert Path("run.yaml").read_text() == text.replace(data, f"{{{new}}}")


def test_what_is_left_out_of_a_folder_is_said_once_in_a_run(folder, capsys):
    (folder / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(folder / ".ipynb_checkpoints/1.png")
    data = {"type": "class-folders", "folder": str(folder), "captions": TEMPLATES}
    run = {"model": MODEL, "data": data, "training": {"epochs": 2, "batch_size": 8, "workers": 0}}
    train(run, folder.parent / "run")
    assert capsys.readouterr().err.count(".ipynb_checkpoints: hidden, left out") == 1
    train(run, folder.parent / "another run")
    assert capsys.readouterr().err.count(".ipynb_checkpoints: hidden, left out") == 1


def test_captions_of_folders_called_by_ids_are_told(folder, capsys):
    data = ClassFolders(folder=folder, captions=TEMPLATES)
    for name, id_ in {"big_cat": "n02127052", "dog": "n02084071"}.items():
        (folder / name).rename(folder / id_)
    data.build("train", purpose="training")
    told = "classes such as 'n02084071' are ids, of which a text encoder knows nothing; call their"
    assert told in capsys.readouterr().err
    (folder / "n02084071").rename(folder / "dog")
    data.build("train", purpose="training")
    assert "are ids" not in capsys.readouterr().err


def test_classes_that_may_be_one_are_told_and_left_apart(folder, capsys):
    names = ("Cat", "caf\u00e9", "cat", "dog_", "cafe\u0301 ")
    for name in names:
        (folder / name).mkdir()
        Image.new("RGB", (8, 8)).save(folder / name / "1.png")
    found = ClassFolders(folder=folder).build("train+val+test")
    assert found.classes == ("Cat", "big cat", "caf\u00e9", "cat", "dog")
    said = capsys.readouterr().err
    told = "'Cat', 'cat' are 2 classes, and differ in case, spaces or form alone; if they are one"
    assert f"{folder}: {told}" in said
    assert "the folders 'caf\u00e9 ', 'caf\u00e9' are one class (2 such classes in all)" in said
