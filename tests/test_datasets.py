"""Images beside a table of captions, and what holds for every dataset of the menu."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contrastive.config.attribute_docstrings import attribute_docstrings
from contrastive.config.base import Config
from contrastive.data.bad_rows import BadRows
from contrastive.datasets import ClassFolders, Dataset, Flickr30k, ImageFolder, datasets
from contrastive.datasets.single_modality import RowList
from contrastive.errors import DataError, SpecError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"{number:03}.png" for number in range(40)]
COLUMNS = "image,text\n"
BY = "by class or not"


@pytest.fixture
def folder(tmp_path):
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


def rows(samples):
    return [samples[index] for index in range(len(samples))]


def write(folder: Path, text: str | bytes, name: str = "captions.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def gather_global_batch(folder: Path, **fields):
    return ImageFolder(folder=folder, holdout=0, **{"max_bad": 0.5, **fields}).build("train")


def attempt(folder: Path, **fields):
    """Return the samples and no message, or none and the message."""
    try:
        return gather_global_batch(folder, max_bad=1, **fields), ""
    except DataError as error:
        return RowList([], BadRows()), str(error)


def message(folder: Path, split: str = "train", **fields) -> str:
    """Return the one line with which a build fails."""
    with pytest.raises(DataError) as caught:
        ImageFolder(folder=folder, **{"holdout": 0, **fields}).build(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_csv_tsv_and_jsonl_are_one_dataset(folder):
    pairs = [(NAMES[0], 'A "dog", a\tcat'), (NAMES[0], "zwei Männer"), (NAMES[1], " a car ")]
    csv = "\ufeffimage,text\r\n" + "".join(
        f'{n},"{t.replace(chr(34), chr(34) * 2)}"\r\n' for n, t in pairs
    )
    lines = "".join(json.dumps({"file_name": n, "caption": t}) + "\n" for n, t in pairs)
    write(folder, csv)
    write(folder, csv.replace("image,text", "filename\tcaption").replace(',"', '\t"'), "b.tsv")
    write(folder, lines, "c.jsonl")
    found = [
        rows(gather_global_batch(folder, captions=name)) for name in (None, "b.tsv", "c.jsonl")
    ]
    assert [row["source"] for row in found[2]] == ["c.jsonl:1", "c.jsonl:2", "c.jsonl:3"]
    for several in found:
        for row in several:
            del row["source"]
    assert found[0] == found[1] == found[2]
    assert [row["id"] for row in found[0]] == [0, 0, 1]
    assert [row["text"] for row in found[0]] == [pairs[0][1], pairs[1][1], "a car"]
    assert found[0][2]["image"] == folder / NAMES[1]


def test_a_quoted_line_feed_keeps_its_row_and_the_lines_after_it_their_number(folder):
    write(folder, f'{COLUMNS}{NAMES[0]},"A dog\nruns"\n\n{NAMES[1]},A cat\n')
    samples = rows(gather_global_batch(folder))
    assert [(row["text"], row["source"]) for row in samples] == [
        ("A dog\nruns", "captions.csv:2"),
        ("A cat", "captions.csv:5"),
    ]


def test_columns_may_have_other_names(folder):
    write(folder, f"bild,satz,set,who\n{NAMES[0]},Ein Hund,dev,a\n{NAMES[1]},Noch einer,dev,a\n")
    roles = {"image": "bild", "text": "satz", "split": "set", "group": "who"}
    config = ImageFolder(folder=folder, **{f"{role}_column": name for role, name in roles.items()})
    assert [row["id"] for row in rows(config.build("val"))] == [0, 0]
    assert "no column 'text'" in message(folder, text_column="text", image_column="bild")
    assert message(folder).endswith(
        ":1: no column image or file_name or filename or filepath or images or url or image_url or "
        "urls, nor text or caption or title or captions or conversations or messages; there are: "
        "'bild', 'satz', 'set', 'who'; set image_column and text_column"
    )


def test_labels_name_the_classes_of_all_splits(folder):
    lines = f"{NAMES[0]},a dog,dog,train\n{NAMES[1]},a cat,cat,test\n"
    write(folder, "image,text,label,split\n" + lines)
    samples = ImageFolder(folder=folder).build("train")
    assert samples[0]["label"] == "dog"
    assert samples.classes == ("cat", "dog")
    assert "label" not in gather_global_batch(write(folder, f"{COLUMNS}{NAMES[0]},a dog\n"))[0]


def test_a_hash_splits_by_image_and_never_changes(folder):
    write(folder, COLUMNS + "".join(f"{name},{text}\n" for name in NAMES for text in "ab"))
    config = ImageFolder(folder=folder, holdout=0.2)
    members = {
        split: {row["image"].name for row in rows(config.build(split))}
        for split in ("train", "val", "test")
    }
    assert sum(map(len, members.values())) == len(NAMES) == len(set.union(*members.values()))
    in_test = (2, 3, 4, 22, 25, 29, 38)  # as in the first release; a change would leak
    assert members["test"] == {NAMES[number] for number in in_test}
    half = write(folder, COLUMNS + "".join(f"{name},a\n" for name in NAMES[::2]))
    for split, names in members.items():
        found = {
            row["image"].name for row in rows(ImageFolder(folder=half, holdout=0.2).build(split))
        }
        assert found == names & set(NAMES[::2])
    assert "no samples in split 'test'" in message(folder, "test")
    assert "no split 'all'; there are: 'test', 'train', 'val'" in message(folder, "all")


def test_a_hash_splits_by_group_if_there_are_groups(folder):
    lines = [f"{name},a,scene {number % 8}\n" for number, name in enumerate(NAMES)]
    write(folder, "image,text,group\n" + "".join(lines))
    config = ImageFolder(folder=folder, holdout=0.25)
    ids = [{row["id"] for row in rows(config.build(split))} for split in ("train", "val+test")]
    assert len(ids[0]) + len(ids[1]) == len(ids[0] | ids[1]) == 8


def test_folders_named_like_splits_have_their_own_captions(folder):
    for split, name in (("train", NAMES[0]), ("validation", NAMES[1])):
        (folder / split).mkdir()
        (folder / name).rename(folder / split / name)
        write(folder / split, f"file_name,text\n{name},A {split} row\n", "metadata.csv")
    config = ImageFolder(folder=folder)
    assert config.build("train")[0] == {
        "image": folder / "train" / NAMES[0],
        "text": "A train row",
        "id": 0,
        "source": "train/metadata.csv:2",
    }
    assert config.build("val")[0]["id"] == 1
    assert "no split 'test'; there are: 'train', 'val'" in message(folder, "test")


def test_an_image_in_two_splits_is_a_fault(folder):
    write(folder, f"image,text,split\n{NAMES[0]},a,train\n{NAMES[0]},b,test\n{NAMES[1]},c,test\n")
    samples = ImageFolder(folder=folder).build("test")
    assert samples.bad_rows.lines == [
        f"captions.csv:3: image '{NAMES[0]}' is in split train already"
    ]


def test_captions_are_thinned_for_training_only(folder):
    write(folder, COLUMNS + f"{NAMES[0]},a\n{NAMES[0]},b\n{NAMES[1]},c\n")
    config = ImageFolder(folder=folder, holdout=0, captions_per_image=1)
    assert [row["text"] for row in rows(config.build("train", purpose="training"))] == ["a", "c"]
    assert len(config.build("train")) == 3


OUTSIDE = "is outside the folder"
FAULTS = {
    "field too many": (b"000.png,a,b", "3 fields, but the header has 2"),
    "field too few": (b"000.png", "1 fields, but the header has 2"),
    "no caption": (b"000.png, ", "'text' is empty"),
    "no image": (b",a dog", "'image' is empty"),
    "not UTF-8": (b"000.png,caf\xe9", "the caption is not valid UTF-8"),
    "name not UTF-8": (b"caf\xe9.png,a", "the image name is not valid UTF-8"),
    "NUL": (b"000.png,a\0b", "the caption has a NUL"),
    "NUL in the name": (b"0\0.png,a", "the image name has a NUL"),
    "open quote": (b'000.png,"a dog', "not valid CSV: a quote is not closed"),
    "stray quote": (b'000.png,"a "dog"', "not valid CSV: ',' expected after '\"'"),
    "lone return": (b"000.png,a\rb", "not valid CSV"),
    "no such image": (b"nowhere.png,a dog", "image 'nowhere.png' is not in"),
    "a folder": (b".,a dog", "image '.' is not in"),
    "long name": (b"a" * 5000 + b".png,a dog", "is not in"),
    "up": (b"../000.png,a dog", OUTSIDE),
    "up inside": (b"x/../000.png,a dog", OUTSIDE),
    "absolute": (b"/etc/passwd,a dog", OUTSIDE),
    "Windows": (b"C:/000.png,a dog", OUTSIDE),
    "Windows up": (b"..\\000.png,a dog", OUTSIDE),
}


@pytest.mark.parametrize(("bad", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_bad_row_is_reported_once_and_the_next_is_read(folder, bad, problem):
    write(folder, b"image,text\n001.png,a cat\n" + bad + b"\n002.png,a car\n003.png,a bus\n")
    samples = gather_global_batch(folder)
    assert [row["text"] for row in rows(samples)] == ["a cat", "a car", "a bus"]
    (report,) = samples.bad_rows.lines
    assert report.startswith("captions.csv:3: ")
    assert problem in report
    assert "\n" not in report
    assert len(report) < 1000


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ('{"image": "000.png"', "not valid JSON: Expecting ',' delimiter"),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ("7" * 5000, "not valid JSON"),
        ("NaN", "not a JSON object"),
        ('["000.png", "a dog"]', "not a JSON object"),
        ('{"image": "000.png"}', "'text' is empty or not a text"),
        ('{"image": "000.png", "text": NaN}', "'text' is empty or not a text"),
        ('{"image": "000.png", "text": {"a": 1}}', "'text' is empty or not a text"),
        ('{"image": true, "text": "a"}', "'image' is empty or not a text"),
        ('{"image": "000.png", "text": "\\ud800"}', "the caption is not valid UTF-8"),
    ],
    ids=lambda text: text[:20],
)
def test_a_bad_json_line_is_reported_once_and_the_next_is_read(folder, bad, problem):
    good = '{"image": "001.png", "text": "a cat"}\n'
    samples = gather_global_batch(write(folder, f"{good}{bad}\n{good}", "captions.jsonl"))
    assert len(samples) == 2
    (report,) = samples.bad_rows.lines
    assert report.startswith("captions.jsonl:2: ")
    assert problem in report


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("captions.csv", b"", ":1: the file is empty"),
        ("captions.csv", b"image,text\n", "no samples in split 'train'"),
        ("captions.csv", b"a,b\n", ":1: no column image or file_name or filename"),
        ("captions.csv", b"image;text\n", "no samples in split 'train'"),
        ("captions.csv", b"image text\n", ":1: no column"),
        ("captions.csv", b'"image,text\n', ":1: the header is not valid CSV"),
        ("captions.csv", b'"a\nb",text\n', r"there are: 'a\nb', 'text'"),
        ("captions.csv", b"image,text,text\n", ":1: the header names a column twice"),
        ("captions.csv", "image,text\n".encode("utf-16-be"), ":1: this is UTF-16BE"),
        ("captions.jsonl", b"{}\n", ":1: no column"),
        ("captions.jsonl", b"image,text\n", ":1: not valid JSON"),
        ("captions.csv", b"image,text\n/x,a\n../y,b\nz,c\n", "3 of 3 samples are bad"),
    ],
)
def test_a_broken_table_is_one_line(folder, name, content, problem):
    write(folder, content, name)
    line = message(folder)
    assert problem in line
    assert name in line


def test_the_keys_of_json_lines_are_those_of_all_lines(folder):
    """Rows that say nothing of a split are faults, and those of test stay out of train."""
    rows_of = [{"image": name, "text": f"a dog {i}"} for i, name in enumerate(NAMES[:20])]
    for row in rows_of[1:]:
        row |= {"split": "test" if row["image"] > NAMES[14] else "train", "group": "one"}
    write(folder, "\n".join(map(json.dumps, rows_of)), "captions.jsonl")
    samples = gather_global_batch(folder)
    assert [row["text"] for row in rows(samples)] == [f"a dog {i}" for i in range(1, 15)]
    assert {row["id"] for row in rows(samples)} == {0}
    assert samples.bad_rows.lines == ["captions.jsonl:1: 'split' is empty or not a text"]


def test_a_blank_cell_of_a_column_that_need_not_be_is_as_if_it_were_not_there(folder):
    cells = ["", None, float("nan"), "  ", "pair", "pair", 7.0]
    lines = [
        json.dumps({"image": name, "text": "a", "group": cell, "label": cell})
        for name, cell in zip(NAMES, cells, strict=False)
    ]
    samples = gather_global_batch(write(folder, "\n".join(lines), "captions.jsonl"), max_bad=0)
    assert [row["id"] for row in rows(samples)] == [0, 1, 2, 3, 4, 4, 5]
    assert [row.get("label") for row in rows(samples)] == [None] * 4 + ["pair", "pair", "7"]
    csv = write(folder, f"image,text,group,label\n{NAMES[0]},a,,\n{NAMES[1]},b,g,l\n")
    assert len(gather_global_batch(csv, max_bad=0)) == 2


@pytest.mark.parametrize("separator", [";", "\t", "|", ","])
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.txt"])
def test_another_separator_is_found_and_told(folder, name, separator, capsys):
    lines = [("filepath", "title"), (NAMES[0], "a, b"), (str(folder / NAMES[1]), "c")]
    lines = [[f'"{cell}"' for cell in line] for line in lines]
    write(folder, "\n".join(separator.join(line) for line in lines), name)
    samples = gather_global_batch(folder, max_bad=0, captions=name)
    assert [row["image"].name for row in rows(samples)] == NAMES[:2]
    assert samples[:1] == [samples[0]]
    usual = "\t" if name.endswith(".tsv") else ","
    told = "its columns are separated by " in capsys.readouterr().err
    assert told == (separator != usual)


def test_a_folder_of_images_beside_the_captions(folder):
    """As Kaggle's Flickr8k: captions.txt beside Images."""
    (folder / "Images").mkdir()
    for name in NAMES[:2]:
        (folder / name).rename(folder / "Images" / name)
    write(folder, f"image,caption\n{NAMES[0]},a dog\n{NAMES[1]},a cat\n", "captions.txt")
    samples = gather_global_batch(folder, images="Images", max_bad=0)
    assert samples[1]["image"] == folder / "Images" / NAMES[1]
    assert "Pictures: no such folder" in message(folder, images="Pictures")


