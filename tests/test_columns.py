"""Rows in columns are the rows that dicts would be: as read, fingerprinted, in other processes."""

import pickle  # noqa: TID251
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.data.column_kinds import Numbered, Strings
from contrastive.data.columns import Columns, chosen, ids_of, some_rows, sources_of, values_of
from contrastive.data.content_hash import sample_keys
from contrastive.datasets import Flickr30k, ImageFolder, image_folder
from contrastive.datasets.built_split import split_reader
from contrastive.datasets.captions.cells import CaptionReader
from contrastive.datasets.captions.rows import Row
from contrastive.datasets.captions.table import CaptionTable
from contrastive.datasets.tables.text_decoding import TextLines
from contrastive.errors import DataError
from contrastive.nn.fingerprint import hash_tensors
from contrastive.training.batches import rows_fingerprint

IMAGES = ("a.jpg", "b.jpg", "sub/c.JPG", "é.png")
NAMES = (*IMAGES, "./a.jpg", "a", "e\u0301.png", "d.jpg", "../a.jpg", "NULL", "", "sub\\c.JPG")
TEXTS = ("a dog", " a dog ", "ein Mädchen", "\u200b", "", "NA", '["x", "y"]', "a & b", "x\u0085")
CELLS = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from(TEXTS),
    st.sampled_from(("train", "dev", "mine", "")),
    st.sampled_from(("", "g", "a.jpg", "\u200b")),
    st.sampled_from(("", "cat", "null", "dog")),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in IMAGES:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def write(folder, rows, columns=("image", "text", "split", "group", "label")):
    lines = ["\t".join(columns), *("\t".join(row[: len(columns)]) for row in rows)]
    (folder / "captions.tsv").write_text("\n".join(lines).replace('"', '""'), encoding="utf-8")


def outcome(folder, split, **fields):
    try:
        built = ImageFolder(folder=folder, max_bad=1, **fields).build(split, purpose="training")
    except DataError as error:
        return str(error)
    return [*built], built.bad_rows.lines, built.bad_rows.bad, built.classes


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(CELLS, max_size=12),
    columns=st.integers(2, 5),
    block=st.sampled_from((1, 3, 100)),
    most=st.sampled_from((None, 1)),
)
def test_rows_that_are_read_together_are_those_that_are_read_one_by_one(
    folder, rows, columns, block, most
):
    write(folder, rows, ("image", "text", "split", "group", "label")[:columns])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrastive.datasets.tables.text_tables.BLOCK", block)
        together = [outcome(folder, x, captions_per_image=most) for x in ("train", "val+mine")]
        patch.setattr(CaptionReader, "_usual", lambda *_: None)
        assert together == [
            outcome(folder, x, captions_per_image=most) for x in ("train", "val+mine")
        ]


def test_plain_rows_are_read_together(folder, monkeypatch):
    write(folder, [(name, f"{i} {name}", "train") for i in range(3) for name in IMAGES], NAMED)
    monkeypatch.setattr(CaptionReader, "_rows", lambda *_: pytest.fail("read one by one"))
    assert len(ImageFolder(folder=folder).build("train")) == 12


NAMED = ("image", "text", "split")


def test_a_table_is_read_once_for_all_splits_of_a_run(folder, monkeypatch):
    write(folder, [("a.jpg", "a", "train"), ("b.jpg", "b", "val")], NAMED)
    read, real = [], image_folder.read_blocks
    monkeypatch.setattr(image_folder, "read_blocks", lambda path: read.append(path) or real(path))
    reader = split_reader(ImageFolder(folder=folder))
    splits = [reader("train", purpose="training"), reader("val")]
    assert [[row["text"] for row in rows] for rows in splits] == [["a"], ["b"]]
    assert len(read) == 1
    assert splits[0].columns is splits[1].columns


def test_a_dataset_with_a_build_of_its_own_is_read_by_that(folder):
    class Own(ImageFolder):
        def build(self, split, *, purpose="evaluation"):
            return [{"text": split, "id": 0, "source": purpose}]

    assert [*split_reader(Own(folder=folder))("val")] == [*Own(folder=folder).build("val")]
    assert vars(Flickr30k)["_reader"]


