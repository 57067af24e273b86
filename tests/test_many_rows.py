"""What is fast for a hundred thousand rows gives what is slow and obvious."""

import csv
import gc
import os
import unicodedata
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.config.garbage import garbage_later
from contrastive.data import content_index
from contrastive.data.content_hash import sample_key, sample_keys, short_key, short_keys
from contrastive.data.content_index import ContentIndex
from contrastive.datasets import ImageFolder
from contrastive.datasets.file_index import PLAIN, leaves_folder
from contrastive.datasets.tables.text_decoding import UNSEEN, text_problem
from contrastive.datasets.tables.text_tables import MAX_SPAN, _in_blocks
from contrastive.errors import BadSample

PIECES = st.text(alphabet='ab,"\\\r ', max_size=12)


def rows_one_by_one(lines):
    """Read each row by a reader of its own, with quotes doubled, else after a backslash."""
    start = 0
    while start < len(lines):
        ahead = [f"{line}\n" for line in lines[start : start + MAX_SPAN]]
        ways = [{}, {"escapechar": "\\", "doublequote": False}][: 1 + ('\\"' in lines[start])]
        for way in ways:
            reader = csv.reader(iter(ahead), strict=True, **way)
            try:
                cells, read = next(reader), reader.line_num
                break
            except csv.Error as error:
                why = "a quote is not closed" if "end of data" in str(error) else str(error)
                cells, read = f"not valid CSV: {why}", 1
        if cells:
            yield start + 1, cells
        start += read


def delimited(lines):
    """Return the line and the cells of each row, as a table is read."""
    return [row for block in _in_blocks(lines, ",") for row in zip(*block, strict=True)]


@given(st.lists(PIECES, min_size=1, max_size=8))
def test_rows_of_a_table_are_those_that_are_read_one_by_one(lines):
    assert delimited(lines) == list(rows_one_by_one(lines))


@pytest.mark.parametrize("span", [MAX_SPAN - 1, MAX_SPAN, MAX_SPAN + 1])
def test_a_quote_is_looked_for_as_far_as_one_row_may_span(span):
    lines = ["a,b", '"' + "x", *["x"] * (span - 2), 'x"', "c,d"]
    assert delimited(lines) == list(rows_one_by_one(lines))


@given(st.text(alphabet="ab/\\.:~% \n", max_size=10))
def test_a_plain_path_is_the_same_on_every_system_and_leaves_no_folder(path):
    flavours = (PurePosixPath(path), PureWindowsPath(path))
    leaves = any(flavour.anchor or ".." in flavour.parts for flavour in flavours)
    assert leaves_folder(path) == ("/" in path and leaves)
    if PLAIN.fullmatch(path):
        assert not leaves
        assert str(flavours[0]) == flavours[1].as_posix() == path


@given(st.text(max_size=6))
def test_a_text_of_printable_ascii_has_no_flaw(text):
    if text.isascii() and text.isprintable() and text.strip():
        assert "\0" not in text
        assert any(unicodedata.category(letter) not in UNSEEN for letter in text)
        assert text_problem(text) == ""


def test_an_image_of_several_captions_is_looked_up_once_and_has_the_key_that_it_has_alone(
    tmp_path, monkeypatch
):
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for i, path in enumerate(paths[:2]):
        path.write_bytes(bytes([i]))
    asked = []
    real = ContentIndex.hash_of
    monkeypatch.setattr(ContentIndex, "hash_of", lambda i, p: asked.append(p) or real(i, p))
    samples = [path for path in paths for _ in range(5)] + [b"\0", str(paths[1])]
    bad = []
    keys = sample_keys(samples, "image", lambda i, problem: bad.append((i, problem)))
    assert asked == [*paths, Path(paths[1])]
    assert keys == [key_alone(sample) for sample in samples]
    assert [i for i, _ in bad] == [10, 11, 12, 13, 14]
    assert {problem for _, problem in bad} == {f"{paths[2]}: cannot be read: {os.strerror(2)}"}
    assert short_keys(samples, "image").tolist() == [
        short_key(sample, "image") for sample in samples
    ]
    texts = ["a", "b", "a"]
    assert sample_keys(texts, "text") == [sample_key(text, "text") for text in texts]


def key_alone(sample):
    try:
        return sample_key(sample, "image")
    except BadSample:
        return None


@pytest.mark.parametrize("at_a_time", [1, 2, 500])
def test_files_are_looked_up_many_at_a_time(tmp_path, monkeypatch, at_a_time):
    monkeypatch.setattr(content_index, "RESOLUTION", -(10**12))
    monkeypatch.setattr(content_index, "AT_A_TIME", at_a_time)
    paths = [tmp_path / f"{i}.jpg" for i in range(5)]
    for path in paths:
        path.write_bytes(path.name.encode())
    first = ContentIndex(tmp_path / "index")
    hashes = [first.hash_of(path) for path in paths[:4]]
    first.write()
    second = ContentIndex(tmp_path / "index")
    second.look_up(paths)
    assert sorted(second.files) == [str(path) for path in paths[:4]]
    monkeypatch.setattr(content_index, "read_bounded", lambda *_: pytest.fail("read again"))
    assert [second.hash_of(path) for path in paths[:4]] == hashes


def test_captions_of_an_image_share_its_path(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "captions.csv").write_text("image,text,split\na.jpg,one,train\na,two,train\n")
    one, two = ImageFolder(folder=str(tmp_path)).build("train")[:2]
    assert one["image"] is two["image"]


def test_the_search_for_garbage_is_as_it_was_afterwards():
    with garbage_later():
        assert not gc.isenabled()
        with garbage_later():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
