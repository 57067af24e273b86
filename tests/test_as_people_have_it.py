"""Tables and folders as people have them: read, or told in one line what to do, which works."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path

import pytest

from contrastive.datasets import ClassFolders, ImageFolder
from contrastive.datasets.bare_folder import dataset_in
from contrastive.errors import DataError
from tests.toys import write_noise

TEXTS = ("a dog", "a cat", "a cow")
NAMES = ("0.png", "1.png", "2.png")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    write_noise(Path("photos"))
    return Path("photos")


def write(folder, rows, header="image,text", name="captions.csv"):
    (folder / name).write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def read(folder, **fields):
    data = ImageFolder(**{"folder": folder, "holdout": 0, "max_bad": 0} | fields).build("train")
    return [(row["image"].name, row["text"]) for row in data]


def told(folder, **fields):
    with pytest.raises(DataError) as error:
        read(folder, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


PAIRS = list(zip(NAMES, TEXTS, strict=True))


@pytest.mark.parametrize("written", ["photos/{}", "./photos/{}", "%2E/{}", r"photos\{}"])
def test_an_image_is_found_as_it_is_written(folder, written):
    rows = [f"{written.format(name)},{text}" for name, text in PAIRS]
    write(folder, rows)
    assert read(folder) == PAIRS


def test_the_case_of_a_suffix_does_not_matter(folder):
    for name in NAMES:
        (folder / name).rename(folder / name.replace("png", "PNG"))
    write(folder, [f"{name},{text}" for name, text in PAIRS])
    assert [text for _, text in read(folder)] == list(TEXTS)
    write(folder, [f"{name.replace('png', 'Png')},{text}" for name, text in PAIRS])
    assert [text for _, text in read(folder)] == list(TEXTS)


def test_a_file_of_that_very_name_comes_first(folder):
    (folder / "0.PNG").write_bytes((folder / "1.png").read_bytes())
    write(folder, ["0.png,lower", "0.PNG,upper"])
    assert read(folder) == [("0.png", "lower"), ("0.PNG", "upper")]
    (folder / "a%20b.png").write_bytes((folder / "0.png").read_bytes())
    (folder / "a b.png").write_bytes((folder / "1.png").read_bytes())
    write(folder, ["a%20b.png,as it is", "a b.png,a space"])
    assert read(folder) == [("a%20b.png", "as it is"), ("a b.png", "a space")]


def test_names_that_are_escaped_for_the_web_are_read(folder):
    (folder / "0.png").rename(folder / "my photo (1) 100%.png")
    write(folder, ["my%20photo%20(1)%20100%25.png,a dog"])
    assert read(folder) == [("my photo (1) 100%.png", "a dog")]


@pytest.mark.parametrize("prefix", ["/home/alice/project/", "C:\\Users\\alice\\"])
def test_paths_of_another_machine_say_what_to_take_off(folder, prefix):
    (folder / "img").mkdir()
    for name in NAMES:
        (folder / name).rename(folder / "img" / name)
    inside = "img\\" if "\\" in prefix else "img/"
    write(folder, [f"{prefix}{inside}{name},{text}" for name, text in PAIRS])
    (found,) = set(re.findall(r"; take '(.*?)' off the names", told(folder)))
    table = folder / "captions.csv"
    table.write_text(table.read_text().replace(found, ""))
    assert read(folder) == PAIRS


def test_a_path_that_leaves_the_folder_to_nothing_known_says_only_so(folder):
    write(folder, ["/nowhere/x.png,a", "../photos/0.png,b"])
    assert told(folder, max_bad=0) == (
        "2 of 2 samples are bad, 0 may be (max_bad: 0): captions.csv:2: image '/nowhere/x.png' is "
        "outside the folder; captions.csv:3: image '../photos/0.png' is outside the folder; take "
        "'../photos/' off the names"
    )


@pytest.mark.parametrize("start", ["", "data:image/png;base64,"])
def test_images_in_base64_are_told_and_written_to_files_as_is_told(folder, start):
    coded = [base64.b64encode((folder / name).read_bytes()).decode() for name in NAMES]
    rows = [{"image": start + code, "text": text} for code, text in zip(coded, TEXTS, strict=True)]
    (folder / "captions.json").write_text(json.dumps(rows))
    assert (
        "row 1: its image is not the name of a file but base64; write base64.b64decode of it"
        in (told(folder))
    )
    for row, name in zip(rows, ("a.png", "b.png", "c.png"), strict=True):
        content = base64.b64decode(row["image"].removeprefix(start))
        (folder / name).write_bytes(content)
        row["image"] = name
    (folder / "captions.json").write_text(json.dumps(rows))
    assert [text for _, text in read(folder)] == list(TEXTS)


def test_commas_without_quotes_are_told_and_quoted_as_is_told(folder):
    write(folder, [f"{name},{text}, really" for name, text in PAIRS])
    assert (
        "captions.csv:2: 3 fields, but the header has 2; a text that holds the separator needs"
        in (told(folder))
    )
    write(folder, [f'{name},"{text}, really"' for name, text in PAIRS])
    assert read(folder) == [(name, f"{text}, really") for name, text in PAIRS]


def test_quotes_after_a_backslash_are_read(folder):
    write(folder, [r'0.png,"he said \"hi, dog\" to it"', r'1.png,"a ""cat"""', r"2.png,a \ cow"])
    assert read(folder) == [
        ("0.png", 'he said "hi, dog" to it'),
        ("1.png", 'a "cat"'),
        ("2.png", r"a \ cow"),
    ]
    write(folder, [r'0.png,"cut \"off'])
    assert "captions.csv:2: not valid CSV" in told(folder)


