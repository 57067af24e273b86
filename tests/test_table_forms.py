"""Tables of captions as programs and people write them: what is read, what is told, faults."""

from __future__ import annotations

import gzip
import json

import pytest
from PIL import Image

from contrastive.datasets import ImageFolder
from contrastive.errors import DataError

NAMES = ("0.png", "1.png", "2.png")
TWO = [("0.png", "a dog, running"), ("1.png", "a cat")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    for name in (*NAMES, "below/0.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def write(folder, content, name="captions.csv"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def read(folder, **fields):
    return ImageFolder(folder=folder, **{"holdout": 0, "max_bad": 0} | fields).build("train")


def pairs_of(samples):
    return [(row["image"].name, row["text"]) for row in samples]


def coco(images, annotations):
    return json.dumps(
        {
            "images": [{"id": id_, "file_name": name} for id_, name in images],
            "annotations": [{"image_id": id_, "caption": text} for id_, text in annotations],
        }
    )


AS_OBJECTS = [{"image": name, "text": text} for name, text in TWO]
QUOTED = 'Image,Caption\n0.png,"a dog, running"\n1.png,a cat\n'
READ = {
    "names in another case": ("captions.csv", QUOTED),
    "lines of an old Mac": ("captions.csv", QUOTED.replace("\n", "\r")),
    "names without their suffix": ("captions.csv", QUOTED.replace(".png", "")),
    "paths of Windows": ("captions.csv", QUOTED.replace("0.png", r"below\0.png")),
    "tabs, and a comma in the first row": ("captions.txt", "0.png\ta dog, running\n1.png\ta cat"),
    "bars, and a comma in the first row": ("captions.csv", "a dog, running|0.png\na cat|1.png\n"),
    "compressed, of another suffix": ("captions.txt.gz", gzip.compress(QUOTED.encode())),
    "compressed JSON": ("captions.json.gz", gzip.compress(json.dumps(AS_OBJECTS).encode())),
}


@pytest.mark.parametrize("kind", READ)
def test_a_table_is_read_as_it_is_written(folder, kind):
    name, content = READ[kind]
    write(folder, content, name)
    assert pairs_of(read(folder)) == TWO


def test_a_split_in_another_case_is_that_split(folder):
    write(folder, "image,text,Split\n0.png,a dog,Train\n1.png,a cat,TEST\n")
    assert pairs_of(read(folder)) == [("0.png", "a dog")]


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a dog' \"it's\"]", ["a dog", "it's"]),
        ("['a dog'\n 'a cat']", ["a dog", "a cat"]),
        ("['a dog']", ["a dog"]),
        ('["a dog", 7]', ["a dog", "7"]),
        ("['a dog', 7]", ["a dog", "7"]),
        ("[1, 2]", ["[1, 2]"]),
        ("['a' dog]", ["['a' dog]"]),
    ],
)
def test_a_cell_lists_captions_as_json_pandas_and_numpy_do(folder, cell, captions):
    doubled = cell.replace('"', '""')
    write(folder, f'image,text\n0.png,"{doubled}"\n')
    assert [text for _, text in pairs_of(read(folder))] == captions


def test_numbers_are_captions_in_json_as_in_a_csv(folder):
    rows = [{"image": "0.png", "text": 3.5}, {"image": "1.png", "text": 7.0}]
    write(folder, "\n".join(map(json.dumps, rows)), "captions.jsonl")
    assert [text for _, text in pairs_of(read(folder))] == ["3.5", "7"]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"captions.csv": "image,text,caption\n0.png,a,b\n"},
            "captions.csv: of 'text', 'caption', the first is taken; text_column names another",
        ),
        (
            {"captions.csv": "image,text\n0.png,a\n", "metadata.jsonl": "{}"},
            "captions.csv: read, and not 'metadata.jsonl' beside it; captions says another",
        ),
    ],
)
def test_what_is_chosen_is_told_with_what_chooses_otherwise(folder, files, told, capsys):
    for name, content in files.items():
        write(folder, content, name)
    assert pairs_of(read(folder)) == [("0.png", "a")]
    assert capsys.readouterr().err.endswith(f"{told}\n")
    read(folder, captions="captions.csv", text_column="text")
    assert not capsys.readouterr().err


def test_the_form_of_json_is_not_judged_by_its_first_line(folder):
    rows = [json.dumps({"image": name, "text": "a"}) for name in NAMES]
    write(folder, "\n".join(["{cut", *rows]), "captions.json")
    samples = read(folder, max_bad=0.5)
    assert len(samples) == 3
    assert samples.bad_rows.lines[0].startswith("captions.json: row 1: not valid JSON")


def test_a_column_that_cannot_be_used_can_be_done_without(folder):
    write(
        folder, json.dumps({"image": "0.png", "text": "a", "label": ["x", "y"]}), "captions.jsonl"
    )
    with pytest.raises(DataError, match="'label' is not a text; label_column: '' does without it"):
        read(folder)
    assert "label" not in read(folder, label_column="")[0]


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        ([(1, "0.png"), (1, "1.png"), (2, "2.png")], "several images have the id '1'"),
        ([(None, "0.png"), (None, "1.png"), (2, "2.png")], "no image has the id '1'"),
    ],
)
def test_captions_of_an_id_that_names_no_one_image_are_faults(folder, images, problem):
    write(folder, coco(images, [(1, "a"), (2.0, "b"), (None, "c")]), "captions.json")
    samples = read(folder, max_bad=1)
    assert pairs_of(samples) == [("2.png", "b")]
    assert samples.bad_rows.lines == [
        f"captions.json: row 1: {problem}",
        "captions.json: row 3: has no image_id",
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("captions.json", "[]", ":1: has no rows"),
        ("captions.json", '[["0.png", "a"]]', ":1: its rows have no names of columns"),
        ("captions.json", coco([(1, "0.png")], []), "its annotations have no captions; take"),
        ("captions.json", coco([(1, "0.png")] * 2, [(2, "a")]), ":1: no image has the id '2'"),
        ("captions.json", '{"images": [{"id": 1}]}', "its annotations have no captions; take"),
        ("captions.csv", "image,text\n".encode("utf-16-le"), ":1: this is UTF-16"),
    ],
)
def test_what_is_no_table_says_why(folder, name, content, problem):
    write(folder, content, name)
    with pytest.raises(DataError) as error:
        read(folder)
    assert problem in str(error.value)


def test_a_parquet_file_that_python_cannot_hold_is_one_line(folder):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = {"image": ["0.png"], "text": ["a"]}
    tables = {
        "not readable Parquet: date value out of range": arrow.table(
            columns | {"when": arrow.array([2**62], arrow.timestamp("us"))}
        ),
        "has a column twice": arrow.table([["0.png"], ["a"], ["b"]], ["image", "text", "text"]),
    }
    for said, table in tables.items():
        parquet.write_table(table, folder / "captions.parquet")
        with pytest.raises(DataError, match=said):
            read(folder)