def test_a_cell_of_json_lines_may_hold_several_captions(folder):
    lines = [{"image": NAMES[0], "text": ["a dog", "a hound", 7]}, {"image": NAMES[1], "text": []}]
    samples = gather_global_batch(
        write(folder, "\n".join(map(json.dumps, lines)), "captions.jsonl")
    )
    assert [(row["text"], row["id"]) for row in rows(samples)] == [
        ("a dog", 0),
        ("a hound", 0),
        ("7", 0),
    ]
    assert samples.bad_rows.lines == ["captions.jsonl:2: 'text' is empty or not a text"]


@pytest.mark.parametrize(("disk", "table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_found_in_the_other_spelling_of_an_accent(folder, disk, table):
    place = "Zoë/café.png"
    path = folder / normalize(disk, place)
    path.parent.mkdir()
    (folder / NAMES[0]).rename(path)
    samples = gather_global_batch(
        write(folder, f"{COLUMNS}{normalize(table, place)},a café\n"), max_bad=0
    )
    assert samples[0]["image"].samefile(path)


def test_what_programs_leave_beside_images_is_left_out_and_told(folder, capsys):
    for home in ("cats", "dogs", ".ipynb_checkpoints", "__MACOSX/cats"):
        (folder / home).mkdir(parents=True)
        (folder / home / "1.png").write_bytes((folder / NAMES[0]).read_bytes())
    (folder / "cats" / "._1.png").write_bytes(b"Mac OS X")
    for name in NAMES:
        (folder / name).unlink()
    samples = ClassFolders(folder=folder, holdout=0).build("train")
    assert samples.classes == ("cats", "dogs")
    assert len(samples) == 2
    assert " and 2 more: hidden, left out" in capsys.readouterr().err


def test_what_is_not_there_is_said(folder):
    assert "looked for captions or metadata with .csv, .tsv, " in message(folder)
    assert "no such file" in message(folder, captions="x.csv")
    assert "a table is a .csv, .tsv, .txt, .jsonl, .ndjson, .json, .parquet, " in message(
        folder, captions=NAMES[0]
    )
    assert "no such folder" in message(folder / "nowhere")


def test_a_folder_of_another_kind_names_the_type_that_reads_it(folder, capsys):
    for name in NAMES[1:]:
        (folder / name).unlink()
    (folder / "cats").mkdir()
    (folder / NAMES[0]).rename(folder / "cats" / NAMES[0])
    assert message(folder).endswith(
        "; type: class-folders reads images without captions, in folders " + BY
    )
    assert ClassFolders(folder=folder, holdout=0).build("train")[0]["label"] == "cats"
    assert not capsys.readouterr().err
    write(folder, f"{COLUMNS}{NAMES[1]},a cat\n")
    ClassFolders(folder=folder, holdout=0).build("train")
    assert capsys.readouterr().err.strip() == (
        f"{folder / 'captions.csv'}: not read; type: image-folder reads images with their captions"
    )
    with pytest.raises(DataError, match=r"; type: image-folder reads its captions$"):
        Flickr30k(folder=folder).build("train")
    (folder / "captions.csv").rename(folder / "results.csv")
    assert message(folder).endswith("; type: flickr30k reads results.csv")
    (folder / "cats" / "below").mkdir()
    assert message(folder / "cats" / "below").endswith(" a .txt beside each image")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["captions.csv", "captions.tsv", "captions.jsonl"])
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    pieces=st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [b"000.png", b"a dog", b",", b"\t", b"\n", b'"', b"\\", b"{}", b"[", b"\0"]
        )
    ),
    header=st.booleans(),
)
def test_bytes_of_any_kind_give_rows_or_one_line(folder, name, pieces, header):
    heads = {"captions.csv": b"image,text\n", "captions.tsv": b"image\ttext\n"}
    head = heads.get(name, b'{"image": "000.png", "text": "a"}\n') if header else b""
    write(folder, head + b"".join(pieces), name)
    samples, line = attempt(folder, captions=name)
    assert "\n" not in line
    assert all(row["image"].is_file() and row["text"] for row in rows(samples))
    assert not any("\n" in line for line in samples.bad_rows.lines)


