"""Flickr30k: four forms, one dataset; what is broken is said in one line and left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from contrastive.data.bad_rows import BadRows
from contrastive.datasets import Flickr30k
from contrastive.datasets.single_modality import RowList
from contrastive.datasets.tables import text_decoding as tables
from contrastive.errors import DataError
from tests.miniature import FORMS, Picture, write_flickr30k

ALL = ("train", "val", "test")
JSON, HF, PIPES, TOKEN = FORMS.values()
FIRST = Picture(0).name


@pytest.fixture
def folder(tmp_path):
    return write_flickr30k(tmp_path / "flickr30k", forms=tuple(FORMS), lists=True)


def rows(samples):
    return [samples[index] for index in range(len(samples))]


def edit(path: Path, line: int, *replacement: bytes):
    """Put other lines in the place of one (counted from 1)."""
    lines = path.read_bytes().split(b"\n")
    lines[line - 1 : line] = replacement
    path.write_bytes(b"\n".join(lines))


def edit_json(folder: Path, index: int, change) -> None:
    document = json.loads((folder / JSON).read_text())
    document["images"][index] = change(document["images"][index])
    (folder / JSON).write_text(json.dumps(document))


def build(folder: Path, form: str, split: str = "train", **fields):
    return Flickr30k(folder=folder, annotations=Path(form), **fields).build(split)


def message(folder: Path, *, split: str = "train", **fields) -> str:
    """Return the one line with which a build fails."""
    with pytest.raises(DataError) as caught:
        Flickr30k(folder=folder, **fields).build(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def attempt(folder: Path, **fields):
    """Return the samples and no message, or none and the message."""
    try:
        return Flickr30k(folder=folder, **fields).build("train"), ""
    except DataError as error:
        return RowList([], BadRows()), str(error)


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
@pytest.mark.parametrize("split", [*ALL, "train+val+test"])
def test_four_forms_are_one_dataset(folder, split, purpose):
    found = []
    for form in FORMS.values():
        samples = Flickr30k(folder=folder, annotations=form).build(split, purpose=purpose)
        assert samples.bad_rows.lines == []
        found.append([{**row, "source": ""} for row in rows(samples)])
    assert found[0] == found[1] == found[2] == found[3]


def test_a_row_says_what_it_is_and_where_it_is_from(folder):
    sample = build(folder, TOKEN, "test")[1]
    assert sample == {
        "image": folder / "flickr30k-images" / Picture(5).name,
        "text": Picture(5).captions[1],
        "id": 5,
        "source": "results_20130124.token:27",
    }
    with Image.open(sample["image"]) as image:
        assert image.size == (64, 64)
    sources = [build(folder, form, "test")[1]["source"] for form in (JSON, HF, PIPES)]
    assert sources == ["dataset_flickr30k.json: image 5", f"{HF}:7", "results.csv:28"]


def test_training_has_the_first_captions_of_each_image_and_evaluation_all(folder):
    config = Flickr30k(folder=folder)
    texts = [row["text"] for row in rows(config.build("train", purpose="training"))]
    assert texts[:4] == Picture(0).captions[:2] + Picture(1).captions[:2]
    assert len(texts) == 16 * 2
    assert len(config.build("train")) == 16 * 5
    three = config.model_copy(update={"captions_per_image": 3})
    assert len(three.build("train", purpose="training")) == 16 * 3


@pytest.mark.parametrize("form", FORMS.values())
def test_splits_share_no_image_and_are_joined_by_name(folder, form):
    ids = {split: {row["id"] for row in rows(build(folder, form, split))} for split in ALL}
    assert {split: len(found) for split, found in ids.items()} == {"train": 16, "val": 4, "test": 4}
    assert len(set.union(*ids.values())) == 24
    both = {row["id"] for row in rows(build(folder, form, " train + test"))}
    assert both == ids["train"] | ids["test"]


@pytest.mark.parametrize("form", FORMS.values())
@pytest.mark.parametrize("split", ["tset", "", "train+", "train+\n"])
def test_an_unknown_split_is_refused_with_the_known_ones(folder, form, split):
    line = message(folder, annotations=form, split=split)
    assert "there are: 'test', 'train', 'val'" in line


@pytest.mark.parametrize("form", [PIPES, TOKEN])
def test_splits_are_never_invented(tmp_path, form):
    folder = write_flickr30k(tmp_path / "flickr30k", forms=("kaggle", "original"))
    line = message(folder, annotations=form)
    assert "does not say the splits" in line
    assert "flickr30k_train.txt" in line
    assert "set splits" in line


def test_splits_come_from_where_they_are_said_to_be(folder, tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    for split in ALL:
        names = (folder / f"flickr30k_{split}.txt").read_text().replace(".jpg", "")
        (lists / f"{split}.txt").write_text(names)  # as those of Flickr30k Entities
    expected = rows(build(folder, PIPES))
    for splits in (lists, folder, Path(JSON), Path(HF)):
        assert rows(build(folder, PIPES, splits=splits)) == expected
    (lists / "train.txt").unlink()
    assert "there are: 'test', 'val'" in message(folder, annotations=PIPES, splits=lists)
    assert f"{TOKEN}: does not say" in message(folder, annotations=PIPES, splits=TOKEN)
    assert "no such file" in message(folder, annotations=PIPES, splits="nowhere")


@pytest.mark.parametrize("form", FORMS.values())
def test_splits_that_are_given_overrule_those_of_the_annotations(folder, tmp_path, form):
    (tmp_path / "train.txt").write_text(Picture(5).name)
    samples = build(folder, form, splits=tmp_path)
    assert {row["id"] for row in rows(samples)} == {5}


def test_an_image_in_two_splits_is_an_error(folder):
    for name in (JSON, HF):
        (folder / name).unlink()
    edit(folder / "flickr30k_test.txt", 2, FIRST.encode())
    line = message(folder)
    assert f"'{FIRST}' is both in 'train' (flickr30k_train.txt:1)" in line
    assert "in 'test' (flickr30k_test.txt:2)" in line


def test_an_image_of_a_split_without_captions_is_reported(folder):
    edit(folder / "flickr30k_val.txt", 5, b"ghost.jpg")
    samples = build(folder, PIPES, "val", max_bad=1)
    assert samples.bad_rows.lines == []  # the JSON comes first
    (folder / JSON).unlink()
    (folder / HF).unlink()
    samples = build(folder, PIPES, "val", max_bad=1)
    assert samples.bad_rows.lines == [
        "flickr30k_val.txt:5: image 'ghost.jpg' has no captions in results.csv"
    ]


def test_files_are_found_by_their_usual_names(tmp_path):
    folder = write_flickr30k(tmp_path / "kaggle", forms=tuple(FORMS), lists=True)
    outer = folder / "flickr30k_images"
    outer.mkdir()
    (folder / "flickr30k-images").rename(outer / "flickr30k_images")
    (folder / PIPES).rename(outer / PIPES)
    for gone, used in ((None, JSON), (JSON, HF), (HF, PIPES), (None, PIPES)):
        if gone:
            (folder / gone).unlink()
        sample = Flickr30k(folder=folder).build("val")[0]
        assert sample["source"].startswith(used)
        assert sample["image"].is_file()
    (outer / PIPES).unlink()
    assert Flickr30k(folder=folder).build("val")[0]["source"].startswith(TOKEN)


def test_pictures_may_lie_in_the_folder_itself_or_where_images_says(folder):
    flat = folder / "flickr30k-images"
    for path in flat.iterdir():
        path.rename(folder / path.name)
    flat.rmdir()
    assert build(folder, JSON)[0]["image"] == folder / FIRST
    other = folder / "elsewhere"
    other.mkdir()
    (folder / FIRST).rename(other / FIRST)
    samples = build(folder, JSON, images=other, max_bad=1)
    assert [row["image"] for row in rows(samples)] == [other / FIRST] * 5


def test_what_is_not_there_is_said(tmp_path):
    assert "no such folder" in message(tmp_path / "nowhere")
    for name in FORMS.values():
        assert name in message(tmp_path)
    (tmp_path / JSON).write_text('{"images": []}')
    assert "no images" in message(tmp_path)
    assert "no such file" in message(tmp_path, annotations="captions.json")
    assert "no such file" in message(tmp_path, annotations=tmp_path)


A, B = FIRST.encode(), Picture(1).name.encode()
TEXT_FAULTS = {
    "no separator": (b"%s 0 A dog ." % A, b"%s#4 A dog ." % A, "cannot be split"),
    "one field too many": (b"%s| 4| A| dog" % A, b"%s#4\tA\tdog" % A, "cannot be split"),
    "no number": (b"%s| | A dog ." % A, b"%s#\tA dog ." % A, "'' is not a caption's number"),
    "bad number": (b"%s| -1| A dog" % A, b"%s#x\tA dog" % A, "is not a caption's number"),
    "huge number": (b"%s| %s| A" % (A, b"9" * 5000), b"%s#9999\tA" % A, "not a caption's number"),
    "number twice": (b"%s| 3| A dog" % A, b"%s#3\tA dog" % A, "has a caption 3 already"),
    "no caption": (b"%s| 4| " % A, b"%s#4\t" % A, "the caption is empty"),
    "not UTF-8": (b"%s| 4| caf\xe9" % A, b"%s#4\tcaf\xe9" % A, "is not valid UTF-8"),
    "NUL": (b"%s| 4| A\0dog" % A, b"%s#4\tA\0dog" % A, "has a NUL character"),
    "no name": (b"| 4| A dog", b"#4\tA dog", "the image name is empty"),
}


@pytest.mark.parametrize(("pipes", "token", "problem"), TEXT_FAULTS.values(), ids=TEXT_FAULTS)
def test_a_bad_line_is_reported_once_and_left_out(folder, pipes, token, problem):
    for form, line, bad in ((PIPES, 6, pipes), (TOKEN, 5, token)):
        edit(folder / form, line, bad)
        samples = build(folder, form)
        (report,) = samples.bad_rows.lines
        assert report.startswith(f"{form}:{line}: ")
        assert problem in report
        assert len(samples) == 79
        assert samples.bad_rows.bad == 1


def test_the_row_that_kaggle_broke_is_mended_and_reported(folder):
    edit(folder / PIPES, 6, b"%s| 4   A dog runs across the grass ." % A)
    samples = build(folder, PIPES, max_bad=0)
    assert len(samples) == 80
    assert samples[4]["text"] == "A dog runs across the grass ."
    assert samples.bad_rows.lines == ["results.csv:6: a | is missing after the number; mended"]
    edit(folder / PIPES, 6, b"| 4   A dog runs across the grass .")
    assert "the image name is empty" in message(folder, annotations=PIPES, max_bad=0)


def test_faults_of_another_split_are_not_reported(folder):
    edit(folder / TOKEN, 1, b"%s#0\t" % A)
    assert build(folder, TOKEN, "val", max_bad=0).bad_rows.lines == []


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_tolerated(folder):
    for form in FORMS.values():
        expected = [row["text"] for row in rows(build(folder, form))]
        path = folder / form
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\n")
        samples = build(folder, form)
        assert [row["text"] for row in rows(samples)] == expected
        assert samples.bad_rows.lines == []


HF_FAULTS = {
    "a field too few": (b'"[""A dog""]",train', "2 fields, but the header has 5"),
    "not JSON": (b"A dog,[0],train,%s,0" % B, "has no captions"),
    "nested": (b"%s,[0],train,%s,0" % (b"[" * 5000, B), "has no captions"),
    "empty list": (b"[],[0],train,%s,0" % B, "has no captions"),
    "no filename": (b'"[""A dog""]",[0],train,,0', "no filename"),
    "no split": (b'"[""A dog""]",[0],,%s,0' % B, "has no split"),
    "image again": (b'"[""A dog""]",[0],train,%s,0' % A, "was here before"),
    "open quote": (b'"[""A dog""],[0],train,%s,0' % B, "not valid CSV"),
    "text after a quote": (b'"[""A dog""]" ,[0],train,%s,0' % B, "not valid CSV"),
    "name not UTF-8": (b'"[""A dog""]",[0],train,\xff.jpg,0', "no filename"),
}


@pytest.mark.parametrize(("bad", "problem"), HF_FAULTS.values(), ids=HF_FAULTS)
def test_a_bad_row_of_the_csv_is_reported_once_and_the_next_is_read(folder, bad, problem):
    edit(folder / HF, 3, bad)
    samples = build(folder, HF)
    (report,) = samples.bad_rows.lines
    assert report.startswith(f"{HF}:3: ")
    assert problem in report
    assert len(samples) == 75


JSON_FAULTS = {
    "not an object": (lambda _: 7, "image 0: not an object"),
    "no filename": (lambda image: {**image, "filename": None}, "image 0: no filename"),
    "name of NUL": (lambda image: {**image, "filename": "a\0b"}, "image 0: no filename"),
    "no split": (lambda image: {**image, "split": ["train"]}, "image 0: image '10"),
    "no sentences": (lambda image: {**image, "sentences": {}}, "image 0: image '10"),
    "missing picture": (
        lambda image: {**image, "filename": "x\ny.jpg"},
        r"image 'x\ny.jpg' is not in",
    ),
}


@pytest.mark.parametrize(("change", "problem"), JSON_FAULTS.values(), ids=JSON_FAULTS)
def test_a_bad_entry_is_reported_once_and_left_out(folder, change, problem):
    edit_json(folder, 0, change)
    samples = build(folder, JSON, max_bad=0.1)
    (report,) = samples.bad_rows.lines
    assert report.startswith(f"{JSON}: image 0: ")
    assert problem in report
    assert "\n" not in report
    assert len(samples) == 75


@pytest.mark.parametrize("name", ["../x.jpg", "{folder}/x.jpg", "/" + FIRST])
def test_no_name_leads_out_of_the_folder_of_pictures(folder, name):
    Picture(0).draw().save(folder / "x.jpg")
    name = name.format(folder=folder)
    edit_json(folder, 0, lambda image: {**image, "filename": name})
    samples = build(folder, JSON, max_bad=0.1)
    assert len(samples) == 75
    assert all(line.endswith("is outside the folder") for line in samples.bad_rows.lines)


@pytest.mark.parametrize(
    ("sentence", "problem"),
    [
        ({"raw": " \t"}, "is empty"),
        ({"raw": "\ud800"}, "is not valid UTF-8; save the file as UTF-8"),
        ({"raw": float("nan")}, "is not a text"),
        ({"raw": [[]]}, "is not a text"),
        ("A dog", "is not a text"),
        ({}, "is not a text"),
    ],
)
def test_a_bad_sentence_is_reported_once_and_left_out(folder, sentence, problem):
    edit_json(folder, 1, lambda image: image["sentences"].__setitem__(2, sentence) or image)
    samples = build(folder, JSON)
    assert samples.bad_rows.lines == [f"{JSON}: image 1: caption 2 {problem}"]
    assert len(samples) == 79


@pytest.mark.parametrize("form", FORMS.values())
def test_a_missing_picture_is_reported_once_and_all_its_rows_count(folder, form):
    (folder / "flickr30k-images" / FIRST).unlink()
    samples = build(folder, form, max_bad=0.1)
    (report,) = samples.bad_rows.lines
    assert f"image '{FIRST}' is not in {folder / 'flickr30k-images'}" in report
    assert len(samples) == 75
    assert samples.bad_rows.bad == 5
    assert message(folder, annotations=form).startswith("5 of 80 samples are bad, 1 may be")
    assert build(folder, form, "test").bad_rows.lines == []


def test_too_many_faults_end_the_build_in_one_line(folder):
    edit(folder / TOKEN, 3, b"no tab", b"no\x85tab", b"no tab \xe2\x80\xa8 ")
    line = message(folder, annotations=TOKEN)
    assert line.startswith("3 of 82 samples are bad, 1 may be (max_bad: 0.01): ")
    assert f"{TOKEN}:3: " in line
    assert f"{TOKEN}:5: " in line
    assert len(build(folder, TOKEN, max_bad=0.04)) == 79


BROKEN = {
    "empty json": (JSON, b"", ":1: the file is empty"),
    "empty csv": (HF, b"\n \n", ":1: the file is empty"),
    "empty pipes": (PIPES, b"", ":1: the file is empty"),
    "empty token": (TOKEN, b"\xef\xbb\xbf", ":1: the file is empty"),
    "UTF-16": (TOKEN, "a#0\tA dog".encode("utf-16-le"), ":1: this is UTF-16LE"),
    "cut off": (JSON, b'{"images": [\n{"filename":', ":2: not valid JSON: Expecting value"),
    "two documents": (JSON, b"{}\n{}", ":2: not valid JSON: Extra data"),
    "single quotes": (JSON, b"{'images': []}", ":1: not valid JSON"),
    "deep": (JSON, b"[" * 100_000, ":1: not valid JSON: nested too deeply"),
    "long number": (JSON, b'{"images": [' + b"9" * 5000 + b"]}", ":1: not valid JSON"),
    "bytes": (JSON, b"\x80\x81", ":1: is not UTF-8"),
    "a list": (JSON, b"[]", ":1: there is no list 'images'"),
    "NaN": (JSON, b"NaN", ":1: there is no list 'images'"),
    "images no list": (JSON, b'{"images": {}}', ":1: there is no list 'images'"),
    "no images": (JSON, b'{"images": []}', "no samples in split 'train'"),
    "all bad": (JSON, b'{"images": [0, 1, 2]}', "3 of 3 samples are bad"),
    "one bad": (JSON, b'{"images": [0]}', "no samples in split 'train': "),
    "no column": (HF, b"raw,filename\n", ":1: no column 'split'; there are: 'raw', 'filename'"),
    "no header": (HF, b'"[""A dog""]",[0],train,a.jpg,0\n', ":1: no column"),
    "column twice": (HF, b"raw,raw,split,filename\n", ":1: the header names a column twice"),
    "open header": (HF, b'"raw,split\n', ":1: the header is not valid CSV"),
    "long header": (HF, b"raw\n".rjust(200_000, b"x"), "'; there are: 'xxx"),
    "header only": (HF, b"raw,split,filename\n", "no samples in split 'train'"),
    "pipes, no header": (PIPES, b"a.jpg| 0| A dog\n", ":1: the columns are 'a.jpg'"),
    "pipes, other header": (PIPES, b"image|caption\n", ":1: the columns are 'image', 'caption'"),
    "pipes, line feed": (PIPES, b"a\x0bb|c\x0c\n", ":1: the columns are"),
    "prose": (TOKEN, b"Once\nupon\na\ntime\n", "samples are bad"),
    "a JPEG": (TOKEN, b"\xff\xd8\xff\xe0\x00\x10JFIF\n\x00" * 9, "samples are bad"),
}


@pytest.mark.parametrize(("form", "content", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_one_line(folder, form, content, problem):
    (folder / form).write_bytes(content)
    line = message(folder, annotations=form)
    assert problem in line
    assert form in line
    assert len(line) < 1000


def test_a_huge_file_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr(tables, "MAX_BYTES", 100)
    assert "limit 100" in message(folder)


LIST = "lists/val.txt"
FUZZED = [(form, form) for form in FORMS.values()] + [(TOKEN, JSON), (TOKEN, HF), (TOKEN, LIST)]


@pytest.fixture
def originals(folder):
    (folder / "lists").mkdir()
    for split in ALL:
        (folder / f"flickr30k_{split}.txt").rename(folder / f"lists/{split}.txt")
    return {name: (folder / name).read_bytes() for name in (*FORMS.values(), LIST)}


@pytest.mark.slow
@pytest.mark.parametrize(("form", "fuzzed"), FUZZED)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bytes_of_any_kind_give_rows_or_one_line(folder, originals, form, fuzzed, data):
    whole = originals[fuzzed]
    junk = st.binary(max_size=60) | st.sampled_from([b'"', b"\n", b"\0", b"|", b"\t", b"[", b"\\"])
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(start + 400, len(whole))))
    damaged = whole[:start] + data.draw(junk) + whole[stop:]
    content = data.draw(st.binary(max_size=300) | st.just(damaged))
    (folder / fuzzed).write_bytes(content)
    splits = folder / "lists" if fuzzed == LIST else Path(fuzzed if fuzzed in (JSON, HF) else JSON)
    samples, line = attempt(folder, annotations=form, splits=splits, max_bad=0.5)
    assert "\n" not in line
    for row in rows(samples):
        assert row["image"].is_file()
        assert row["text"].strip() == row["text"] != ""
        row["text"].encode()
    assert not any("\n" in line for line in samples.bad_rows.lines)