def test_comments_before_the_header_are_taken_out_as_is_told(folder):
    write(folder, ["image,text", *map(",".join, PAIRS)], "# mine")
    assert told(folder).endswith("; its first line looks like a comment; take it out")
    table = folder / "captions.csv"
    table.write_text(table.read_text().partition("\n")[2])
    assert read(folder) == PAIRS


@pytest.mark.parametrize("names", ["caption_1,caption_2", "text 0,text 1", "Caption1,Caption2"])
def test_columns_that_are_numbered_are_captions_of_one_image(folder, names, capsys):
    write(folder, ["0.png,a dog,it runs", "1.png,a cat,", "2.png,NULL,a cow"], f"image,{names}")
    assert read(folder) == [
        ("0.png", "a dog"),
        ("0.png", "it runs"),
        ("1.png", "a cat"),
        ("2.png", "a cow"),
    ]
    first, second = names.split(",")
    assert f"{first!r}, {second!r} are captions of one image\n" in capsys.readouterr().err
    assert read(folder, text_column=first, max_bad=0.5)[0] == ("0.png", "a dog")


def test_captions_may_be_called_so_in_the_plural(folder):
    rows = [{"image": "0.png", "captions": ["a dog", "it runs"]}]
    (folder / "captions.json").write_text(json.dumps(rows))
    assert read(folder) == [("0.png", "a dog"), ("0.png", "it runs")]


@pytest.mark.parametrize(
    ("column", "role"), [("set", "split"), ("is_train", "split"), ("Category", "label")]
)
def test_a_column_that_may_have_a_role_is_told_with_what_gives_it(folder, column, role, capsys):
    values = ("train", "train", "test") if column == "set" else ("x", "x", "y")
    write(folder, map(",".join, zip(NAMES, TEXTS, values, strict=True)), f"image,text,{column}")
    read(folder)
    said = f"{column!r} is not read; if it is the {role}, set {role}_column to it\n"
    assert capsys.readouterr().err.endswith(said)
    data = ImageFolder(folder=folder, holdout=0, **{f"{role}_column": column})
    assert len(data.build(values[0] if role == "split" else "train")) == (3, 2)[role == "split"]
    assert not capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".txt", ".caption"])
def test_texts_beside_the_images_are_found_by_their_suffix(folder, suffix, capsys):
    for name, text in PAIRS:
        (folder / name).with_suffix(suffix).write_text(text)
    data = dataset_in(folder)
    assert isinstance(data, ImageFolder)
    assert str(data.captions) == f"*{suffix}"
    assert read(folder) == PAIRS
    assert f"captions are those of the {suffix} beside each image" in capsys.readouterr().err


@pytest.mark.parametrize("box", ["0 0.5 0.5 0.2 0.2\n", "3 1e-05 0.5 2E+01 1\n", ""])
def test_boxes_beside_the_images_are_no_captions(folder, box):
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text(box)
    assert isinstance(dataset_in(folder), ClassFolders)
    assert "photos: no captions; looked for" in told(folder)


def test_a_caption_of_one_chinese_letter_is_one(folder):
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text("狗", encoding="utf-8")
    assert [text for _, text in read(folder)] == ["狗"] * 3


def test_texts_in_another_folder_are_moved_as_is_told(folder):
    (folder / "images").mkdir()
    (folder / "texts").mkdir()
    for name, text in PAIRS:
        (folder / name).rename(folder / "images" / name)
        (folder / "texts" / name).with_suffix(".txt").write_text(text)
    said = "; photos/texts/0.txt and its like have to lie beside their images: move them there"
    assert told(folder).endswith(said)
    for text in (folder / "texts").glob("*.txt"):
        text.rename(folder / "images" / text.name)
    assert read(folder) == PAIRS


def test_a_json_for_each_image_is_told(folder):
    for name, text in PAIRS:
        (folder / name).with_suffix(".json").write_text(json.dumps({"caption": text}))
    assert told(folder).endswith(
        "; a .json for each image is not read; write the captions to .txt beside them"
    )
    for path in folder.glob("*.json"):
        path.with_suffix(".txt").write_text(json.loads(path.read_text())["caption"])
    assert read(folder) == PAIRS


def test_a_table_with_a_suffix_that_windows_hides_is_read_as_is_told(folder):
    write(folder, map(",".join, PAIRS), name="captions.csv.txt")
    (name,) = re.findall(r'captions: "(.*)"$', told(folder))
    assert read(folder, captions=name) == PAIRS


def test_a_file_in_place_of_a_folder_is_told(folder):
    write(folder, map(",".join, PAIRS))
    assert told("photos/captions.csv") == "photos/captions.csv: is a file; give its folder"
    shutil.make_archive("photos", "zip", "photos")
    assert told("photos.zip") == "photos.zip: is a file; unpack it, and give that folder"
    shutil.unpack_archive("photos.zip", "unpacked")
    assert read("unpacked") == PAIRS
