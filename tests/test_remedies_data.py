"""What is told of data is done to them, and then they are read."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from contrastive import build_model
from contrastive.cli.context import named_data
from contrastive.datasets import ImageFolder, WebDataset, datasets
from contrastive.datasets.bare_folder import dataset_in
from contrastive.datasets.compositional import read_pair_tests
from contrastive.errors import ContrastiveError
from contrastive.evaluation.caption_choice import pair_accuracy
from tests.miniature import write_flickr30k
from tests.shards import samples, tar
from tests.toys import tiny_model

NAMES = [f"{i}.png" for i in range(4)]
SPLIT = ("train", "train", "val", "test")
TEXTS = ["a red dog", "a blue dog", "a red cat", "a blue cat"]
CSV = "image,text\n" + "".join(f"{n},{t}\n" for n, t in zip(NAMES, TEXTS, strict=True))


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(png(i))
    return tmp_path


def read(fields: str, split: str = "train") -> list[str]:
    """Return the captions, or classes, of data that are given as on the command line."""
    given = dict(part.split("=", 1) for part in fields.split(",") if part)
    kind = datasets[given.pop("type", "image-folder")]
    place = {} if kind is WebDataset else {"folder": "."}
    given = place | {name: None if v == "null" else v for name, v in given.items()}
    if kind is ImageFolder:
        given = {"holdout": 0, "max_bad": 0} | given
    return [row.get("text") or row.get("label") for row in kind(**given).build(split)]


def told(act, capsys) -> str:
    """Return the error, or else what is said."""
    capsys.readouterr()
    message = ""
    try:
        act()
    except (ContrastiveError, ValueError) as error:
        message = str(error)
    assert "\n" not in message
    return message or capsys.readouterr().err


def write(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def move(*pairs: tuple[str, str]):
    def act():
        for source, target in pairs:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(source, target)

    return act


def again(files: dict[str, str]):
    return lambda: write(files)


def csv_with(header: str, *cells: str) -> str:
    rows = [",".join([n, t, *cells]) for n, t in zip(NAMES, TEXTS, strict=True)]
    return "\n".join([header, *rows]) + "\n"


TABLE = {"captions.csv": CSV}
BESIDE = {f"{i}.txt": text for i, text in enumerate(TEXTS)}
BAD = csv_with("image,text,label", "{1: 2}")
JSONL = "".join(
    json.dumps({"image": n, "text": t, "label": [1]}) + "\n"
    for n, t in zip(NAMES, TEXTS, strict=True)
)
CASES = {  # files, fields, what is told, what is done to the files, fields after that
    "image column": (
        {"captions.csv": csv_with("pic,words")},
        "",
        "set image_column and text_column",
        None,
        "image_column=pic,text_column=words",
    ),
    "a split of another name": (
        {"captions.csv": csv_with("image,text,partition", "train")},
        "",
        "if it is the split, set split_column to it",
        None,
        "split_column=partition",
    ),
    "no label": (
        {"captions.jsonl": JSONL},
        "",
        "label_column: '' does without it",
        None,
        "label_column=",
    ),
    "two columns": (
        {"captions.csv": csv_with("image,text,caption", "x")},
        "",
        "text_column names another",
        None,
        "text_column=caption",
    ),
    "a comment": (
        {"captions.csv": "# of mine\n" + CSV},
        "",
        "its first line looks like a comment; take it out",
        again(TABLE),
        "",
    ),
    "outside": (
        {"captions.csv": CSV.replace("\n0", "\n../x/0").replace(".png\n", ".png\n")},
        "",
        "take '../x/' off the names",
        again(TABLE),
        "",
    ),
    "images elsewhere": (
        {"captions/captions.csv": CSV},
        "folder=captions",
        "set images to their folder",
        None,
        "folder=captions,images=..",
    ),
    "base64": (
        {"captions.csv": CSV.replace("0.png", base64.b64encode(bytes(300)).decode())},
        "",
        "write base64.b64decode of it to a file, and that file's name in its place",
        again(TABLE),
        "",
    ),
    "beside": (
        {f"texts/{name}": text for name, text in BESIDE.items()},
        "",
        "have to lie beside their images: move them there",
        move(*((f"texts/{name}", name) for name in BESIDE)),
        "",
    ),
    "a json for each": (
        {f"{i}.json": json.dumps({"caption": text}) for i, text in enumerate(TEXTS)},
        "",
        "write the captions to .txt beside them",
        again(BESIDE),
        "",
    ),
    "no captions": ({}, "", "type: class-folders reads", None, "type=class-folders,holdout=0"),
    "other type": (TABLE, "type=flickr30k", "type: image-folder reads", None, "type=image-folder"),
    "another table": (
        {"words.csv": CSV},
        "",
        'take type: image-folder, captions: "words.csv"',
        None,
        "type=image-folder,captions=words.csv",
    ),
    "a database": (
        {"captions.csv": "SQLite format 3\0"},
        "",
        "a database; write its table to a CSV",
        again(TABLE),
        "",
    ),
    "JSON of another form": (
        {"captions.json": json.dumps({"x": 1})},
        "",
        'write [{"image": "0.png", "text": "a dog"}, ...]',
        again({"captions.json": '[{"image": "0.png", "text": "a dog"}]'}),
        "",
    ),
    "a URL": (
        {"captions.csv": CSV.replace("\n", "\ns3://a/", 4)},
        "",
        "download the images, and give their folder",
        again({"got/00000/000000000.txt": "a dog"}),
        "folder=got",
    ),
    "a tar": (
        {"tars/0.tar": "x"},
        "folder=tars",
        "type: webdataset reads .tar shards, which are given as shards",
        lambda: Path("tars/0.tar").write_bytes(tar(samples(range(9)))),
        "type=webdataset,shards=tars",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_data_are_read_once_what_is_told_is_done(here, capsys, case):
    files, fields, said, act, then = CASES[case]
    write(files)
    message = told(lambda: read(fields), capsys)
    assert said in message
    if act:
        if "got" in then:
            Path("got/00000").mkdir(parents=True)
            shutil.copy("0.png", "got/00000/000000000.jpg")
        act()
    capsys.readouterr()
    assert read(then)
    assert said not in capsys.readouterr().err


@pytest.mark.parametrize("tool", ["bzip2", "xz", "zstd"])
def test_a_compressed_table_is_decompressed_by_the_command_that_is_told(here, capsys, tool):
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    done = subprocess.run([tool, "-c"], input=CSV.encode(), capture_output=True, check=True)
    Path("captions.csv").write_bytes(done.stdout)
    command = told(lambda: read(""), capsys).rpartition("decompress it: ")[2]
    subprocess.run(command, shell=True, check=True)
    assert read("") == TEXTS
    assert Path("captions.csv.orig").read_bytes() == done.stdout


SPLITS = {  # what is added, and the field that is set
    "json": (["dataset_flickr30k.json"], ""),
    "lists": (["flickr30k_train.txt", "flickr30k_val.txt", "flickr30k_test.txt"], ""),
    "splits": ([], ",splits=../whole/dataset_flickr30k.json"),
    "holdout": ([], ",holdout=0.3"),
}


@pytest.mark.parametrize("remedy", SPLITS)
def test_flickr30k_without_splits_is_given_them_in_each_way_that_is_told(here, capsys, remedy):
    write_flickr30k(here / "part", images=12, forms=("original",))
    if remedy != "holdout":
        write_flickr30k(here / "whole", images=12, lists=True)
    files, fields = SPLITS[remedy]
    said = told(lambda: read("type=flickr30k,folder=part", "val"), capsys)
    assert "or set splits to such a file, or holdout to the share of images for val" in said
    for name in files:
        assert name in said
        (found,) = (path for path in here.glob(f"w*/{name}"))
        shutil.copy(found, "part")
    assert read(f"type=flickr30k,folder=part{fields}", "val")


def test_flickr30k_finds_the_images_where_they_are_said_to_be(here, capsys):
    write_flickr30k(here / "f", images=12)
    shutil.move("f/flickr30k-images", "elsewhere")
    assert told(lambda: read("type=flickr30k,folder=f"), capsys).endswith("images to their folder")
    assert read("type=flickr30k,folder=f,images=../elsewhere")


FIELDS = [
    ("type=flickr30k,folder=null", "folder: where Flickr30k was", "type=flickr30k,folder=f"),
    (
        "type=flickr30k,folder=f,source=hub,images=x",
        "is of source 'folder'",
        "type=flickr30k,folder=f",
    ),
    (
        "type=flickr30k,folder=f,splits=x,holdout=0.1",
        "give one of them",
        "type=flickr30k,folder=f,holdout=0.1",
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), FIELDS)
def test_fields_of_flickr30k_are_those_that_are_told(here, capsys, wrong, said, right):
    write_flickr30k(here / "f", images=12)
    assert said in told(lambda: read(wrong), capsys)
    assert read(right)


def test_classes_in_a_folder_of_a_folder_are_given_as_is_told(here, capsys):
    for i, name in enumerate(NAMES):
        move((name, f"all/photos/{'ab'[i % 2]}/{name}"))()
    said = told(lambda: read("type=class-folders,folder=all,holdout=0"), capsys)
    (folder,) = re.findall("give folder: (.*)", said)
    assert sorted(read(f"type=class-folders,folder={folder},holdout=0")) == [*"aabb"]
    assert not capsys.readouterr().err


def test_a_folder_with_a_table_of_another_name_is_read_by_the_fields_that_are_told(here, capsys):
    write({"words.csv": CSV})
    given = re.findall(r"type=[^;]*", told(lambda: dataset_in(here), capsys))
    assert len(given) == 2
    for fields in given:
        assert read(fields + ",holdout=0")


def test_images_in_folders_of_their_splits_are_found_as_is_told(here, capsys):
    for split, names in (("train", NAMES[:2]), ("val", NAMES[2:])):
        document = {
            "images": [{"id": i, "file_name": n} for i, n in enumerate(names)],
            "annotations": [{"image_id": i, "caption": n} for i, n in enumerate(names)],
        }
        write({f"coco/annotations/captions_{split}2017.json": json.dumps(document)})
        for name in names:
            move((name, f"coco/{split}2017/{name}"))()
    (fields,) = re.findall("give '(.*)'; for", told(lambda: dataset_in(Path("coco")), capsys))
    found = named_data(fields).build("val")
    assert [row["text"] for row in found] == NAMES[2:]


@pytest.mark.parametrize("kind", ["image-folder", "class-folders"])
def test_a_split_has_the_name_that_is_told(kind, here, capsys):
    write({"captions.csv": "image,text,split\n" + "".join(f"{n},a,val\n" for n in NAMES)})
    said = told(lambda: read(f"type={kind}", "validation"), capsys)
    (name,) = re.findall("did you mean '(.*)'", said)
    assert name == "val"


def test_columns_are_separated_as_is_told(here, capsys):
    write({"captions.csv": CSV.replace(",", "^")})
    said = told(lambda: read(""), capsys)
    assert said.endswith("there is one column; separate columns by a comma, semicolon, tab or |")
    for separator in ",;\t|":
        write({"captions.csv": CSV.replace(",", separator)})
        assert read("") == TEXTS


TESTS = [
    {"image": n, "caption": t, "negative_caption": "x"} for n, t in zip(NAMES, TEXTS, strict=True)
]
WINOGROUND = [{"image_0": "0.png", "image_1": "1.png", "caption_0": "a", "caption_1": "b"}]


def lines_of(rows: list[dict[str, str]]) -> Path:
    Path("tests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path("tests.jsonl")


def test_tests_of_captions_have_the_columns_that_are_told(here, capsys):
    (here / "tests.csv").write_text(CSV)
    said = told(lambda: read_pair_tests(here / "tests.csv"), capsys)
    assert said.endswith("image, caption and negative_caption, or " + ", ".join(WINOGROUND[0]))
    for right in (TESTS, WINOGROUND):
        (tests,) = read_pair_tests(lines_of(right))
        assert len(tests.tests) == len(right)


def test_tests_of_one_image_and_of_two_are_measured_in_two_files(here, capsys):
    model = build_model(tiny_model("infonce"))
    (tests,) = read_pair_tests(lines_of(TESTS + WINOGROUND))
    assert "give them in two files" in told(lambda: pair_accuracy(model, tests), capsys)
    for rows in (TESTS, WINOGROUND):
        (tests,) = read_pair_tests(lines_of(rows))
        pair_accuracy(model, tests)


def test_a_name_that_stands_twice_has_a_list_as_is_told(here, capsys):
    rows = [f'"{name}": "{text}"' for name, text in zip(NAMES, TEXTS, strict=True)]
    (here / "captions.json").write_text(f"{{{', '.join([*rows, rows[0]])}}}")
    twice, given = re.search(
        r"(\S+) stands twice; give (a list: \{.*)", told(lambda: read(""), capsys)
    ).groups()
    assert given == f"a list: {{{twice}: [...]}}"
    (here / "captions.json").write_text(
        f"{{{', '.join(rows[1:])}, {twice}: ['a', 'b']}}".replace("'", '"')
    )
    assert len(read("")) == 5