class Holder(Config):
    data: Dataset


@pytest.mark.parametrize(
    "config",
    [
        Flickr30k(folder="f", splits="lists", captions_per_image=5),
        ImageFolder(folder="f", label_column="class", holdout=0.2),
    ],
    ids=lambda config: datasets.name_of(type(config)),
)
def test_a_spec_survives_python_and_json(config):
    holder = Holder(data=config)
    assert Holder.model_validate(holder.model_dump()) == holder
    assert Holder.model_validate_json(holder.model_dump_json()) == holder
    assert holder.model_dump(mode="json")["data"]["type"] == datasets.name_of(type(config))


@pytest.mark.parametrize("cls", [datasets[name] for name in datasets])
def test_every_field_is_explained(cls):
    assert attribute_docstrings(cls).keys() == cls.model_fields.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"captions_per_image": 0},
        {"max_bad": 1.1},
        {"holdout": 0.6},
        {"folder": None},
        {"foldr": ""},
    ],
)
def test_fields_are_checked(fields):
    with pytest.raises(SpecError):
        ImageFolder(**{"folder": "f", **fields})


@pytest.mark.slow
def test_neither_menu_nor_kitchen_imports_torch(folder):
    write(folder, f"{COLUMNS}{NAMES[0]},a dog\n")
    program = f"""
import sys
from pathlib import Path
from contrastive.datasets import ImageFolder
import contrastive.datasets
assert "PIL" not in sys.modules
import contrastive.datasets.flickr30k.reader
assert len(ImageFolder(folder=Path({str(folder)!r}), holdout=0).build("train")) == 1
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_mended_rows_do_not_count_as_bad():
    told: list[str] = []
    bad_rows = BadRows(budget=0, on_report=told.append)
    bad_rows.report("a.csv:1", "mended", rows=0)
    bad_rows.check(10)
    bad_rows.report("a.csv:2", "gone", rows=5)
    with pytest.raises(DataError, match="5 of 10 samples are bad, 0 may be"):
        bad_rows.check(10)
    assert told == bad_rows.lines == ["a.csv:1: mended", "a.csv:2: gone"]
