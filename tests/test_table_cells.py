"""Cells of tables as programs write them: one name for an image, no value, long, conversations."""

import json
import unicodedata

import numpy as np
import pytest
from PIL import Image

from contrastive.datasets import ImageFolder, Table
from contrastive.datasets.tables.arrow_files import open_arrow
from contrastive.errors import DataError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png", "caf\u00e9.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images/c.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    return tmp_path


def read(folder, rows, name="captions.csv", **fields):
    text = rows if isinstance(rows, str) else "image,text\n" + "".join(f"{r}\n" for r in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return ImageFolder(folder=folder, **{"holdout": 0.0, "max_bad": 0.0} | fields).build("train")


SPELLINGS = {
    "a dot": ("a.png", "./a.png"),
    "two slashes": ("a.png", ".//a.png"),
    "no suffix": ("a.png", "a"),
    "a link": ("a.png", "link.png"),
    "a link that comes first": ("link.png", "a.png"),
    "a whole path": ("a.png", "{folder}/a.png"),
    "a file's address": ("a.png", "file://{folder}/a.png"),
    "an address with an accent": ("caf\u00e9.png", "file://{folder}/caf%C3%A9.png"),
    "another Unicode form": ("caf\u00e9.png", unicodedata.normalize("NFD", "caf\u00e9.png")),
    "the usual folder": ("c.png", "images/c.png"),
    "a linked folder": ("images/c.png", "linked/c.png"),
    "Windows": ("images/c.png", r"images\c.png"),
}


@pytest.mark.parametrize("holdout", [0.0, 0.45])
@pytest.mark.parametrize("how", SPELLINGS)
def test_an_image_of_two_names_is_one_image_in_one_split(how, holdout, folder):
    names = [name.format(folder=folder) for name in SPELLINGS[how]]
    rows = [f"{names[0]},one", f"{names[1]},two", "b.png,three"]
    (folder / "captions.csv").write_text("image,text\n" + "\n".join(rows), encoding="utf-8")
    data = ImageFolder(folder=folder, holdout=holdout).build("train+val+test")
    assert [row["id"] for row in data] == [0, 0, 1]
    assert data[0]["image"] == data[1]["image"]


def test_a_name_counts_towards_the_captions_of_its_image(folder):
    rows = ["a.png,one", "./a.png,two", "link.png,three", "b.png,four"]
    (folder / "captions.csv").write_text("image,text\n" + "\n".join(rows))
    spec = ImageFolder(folder=folder, holdout=0.0, captions_per_image=1)
    assert [row["text"] for row in spec.build("train", purpose="training")] == ["one", "four"]


@pytest.mark.parametrize("word", ["\\N", "NULL", "null", "nan", "NaN", "None", "NA", "<NA>"])
def test_what_programs_write_for_nothing_is_no_caption(word, folder):
    with pytest.raises(DataError, match=r"captions.csv:2: 'text' is .*: no value"):
        read(folder, [f"a.png,{word}", "b.png,a dog"])
    data = read(folder, [f"a.png,{word}", "b.png,a dog"], max_bad=0.9)
    assert [row["text"] for row in data] == ["a dog"]


@pytest.mark.parametrize("text", ["\u200b", "\u200e \u200f", "\ufeff\u2060"])
def test_what_cannot_be_seen_is_no_caption(text, folder):
    data = read(folder, [f"a.png,{text}", "b.png,\u200ba dog\u200d"], max_bad=0.9)
    assert [row["text"] for row in data] == ["\u200ba dog\u200d"]
    assert data.bad_rows.lines == ["captions.csv:2: the caption has nothing that is seen"]


def test_it_is_no_group_and_no_label_either(folder):
    rows = "image,text,group,label\na.png,one,nan,nan\nb.png,two,nan,None\n"
    data = read(folder, rows)
    assert [row["id"] for row in data] == [0, 1]
    assert [row.get("label") for row in data] == [None, "None"]


def test_a_cell_may_be_longer_than_the_limit_of_csv(folder):
    long = "word " * 30_000
    assert [row["text"] for row in read(folder, [f"a.png,{long}", "b.png,a dog"])] == [
        long.strip(),
        "a dog",
    ]


def test_lines_of_json_may_end_with_a_comma(folder):
    lines = '{"image": "a.png", "text": "one"},\n\n{"image": "b.png", "text": "two"},\n'
    assert [row["text"] for row in read(folder, lines, "captions.jsonl")] == ["one", "two"]


def turns(kind, *said):
    who, what = ("from", "value") if kind == "LLaVA" else ("role", "content")
    names = ("human", "gpt") if kind == "LLaVA" else ("user", "assistant")
    return [{who: names[i % 2], what: text} for i, text in enumerate(said)]


@pytest.mark.parametrize("kind", ["LLaVA", "chat"])
def test_the_first_answer_of_a_conversation_is_the_caption(kind, folder, capsys):
    column = "conversations" if kind == "LLaVA" else "messages"
    parts = [{"type": "text", "text": "A red square."}]
    first = parts if kind == "chat" else "A red square."
    rows = [
        {"image": "a.png", column: turns(kind, "<image>\nWhat is it?", first, "Why?", "It is.")},
        {"image": "b.png", column: turns(kind, "Describe it.\n<image>", "A blue one.")},
    ]
    data = read(folder, json.dumps(rows), "captions.json")
    assert [row["text"] for row in data] == ["A red square.", "A blue one."]
    told = f"'{column}': the first answer of each conversation is a caption"
    assert capsys.readouterr().err.count(told) == 1


def test_a_conversation_without_an_answer_is_a_row_that_is_left_out(folder):
    rows = [{"image": "a.png", "conversations": turns("LLaVA", "<image>")}]
    with pytest.raises(DataError, match="row 1: 'conversations' is empty or not a text"):
        read(folder, json.dumps(rows), "captions.json")


def test_conversations_are_read_as_programs_write_them(folder, capsys):
    said = [("Human", "?"), ("GPT", "<image>\nA cat.")]
    rows = [
        {"images": ["a.png"], "messages": [{"from": who, "value": text} for who, text in said]},
        {"images": ["b.png"], "messages": json.dumps(turns("chat", "?", "A dog."))},
        {"images": ["a.png", "b.png"], "messages": turns("chat", "?", "Two.")},
        {"messages": turns("chat", "?", "None.")},
    ]
    data = read(folder, json.dumps(rows), "captions.json", max_bad=0.5)
    assert [(row["image"].name, row["text"]) for row in data] == [
        ("a.png", "A cat."),
        ("b.png", "A dog."),
    ]
    assert [line.partition("row ")[2] for line in data.bad_rows.lines] == [
        "3: 'images' lists 2 images; a row is of one",
        "4: 'images' is empty or not a text",
    ]


def test_the_first_line_and_the_empty_columns_of_excel_are_no_mistake(folder):
    rows = "sep=;\r\nimage;text;;\r\na.png;one;;\r\nb.png;two;;\r\n"
    assert [row["text"] for row in read(folder, rows)] == ["one", "two"]


def test_texts_that_parquet_holds_as_bytes_are_read(folder):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = arrow.array(["a dog", "a café"]).cast(arrow.binary())
    names = arrow.array(["a.png", "b.png"]).cast(arrow.large_binary())
    table = arrow.table({"image": names, "text": texts})
    parquet.write_table(table, folder / "captions.parquet")
    data = ImageFolder(folder=folder, holdout=0.0).build("train")
    assert [(row["image"].name, row["text"]) for row in data] == [
        ("a.png", "a dog"),
        ("b.png", "a café"),
    ]


def test_labels_and_captions_that_may_be_meant_otherwise_are_told_and_kept(folder, capsys):
    rows = ["a.png,salt &amp; pepper,Cat", "b.png,a dog<br/>runs,cat", "images/c.png,a <3 & b;,dog"]
    data = read(folder, "image,text,label\n" + "\n".join(rows))
    assert [row["text"] for row in data] == ["salt &amp; pepper", "a dog<br/>runs", "a <3 & b;"]
    assert data.classes == ("Cat", "cat", "dog")
    said = capsys.readouterr().err
    assert "'Cat', 'cat' are 2 classes, and differ in case, spaces or form alone" in said
    assert (
        "HTML in 2 captions, such as 'salt &amp; pepper' (captions.csv:2); they are taken" in said
    )


def test_a_number_of_a_class_without_a_name_is_told(tmp_path):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    noted = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    for name, labels in (
        ("a", [0, -1, None, 1, 2]),
        ("b", [[0]] * 5),
        ("c", [0.0, None] * 2 + [7]),
    ):
        held = pa.table({"text": [*"abcde"], "label": labels})
        held = held.replace_schema_metadata({"huggingface": json.dumps(noted)})
        pq.write_table(held, tmp_path / f"{name}.parquet")
    a, b, c = (Table(files=tmp_path / f"{name}.parquet", holdout=0, max_bad=1) for name in "abc")
    read = a.build("train")
    assert [row.get("label") for row in read] == ["cat", None, None, "dog"]
    told = "a.parquet: row 4: 'label' is 2, but the file has names of 2 classes"
    assert read.bad_rows.lines == [told]
    assert [row.get("label") for row in c.build("train")] == ["cat", None] * 2
    with pytest.raises(DataError, match="'label' holds list<element: int64>, not texts"):
        b.build("train")


def test_cells_that_lie_outside_their_file_are_told(tmp_path):
    pa, feather = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.feather"))
    texts = [letter * 9 for letter in "abcdef"]
    path = tmp_path / "t.arrow"
    feather.write_feather(pa.table({"text": texts}), path, compression="uncompressed")
    ends = np.arange(0, 63, 9, np.int32)
    damaged = path.read_bytes().replace(ends.tobytes(), np.roll(ends, 1).tobytes())
    path.write_bytes(damaged)
    with pytest.raises(pa.ArrowInvalid):
        open_arrow(path).group(0, "text")
    with pytest.raises(DataError, match=r"t\.arrow: not readable Arrow: "):
        Table(files=path).build("train")


@pytest.mark.parametrize("name", ["a" * 5000, "a" * 300 + ".parquet", "a**b.parquet"])
def test_a_name_that_no_file_can_have_is_one_line(name):
    with pytest.raises(DataError) as told:
        Table(files=name).build("train")
    assert str(told.value).startswith(name[:200])