@settings(deadline=None)
@given(st.text(alphabet="ab\r\n\u2028", max_size=30), st.integers(0, 9), st.data())
def test_lines_are_those_of_the_text_however_many_are_made_at_a_time(text, part, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("contrastive.datasets.tables.text_decoding.PART", part)
        lines = TextLines(text)
    expected = text.split("\n" if "\n" in text else "\r")
    start, stop = (data.draw(st.integers(0, len(expected))) for _ in range(2))
    assert [*lines] == lines[:] == expected
    assert len(lines) == len(expected)
    assert lines[start:stop] == expected[start:stop]
    assert [lines[i] for i in range(len(expected))] == expected


@given(st.lists(st.text(max_size=4)))
def test_texts_come_back_as_they_were(texts):
    strings = Strings.of(texts)
    assert strings.at(np.arange(len(texts))) == texts
    assert strings.having("&0").tolist() == [i for i, x in enumerate(texts) if {*x} & {*"&0"}]


def columns_and_dicts(folder):
    write(folder, [(name, f"{i} {name}", "train") for i in range(3) for name in IMAGES], NAMED)
    columns = ImageFolder(folder=folder).build("train")
    return columns, [*columns]


def test_what_is_asked_of_columns_is_what_is_asked_of_dicts(folder):
    columns, dicts = columns_and_dicts(folder)
    assert columns == dicts
    assert columns[3] == dicts[3]
    assert columns[-1] == dicts[-1]
    assert columns[2:5] == dicts[2:5]
    with pytest.raises(IndexError):
        columns[12]
    assert some_rows(columns, [3, 1]) == [dicts[3], dicts[1]]
    assert ids_of(columns).tolist() == ids_of(dicts).tolist()
    assert [*sources_of(columns)] == sources_of(dicts)
    for key in ("image", "text"):
        assert [*values_of(columns, key)] == values_of(dicts, key)
        assert chosen(values_of(columns, key), [5, 0]) == [dicts[5][key], dicts[0][key]]
        keys = [sample_keys(values_of(rows, key), key) for rows in (columns, dicts)]
        assert keys[0] == keys[1]
    assert rows_fingerprint(columns) == rows_fingerprint(dicts)


def test_the_fingerprint_of_rows_is_that_of_earlier_releases():
    rows = [{"id": 0, "text": "a\ud800'", "source": "t:1"}, {"id": 7, "image": "x"}]
    digest = "ff83a55e67ab9d1a5c5bd98a737bdf05ea63a39af54ae52dd1ab8cc3f8cc424d"
    assert rows_fingerprint(rows) == digest


def test_places_without_a_plain_number_come_back(folder):
    places = ["a:1", "a:01", "b", "a:2147483648", "0"]
    table = CaptionTable.of([Row(p, "x", "text", "train") for p in places], {"x": "x"}).built()
    assert [row["source"] for row in table.split("train", origin="")] == places
    assert isinstance(table.columns["source"], Numbered)


def test_other_processes_get_the_rows_and_share_their_memory(folder):
    columns, dicts = columns_and_dicts(folder)
    assert pickle.loads(pickle.dumps(columns)) == dicts
    sent = [ForkingPickler.loads(ForkingPickler.dumps(columns)) for _ in range(2)]
    assert sent == [dicts, dicts]
    assert isinstance(sent[0], Columns)
    theirs = sent[0].columns["text"].buffer
    assert isinstance(theirs.base, torch.Tensor)
    assert theirs.base.is_shared()
    columns.columns["text"].buffer[:2] = ord("x")  # which a process never does
    assert [rows[0]["text"] for rows in sent] == ["xxa.jpg"] * 2


@pytest.mark.parametrize("size", [0, 1, 3])
def test_what_repeats_one_number_is_hashed_as_any(size):
    """torch calls one number contiguous, whatever its stride."""
    repeated = torch.as_strided(torch.tensor([5]), (size,), (0,))
    assert hash_tensors([("x", repeated)]) == hash_tensors([("x", torch.full((size,), 5))])
