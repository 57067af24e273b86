"""What users and strangers do to an index: nothing is lost, changed or left out without a word."""

from __future__ import annotations

import errno
import json
import os
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from contrastive import (
    Index,
    add_to_index,
    build_index,
    build_model,
    remove_from_index,
    search,
    update_index,
)
from contrastive.errors import DataError, SpecError
from contrastive.indexes.index_file import DataOf
from contrastive.indexes.segments import listed_file
from tests.miniature import Picture
from tests.test_index import damage, rows_of
from tests.toys import tiny_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


def pictures(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        Picture(sum(map(ord, name)) % 40).draw().save(folder / name)


def test_files_of_others_in_a_folder_without_an_index_stay(model, tmp_path):
    mine = tmp_path / "train-000000.parquet"
    mine.write_text("mine")
    with pytest.raises(DataError, match=r"holds no index\.json; give another folder"):
        build_index(model, rows_of(["a"]), tmp_path)
    assert mine.read_text() == "mine"


def with_column(values, name="label"):
    return lambda table: table.append_column(name, values)


TABLES = {
    "twice": (with_column(pa.array(["a"] * 3)), "has label twice"),
    "far": (with_column(pa.array([2**62] * 3, pa.timestamp("us")), "t"), "t is of timestamp"),
    "lists": (with_column(pa.array([[1]] * 3), "t"), "its column t is of list"),
    "ids": (lambda t: t.set_column(3, "id", pa.array([0.5] * 3)), "its column id is of double"),
    "no key": (lambda t: t.drop_columns(["row_key"]), "no column row_key"),
    "null": (lambda t: t.set_column(4, "source", pa.nulls(3, pa.string())), "source is missing"),
    "many": (lambda t: pa.concat_tables([t] * 1000), "3000 rows, not 3"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_other_columns_is_one_line(name, model, tmp_path):
    build_index(model, rows_of(["a", "b", "c"]), tmp_path)
    (path,) = tmp_path.glob("*.parquet")
    change, said = TABLES[name]
    pq.write_table(change(pq.read_table(path)), path)
    listed = listed_file(path).model_dump()
    damage(lambda about: about["segments"][0].update(table=listed))(tmp_path)
    with pytest.raises(DataError, match=said) as error:
        search(model, "a", index=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX")
@pytest.mark.parametrize("kind", ["vectors", "table"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(kind, model, tmp_path):
    build_index(model, rows_of(["a"]), tmp_path)
    (path,) = tmp_path.glob("*.safetensors" if kind == "vectors" else "*.parquet")
    path.unlink()
    os.mkfifo(path)
    damage(lambda about: about["segments"][0][kind].update(bytes=0))(tmp_path)
    with pytest.raises(DataError, match=r"is no regular file|cannot be read"):
        search(model, "a", index=tmp_path)


VALUES = [
    ("a", "a"),
    (True, True),
    (np.float32(2.5), 2.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
    (date(2020, 1, 2), "2020-01-02"),
    (np.datetime64("2020-01-02"), "2020-01-02"),
    (10**30, str(10**30)),
    ("\ud800", "\\ud800"),
    (float("nan"), None),
    (None, None),
]


def test_columns_have_what_rows_say(model, tmp_path, capsys):
    same = rows_of(["a"] * len(VALUES))
    rows = [row | {"value": value} for row, (value, _) in zip(same, VALUES, strict=True)]
    for number, (row, (_, expected)) in enumerate(zip(rows, VALUES, strict=True)):
        index = build_index(model, [row], tmp_path / f"{number}").index
        (hit,) = index.search(model.embed("text", ["a"]), "text")[0]
        assert hit.row.others.get("value") == expected
        assert build_index(model, [row], tmp_path / f"{number}").changed == 0
    assert "not kept" not in capsys.readouterr().err
    build_index(model, rows, tmp_path / "mixed")
    assert "as texts where their values are of several types: value" in capsys.readouterr().err
    odd = rows_of(["a", "b"])
    odd[0] |= {"tags": ["x"], "sample": 1, "huge": 10**5000, 3: 4}
    build_index(model, [row | {"id": row["text"]} for row in odd], tmp_path / "odd")
    said = capsys.readouterr().err
    assert "not kept as columns: tags, huge, 3; they hold texts, numbers, dates or bools" in said
    assert "not kept as columns: sample; the index has such of its own; rename them" in said
    assert "ids such as 'a' are numbered; another column with them as well keeps them" in said


def test_a_table_that_is_written_anew_changes_no_row(model, tmp_path):
    """In a column of 1 and 2.5, 1 is 1.0."""
    prices = [1, 2.5, 3, "four", 5, 6]
    named = zip(rows_of([*"abcdef"]), prices, strict=True)
    rows = [row | {"price": price} for row, price in named]
    build_index(model, rows, tmp_path)
    remove_from_index(tmp_path, [*"bdef"])
    found = update_index(model, rows, tmp_path)
    assert (found.added, found.removed, found.changed, found.encoded) == (4, 0, 0, 4)


def test_rows_that_are_only_numbered_anew_are_no_changes(model, tmp_path):
    rows = rows_of([*"abcd"], ["x"] * 4)
    build_index(model, rows, tmp_path)
    left = [row | {"id": i} for i, row in enumerate(rows[1:])]
    left[2] |= {"label": "y"}
    found = update_index(model, left, tmp_path)
    assert (found.added, found.removed, found.changed, found.renumbered) == (0, 1, 1, 2)
    hits = found.index.search(model.embed("text", ["b"]), "text")[0]
    assert {hit.row.sample: hit.row.id for hit in hits} == {"b": 0, "c": 1, "d": 2}


def test_all_copies_of_a_broken_image_are_told(model, tmp_path, capsys):
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_text("no image")
    rows = [{"image": tmp_path / f"{name}.jpg", "id": name, "source": name} for name in "abc"]
    for _ in range(2):
        found = build_index(model, rows, tmp_path / "index")
        assert (found.added, found.encoded) == (0, 0)
        said = capsys.readouterr().err
        assert "a: " in said
        for name in "bc":
            assert f"{name}: its content is that of a; left out" in said


def test_a_row_is_meant_by_any_way_to_write_its_path(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", "1.png", "2.png", "3.png")
    rows = [{"image": path, "id": 0} for path in sorted(Path("photos").iterdir())]
    index = build_index(model, rows, "index").index
    for way in ("./photos/1.png", tmp_path / "photos" / "1.png", Path("photos/1.png")):
        _, found = index.like(way)
        assert len(found) == 2
    assert remove_from_index("index", ["./photos/2.png"]).removed == 1
    index = Index("index")
    with pytest.raises(DataError, match=r"has no photos/2\.png; give a path"):
        index.like("photos/2.png")
    with pytest.raises(SpecError, match="take out the one, then the other"):
        remove_from_index("index", ["photos/1.png"], where=["id=0"])


def test_conditions_that_nothing_meets_are_told(model, tmp_path, capsys):
    rows = rows_of(["a dog", "b"])
    index = build_index(model, rows, tmp_path).index
    query = model.embed("text", ["a"])
    (hit,) = index.search(query, "text", where=["text=a*"])[0]
    assert hit.row.sample == "a dog"
    assert search(model, "a", index=index, find="text", where=["label=dgo", "id>=1"]) == []
    assert "no text meets label=dgo and id>=1" in capsys.readouterr().err
    for wrong in ("label==even", "label", "=x"):
        with pytest.raises(SpecError, match="is no condition; give COLUMN=VALUE"):
            index.search(query, "text", where=[wrong])
    for wrong in (query * 0.5, query * float("nan"), query * 2):
        with pytest.raises(DataError, match=r"are not of length 1; give what model\.embed"):
            index.search(wrong, "text")
    with pytest.raises(DataError, match=r"the queries are a str; give what model\.embed"):
        index.search("a", "text")
    with pytest.raises(SpecError, match="the index is an int; give a path"):
        Index(5)
    with pytest.raises(SpecError, match=r"give a number from -1 to 1, such as 0\.95"):
        index.duplicates("text", least=float("nan"))
    assert remove_from_index(tmp_path, where=["text=b"]).removed == 1


def test_what_a_score_is_worth_counts_the_rows_that_were_searched(model, tmp_path, monkeypatch):
    index = build_index(model, rows_of([*"abcdef"]), tmp_path).index
    seen = []

    def noted(model, modalities, hits, *, items, **_about):
        seen.append(items)
        return hits

    monkeypatch.setattr("contrastive.inference.index_search.judged_hits", noted)
    search(model, "a", index=index, find="text")
    search(model, "a", index=index, find="text", where=["label=odd", "id>=2"])
    assert seen == [6, 2]
    assert search(model, "a - b", index=index, find="text", compose=True)[0].probability is None
    assert seen == [6, 2]
    with pytest.raises(SpecError, match="composed queries are not what is calibrated"):
        search(model, "a - b", index=index, compose=True, min_precision=0.9)


def test_data_of_one_place_are_one_whatever_they_are_called(model, tmp_path):
    (tmp_path / "photos").mkdir()
    place = str(tmp_path / "photos")
    build_index(model, rows_of(["a"]), tmp_path / "index", data=DataOf(name="photos", place=place))
    same = DataOf(name="./photos/", place=place)
    assert build_index(model, rows_of(["a"]), tmp_path / "index", data=same).added == 0
    with pytest.raises(DataError, match="has photos already; contrastive index update"):
        add_to_index(
            model, rows_of(["a"]), tmp_path / "index", data=DataOf(name="photos", place=place)
        )
    other = DataOf(name="photos", text="photos", place=str(tmp_path))
    with pytest.raises(DataError, match=f"is an index of {place}; to add photos, contrastive"):
        build_index(model, rows_of(["b"]), tmp_path / "index", data=other)
    grown = add_to_index(model, rows_of(["b"]), tmp_path / "index", data=other)
    assert [one.name for one in grown.index.about.data] == ["photos", str(tmp_path)]
    with pytest.raises(DataError, match="to bring all of them up to date, contrastive index upd"):
        build_index(model, rows_of(["b"]), tmp_path / "index", data=other)
    with pytest.raises(SpecError, match="data: '' was given; give a name"):
        add_to_index(model, rows_of(["b"]), tmp_path / "index", data="")


def test_data_are_read_where_they_were_not_from_others_of_the_name(
    model, command, tmp_path, monkeypatch
):
    model.save(tmp_path / "saved")
    monkeypatch.setenv("CONTRASTIVE_MODEL", str(tmp_path / "saved"))
    pictures(tmp_path / "project" / "photos", "1.png", "2.png")
    pictures(tmp_path / "elsewhere" / "photos", "3.png")
    monkeypatch.chdir(tmp_path / "project")
    for data, index in (("photos/", "a"), ("type=class-folders,folder=photos", "b")):
        assert command("index", "build", data, "-o", index).code == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for index in ("../moved/a", "../moved/b"):
        told = command("index", "update", index, "--json")
        assert json.loads(told.out)["rows"] == {"image": 2}, told
    refused = command("index", "build", "photos", "-o", "../moved/a")
    assert (refused.code, "contrastive index add" in refused.err) == (2, True)
    monkeypatch.chdir(tmp_path / "moved")
    shutil.move("photos", "pictures")
    lost = command("index", "update", "a")
    assert (lost.code, "is no longer at" in lost.err, "--data" in lost.err) == (2, True, True)
    told = command("index", "build", "pictures", "-o", "a")
    remedy = told.err.partition("if that is now pictures, contrastive ")[2].partition(";")[0]
    assert remedy == "index update a --data pictures"
    assert "2 changed; 0 embedded" in command(*remedy.split()).out


ITEMS = [
    {"image": f"{i}.png", "text": f"a {i}", "price": price, "zip": f"0{i}", "split": "test"}
    for i, price in enumerate((10, 9.5, 8))
]


def as_csv(rows):
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    return "\n".join(lines).encode()


def as_parquet(rows):
    from io import BytesIO

    file = BytesIO()
    pq.write_table(pa.Table.from_pylist([row | {"tags": ["x"]} for row in rows]), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "write", "as_table"),
    [
        ("captions.csv", as_csv, False),
        ("captions.jsonl", lambda rows: "\n".join(map(json.dumps, rows)).encode(), False),
        ("items.csv", as_csv, True),
        ("items.parquet", as_parquet, True),
    ],
)
def test_all_columns_of_a_table_are_for_conditions(
    name, write, as_table, model, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model.save("saved")
    pictures(tmp_path / "data", *(row["image"] for row in ITEMS))
    (tmp_path / "data" / name).write_bytes(write([row | {"id": "sku"} for row in ITEMS]))
    data = f"data/{name}" if as_table else "data"
    told = command("index", "build", data, "-o", "index", "-m", "saved")
    assert (told.code, "'id' not kept: rows have such of their own" in told.err) == (0, True)
    assert ("'tags' not kept: no texts, numbers or dates" in told.err) == (write is as_parquet)
    for where, expected in (
        (["price>=9"], {"data/0.png", "data/1.png"}),
        (["price<9.5"], {"data/2.png"}),
        (["zip=01", "split=test"], {"data/1.png"}),
    ):
        options = [part for one in where for part in ("--where", one)]
        found = command("search", "a", "--index", "index", "--json", *options)
        assert {hit["found"] for hit in json.loads(found.out)} == expected
    assert "0 added, 0 removed, 0 changed; 0 embedded" in command("index", "update", "index").out


def test_an_index_that_could_not_be_read_again_is_not_written(model, tmp_path, monkeypatch):
    rows = rows_of([*"abcdef"])
    build_index(model, rows, tmp_path)
    monkeypatch.setattr("contrastive.indexes.index_file.MAX_JSON", 100)
    with pytest.raises(DataError, match="is the most that an index can hold"):
        remove_from_index(tmp_path, ["a"])
    monkeypatch.undo()
    assert len(Index(tmp_path)) == 6
    monkeypatch.setattr("contrastive.indexes.writer.MOST_LISTED", 1)
    assert remove_from_index(tmp_path, ["a"]).index.about.segments[0].deleted == [0]
    (segment,) = remove_from_index(tmp_path, ["b"]).index.about.segments
    assert (segment.rows, segment.deleted) == (4, [])


def test_a_full_disk_names_the_file(model, tmp_path, monkeypatch):
    build_index(model, rows_of([*"abc"]), tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("contrastive.data.storage.atomic_files.write_all", full)
    with pytest.raises(OSError, match=r"index\.json"):
        remove_from_index(tmp_path, ["a"])
    with pytest.raises(OSError, match=r"text-000001\.safetensors"):
        remove_from_index(tmp_path, ["a", "b"])
    assert len(Index(tmp_path)) == 3


def test_options_that_would_do_nothing_are_refused(model, command, tmp_path):
    build_index(model, rows_of(["a", "b"]), tmp_path)
    for more in (["--min-precision", "0.9"], ["--query-modality", "text"], ["--compose"]):
        for kind in (["--outliers"], ["--duplicates", "0.9"], ["a", "--like"]):
            told = command("search", *kind, "--index", tmp_path, *more)
            assert (told.code, "and is given alone" in told.err) == (2, True)
