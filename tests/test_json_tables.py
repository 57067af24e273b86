"""JSON in the forms in which programs and data sets write tables: each is the same two rows."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from contrastive.datasets import ImageFolder
from contrastive.errors import DataError

NAMES = ("0.png", "1.png")
TEXTS = ("a dog", "a café")
ROWS = [{"image": name, "text": text} for name, text in zip(NAMES, TEXTS, strict=True)]


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def read(folder, content, name="captions.json", **fields):
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    data = ImageFolder(folder=folder, captions=name, **{"holdout": 0, "max_bad": 0} | fields)
    return [(row["image"].name, row["text"]) for row in data.build("train")]


def told(folder, content, **fields):
    with pytest.raises(DataError) as error:
        read(folder, content, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


PAIRS = list(zip(NAMES, TEXTS, strict=True))
BY_IMAGE = dict(PAIRS)
FORMS = {
    "columns of lists": {"image": NAMES, "text": TEXTS},
    "an image's caption": BY_IMAGE,
    "an image's captions": {name: [text] for name, text in PAIRS},
    "an image's fields": {name: {"caption": text, "width": 4} for name, text in PAIRS},
    "fields by a name without its suffix": {
        name.removesuffix(".png"): {"caption": text, "tags": ""} for name, text in PAIRS
    },
    "fields by number": {str(i): row for i, row in enumerate(ROWS)},
    "captions by image, in a column": {"text": BY_IMAGE, "width": dict.fromkeys(NAMES, 4)},
    "the one array": {"version": 1, "info": {}, "data": ROWS, "licenses": []},
    "an array called images": {"images": ROWS},
    "an array called annotations": {"annotations": ROWS},
    "an array for each split": {"train": ROWS[:1], "training": ROWS[1:], "validation": []},
    "the hub's image without bytes": [
        row | {"image": {"bytes": None, "path": row["image"]}} for row in ROWS
    ],
}


@pytest.mark.parametrize("name", ["captions.json", "captions.jsonl", "captions.ndjson"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", FORMS)
def test_a_document_is_rows_whatever_its_form_and_suffix(folder, form, indent, name):
    assert read(folder, json.dumps(FORMS[form], indent=indent), name) == PAIRS


@pytest.mark.parametrize("orient", ["columns", "split", "records", "index", "table"])
@pytest.mark.parametrize("names", [("image", "text"), ("photo", "said")])
def test_what_pandas_writes_is_read(folder, orient, names):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(PAIRS, columns=names)
    image, text = names
    for index in (frame.index, frame.index + 7):
        written = frame.set_index(index).to_json(orient=orient)
        assert read(folder, written, image_column=image, text_column=text) == PAIRS


def test_a_frame_without_some_of_its_rows_or_cells_is_read(folder):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([*PAIRS, ("2.png", None)], columns=["image", "text"])
    written = frame[1:].to_json()
    assert told(folder, written) == (
        "1 of 2 samples are bad, 0 may be (max_bad: 0): "
        "captions.json: row 2: 'text' is empty or not a text"
    )
    assert read(folder, written, max_bad=0.5) == PAIRS[1:]


def test_splits_that_a_document_has_are_those_of_its_rows(folder, capsys):
    document = {"train": ROWS[:1], "test": ROWS[1:]}
    assert read(folder, document) == PAIRS[:1]
    assert capsys.readouterr().err.endswith(
        "captions.json: its rows are those of 'train', 'test', each of that split\n"
    )
    with pytest.raises(DataError, match="no split 'val'; there are: 'test', 'train'"):
        ImageFolder(folder=folder).build("val")


def test_the_array_that_is_read_is_told(folder, capsys):
    read(folder, {"licenses": [], "data": ROWS})
    assert capsys.readouterr().err.endswith("captions.json: its rows are those of 'data'\n")


def test_an_image_that_stands_twice_is_told_with_the_list_to_give(folder):
    said = told(folder, '{"0.png": "a dog", "1.png": "a café", "0.png": "it runs"}')
    assert said.endswith("""captions.json: "0.png" stands twice; give a list: {"0.png": [...]}""")
    assert len(read(folder, {"0.png": ["a dog", "it runs"], "1.png": "a café"})) == 3


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"a": 1}, "captions.json:1: is no table; JSON is read as an array of objects"),
        ({"a": {"x": 1}, "b": {"y": 2}}, "captions.json:1: is no table; JSON is read"),
        ({"a": ROWS, "b": ROWS}, "captions.json:1: is no table; JSON is read"),
        ([[*pair] for pair in PAIRS], "captions.json:1: its rows have no names of columns; JSON"),
        ({"image": ["0.png"], "text": []}, "columns differ in length: 'image' 1, 'text' 0"),
        ({"columns": ["image", "text"], "data": [["0.png"]]}, "1 fields, but there are 2 columns"),
        ({"columns": ["text", "text"], "data": []}, "has a column twice; it has 'text', 'text'"),
    ],
)
def test_what_is_no_table_is_told_with_a_form_that_is_read(folder, document, said):
    message = told(folder, document)
    assert said in message
    if "JSON" in said:
        example = message.partition("; write ")[2].partition(", ...]")[0] + "]"
        assert read(folder, example, max_bad=1) == [("0.png", "a dog")]


def test_rows_without_names_are_written_by_pandas_as_is_told(folder):
    pandas = pytest.importorskip("pandas")
    frame, path = pandas.DataFrame(PAIRS, columns=["image", "text"]), folder / "captions.json"
    remedy = told(folder, frame.to_json(orient="values")).rpartition("with pandas: ")[2]
    eval(f"frame.{remedy}", {"frame": frame, "path": path})
    assert read(folder, path.read_text()) == PAIRS
