"""Tables of any form give the rows that a slow reading gives, images inside or as files."""

import csv
import io
import json
import os
import pickle  # noqa: TID251
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from PIL import Image

from contrastive.cli.context import named_data
from contrastive.data import content_index
from contrastive.data.columns import Columns, ids_of, sources_of, values_of
from contrastive.data.content_hash import sample_keys
from contrastive.data.images import StoredImage, open_image
from contrastive.datasets import ImageFolder, Table
from contrastive.datasets.splits import split_of
from contrastive.datasets.tables import stored_cells, table
from contrastive.datasets.tables.stored_cells import StoredCell
from contrastive.errors import DataError, SpecError, UnknownSplit
from contrastive.testing import check_component

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
feather = pytest.importorskip("pyarrow.feather")

SPLITS = ("train", "val", "test")


def encoded(i):
    held = io.BytesIO()
    Image.new("RGB", (8, 8), (i, 0, 0)).save(held, "PNG")
    return held.getvalue()


ROWS = [
    {
        "image": i,
        "text": [f" a dog {i}", f"ein Mädchen {i}"] if i % 3 == 1 else f"a cat {i}",
        "group": (None, 7, "seven", " ")[i % 4],
        "label": ("cat", None, "dog")[i % 3],
        "split": ("train", "validation", "train", "mine")[i % 4],
    }
    for i in range(14)
]


def reference(rows, split):
    """Return the image, the text, what has equal ids, and the label of each caption."""
    found = []
    for row in rows:
        named = {"validation": "val"}.get(row["split"], row["split"])
        group = str(row["group"] or "").strip() or f"row {row['image']}"
        for text in row["text"] if isinstance(row["text"], list) else [row["text"]]:
            if named == split:
                found.append((encoded(row["image"]), text.strip(), group, row["label"]))
    return found


def image_in(row):
    image = row["image"]
    return image.read() if isinstance(image, StoredImage) else image.read_bytes()


def seen(samples, groups):
    """Return the same of a built split; ids are told by the groups that they stand for."""
    names = dict(zip((row["id"] for row in samples), groups, strict=True))
    assert len({*names.values()}) == len(names), "two ids for one group"
    return [(image_in(r), r["text"], names[r["id"]], r.get("label")) for r in samples]


def cells(rows, images):
    """Return the rows with images as bytes, as the hub has them, or as paths."""
    made = {
        "bytes": encoded,
        "struct": lambda i: {"bytes": encoded(i), "path": f"{i}.png"},
        "paths": lambda i: f"{i}.png",
        "struct of paths": lambda i: {"bytes": None, "path": f"{i}.png"},
    }[images]
    several = any(isinstance(row["text"], list) for row in rows)
    for row in rows:
        text = row["text"] if isinstance(row["text"], list) or not several else [row["text"]]
        group = None if row["group"] is None else str(row["group"])
        yield row | {"image": made(row["image"]), "text": text, "group": group}


def ipc(path, held, make):
    with make(path, held.schema) as writer:
        writer.write_table(held, max_chunksize=5)


def write(path, rows, images="struct"):
    """Write a table in the form of the suffix, and the images that it names."""
    for row in rows:
        (path.parent / f"{row['image']}.png").write_bytes(encoded(row["image"]))
    listed = [*cells(rows, images)]
    suffix = path.suffix
    if suffix in (".parquet", ".arrow", ".ipc", ".feather"):
        held = pa.Table.from_pylist(listed)
        {
            ".parquet": lambda: pq.write_table(held, path, row_group_size=4),
            ".arrow": lambda: ipc(path, held, pa.ipc.new_file),
            ".ipc": lambda: ipc(path, held, pa.ipc.new_stream),
            ".feather": lambda: feather.write_feather(held, str(path), chunksize=3),
        }[suffix]()
    elif suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in listed))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.DictWriter(file, [*rows[0]], delimiter="\t" if suffix == ".tsv" else ",")
            out.writeheader()
            texts = (row["text"] for row in listed)
            texts = (json.dumps(text) if isinstance(text, list) else text for text in texts)
            out.writerows(row | {"text": text} for row, text in zip(listed, texts, strict=True))
    return path


FORMS = [
    *((f"t{suffix}", images) for suffix in (".parquet", ".arrow", ".ipc", ".feather")
      for images in ("bytes", "struct", "paths")),
    *((f"t{suffix}", "paths") for suffix in (".csv", ".tsv", ".jsonl")),
    ("t.parquet", "struct of paths"), ("t.arrow", "struct of paths"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "images"), FORMS)
@pytest.mark.parametrize("listed", [True, False], ids=["lists", "texts"])
def test_each_form_gives_the_rows_of_a_slow_reading(tmp_path, name, images, listed, monkeypatch):
    monkeypatch.setattr("contrastive.datasets.tables.arrow_files.BATCH", 3)
    rows = ROWS if listed else [row | {"text": f"a cat {row['image']}"} for row in ROWS]
    data = Table(files=write(tmp_path / name, rows, images))
    for split in ("train", "val", "mine"):
        samples, expected = data.build(split), reference(rows, split)
        assert seen(samples, [group for _, _, group, _ in expected]) == expected
        assert samples.classes == ("cat", "dog")
        assert sources_of(samples)[0].startswith(name)
    assert {data.build("train")[0]["source"]} <= {f"{name}: row 0", f"{name}:2", f"{name}:1"}
    first = data.model_copy(update={"captions_per_image": 1})
    texts = [row["text"] for row in first.build("val", purpose="training")]
    assert texts == [t for _, t, _, _ in reference(rows, "val") if "Mädchen" not in t]
    with pytest.raises(UnknownSplit, match="no split 'tset'; there are: 'mine', 'train', 'val'"):
        data.build("tset")


def test_a_table_of_paths_is_the_image_folder_of_its_captions(tmp_path):
    rows = [row | {"text": f"a cat {row['image']}", "group": None} for row in ROWS]
    write(tmp_path / "captions.csv", rows, "paths")
    both = Table(files=tmp_path / "captions.csv"), ImageFolder(folder=tmp_path)
    one, other = ([dict(row) for row in data.build("train")] for data in both)
    assert one == other
    for row in rows:
        del row["split"]
    write(tmp_path / "captions.csv", rows, "paths")
    for split in SPLITS:
        table_s, folder_s = (outcome(data, split) for data in both)
        assert table_s == folder_s


def outcome(data, split):
    try:
        return [dict(row) for row in data.build(split)]
    except DataError as error:
        return str(error)


def test_the_splits_are_those_of_the_names_of_files_or_of_a_hash(tmp_path):
    plain = [{"text": f"text {i}", "image": i} for i in range(300)]
    names = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")
    for number, name in enumerate(names):
        part = plain[100 * number : 100 * number + 100]
        pq.write_table(
            pa.Table.from_pylist([{"text": r["text"]} for r in part]), tmp_path / f"{name}.parquet"
        )
    for files in (
        tmp_path,
        tmp_path / "*.parquet",
        [tmp_path / f"{name}.parquet" for name in names],
    ):
        data = Table(files=files)
        assert [row["text"] for row in data.build("train")] == [r["text"] for r in plain[:200]]
        assert len(data.build("val")) == 100
        assert [row["id"] for row in data.build("val")] == [*range(200, 300)]
    (train,) = [Table(files=tmp_path / "{split}-*.parquet").build(s) for s in ("train",)]
    assert len(train) == 200
    hashed = Table(files=tmp_path, split_column="")
    for split in SPLITS:
        wanted = [r["text"] for r in plain if split_of(r["text"], 0.1) == split]
        assert [row["text"] for row in hashed.build(split)] == wanted
    inside = [{"image": encoded(r["image"] % 50), "text": r["text"]} for r in plain]
    pq.write_table(pa.Table.from_pylist(inside), tmp_path / "all.pq.parquet")
    parts = [Table(files=tmp_path / "all.pq.parquet").build(split) for split in SPLITS]
    assert sorted(i for part in parts for i in ids_of(part).tolist()) == [*range(300)]
    assert 200 < len(parts[0]) < 280


def test_the_layout_of_the_hub_is_read_from_a_local_folder(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "repo" / "default" / split).mkdir(parents=True)
        images = [{"bytes": encoded(i), "path": None} for i in range(2)]
        texts = enumerate([f"{split} 0", f"{split} 1"])
        rows = [{"image": images[i], "caption": text, "label": i} for i, text in texts]
        held = pa.Table.from_pylist(rows)
        about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
        held = held.replace_schema_metadata({"huggingface": json.dumps(about)})
        pq.write_table(held, tmp_path / "repo" / "default" / split / "0000.parquet")
    data = Table(repo=str(tmp_path / "repo"))
    for split in ("train", "test"):
        samples = data.build(split)
        assert [row["text"] for row in samples] == [f"{split} 0", f"{split} 1"]
        assert [row["label"] for row in samples] == ["cat", "dog"]
        assert samples[1]["source"] == f"{split}/0000.parquet: row 1"
        assert open_image(samples[1]["image"]).getpixel((0, 0)) == (1, 0, 0)
    assert len(Table(repo=str(tmp_path / "repo"), files="default/test").build("test")) == 2


@pytest.mark.parametrize("about", ["{", "[]", '{"info": 1}', "[" * 100_000])
def test_what_a_schema_says_of_classes_may_be_anything(tmp_path, about):
    held = pa.table({"text": ["a", "b"], "label": [0, 1]})
    pq.write_table(held.replace_schema_metadata({"huggingface": about}), tmp_path / "t.parquet")
    samples = Table(files=tmp_path / "t.parquet", holdout=0).build("train")
    assert [row["label"] for row in samples] == ["0", "1"]


def test_texts_alone_and_images_alone(tmp_path):
    pq.write_table(pa.table({"a": [["x", "y"], ["z"]], "g": [1, 1]}), tmp_path / "t.parquet")
    samples = Table(
        files=tmp_path / "t.parquet", text_column="a", group_column="g", holdout=0
    ).build("train")
    assert [*samples] == [
        {"text": text, "id": 0, "source": f"t.parquet: row {row}"}
        for text, row in (("x", 0), ("y", 0), ("z", 1))
    ]
    pq.write_table(pa.table({"jpg": [encoded(1), encoded(2)]}), tmp_path / "i.parquet")
    samples = Table(files=tmp_path / "i.parquet", holdout=0).build("train")
    assert [image_in(row) for row in samples] == [encoded(1), encoded(2)]
    assert {*samples[0]} == {"image", "id", "source"}


def test_numbered_captions_are_those_of_one_image(tmp_path):
    held = {"image": [encoded(1), encoded(2)], "caption_1": ["a", "b"], "caption_2": ["c", None]}
    pq.write_table(pa.table(held), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("image,caption_1,caption_2\nx.png,a,c\ny.png,b,\n")
    (tmp_path / "x.png").write_bytes(encoded(1))
    (tmp_path / "y.png").write_bytes(encoded(2))
    for name in ("t.parquet", "t.csv"):
        samples = Table(files=tmp_path / name, holdout=0).build("train")
        assert [(image_in(r), r["text"], r["id"]) for r in samples] == [
            (encoded(1), "a", 0), (encoded(1), "c", 0), (encoded(2), "b", 1)
        ]  # fmt: skip


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """Return what forgets what is in memory, as a new process would, and counts reads."""
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content_index, "RESOLUTION", -(10**12))
    reads, real = [], StoredCell.read
    monkeypatch.setattr(StoredCell, "read", lambda self: reads.append(self.row) or real(self))

    def restart():
        content_index.content_index().write()
        content_index._index_in.cache_clear()
        reads.clear()
        return reads

    return restart


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_second_start_reads_no_image(tmp_path, name, restarted):
    data = Table(files=write(tmp_path / name, ROWS))
    images = values_of(data.build("train+val+mine"), "image")
    reads = restarted()
    keys = sample_keys(images, "image")
    assert sorted(reads) == [*range(14)]
    assert keys == [sample_keys([encoded(cell.row)], "image")[0] for cell in images]
    reads = restarted()
    assert sample_keys(values_of(data.build("train+val+mine"), "image"), "image") == keys
    assert reads == []


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.feather"])
def test_another_process_reads_the_images(tmp_path, name):
    samples = Table(files=write(tmp_path / name, ROWS)).build("train")
    expected = [image_in(row) for row in samples]
    copy = pickle.loads(ForkingPickler.dumps(samples))  # as to one that is spawned
    assert isinstance(copy, Columns)
    assert [image_in(row) for row in copy] == expected
    assert [*sources_of(copy)] == [*sources_of(samples)]
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings(action="ignore"):  # of threads, which the child leaves alone
        child = os.fork()
    if not child:
        os._exit(0 if [image_in(row) for row in samples] == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_few_row_groups_and_files_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_cells, "HELD_BYTES", 1)
    monkeypatch.setattr(stored_cells, "OPEN_FILES", 2)
    (tmp_path / "d").mkdir()
    for number in range(4):
        write(tmp_path / "d" / f"{number}.parquet", ROWS)
    samples = Table(files=tmp_path / "d").build("train")
    assert [image_in(row) for row in samples] == [image_in(row) for row in samples]
    assert len(stored_cells._opened.groups) == 1
    assert len(stored_cells._opened.files) == 2


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_large_row_groups_are_told_and_the_remedy_mends_them(tmp_path, monkeypatch, capsys, name):
    path = write(tmp_path / name, ROWS)
    monkeypatch.setattr(table, "LARGE", 100)
    before = [(image_in(row), row["text"]) for row in Table(files=path).build("train")]
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "read for each" in line]
    assert told.startswith(f"{path}: 0 MB are read for each image; to read them one by one")
    code, _, files = told.partition("in Python: ")[2].partition("; then set files: ")
    exec(code, {})
    again = Table(files=files)
    assert [(image_in(row), row["text"]) for row in again.build("train")] == before
    assert "read for each" not in capsys.readouterr().err


def changed(**columns):
    """Return what writes a table with other columns; None leaves one out."""

    def make(path):
        held = {"image": [encoded(1), encoded(2)], "text": ["a dog", "a cat"]} | columns
        pq.write_table(pa.table({k: v for k, v in held.items() if v is not None}), path)

    return make


def cut(path):
    changed()(path)
    path.write_bytes(path.read_bytes()[:-20])


DICTIONARIES = pa.array([["a"], ["b"]], pa.list_(pa.dictionary(pa.int8(), pa.string())))
FAULTS = {
    "no columns": (
        changed(image=None, text=None, url=["a", "b"], n=[1, 2]), {},
        "t.parquet:1: no column image or img or jpg or png or file_name or filename or filepath or "
        "image_path or path, nor text or caption or title or captions or sentence; there are: "
        "'url', 'n'; set image_column and text_column",
    ),
    "a missing column": (changed(), {"text_column": "txt"},
        "t.parquet:1: no column 'txt'; there are: 'image', 'text'; set text_column"),
    "a column of numbers": (changed(image=[1, 2]), {},
        "t.parquet: column 'image' holds int64, not images; image_column names one of bytes, of "
        "{bytes, path} or of paths, and image_column: '' does without"),
    "a column of lists of lists": (changed(text=[[["a"]], [["b"]]]), {},
        "t.parquet: column 'text' holds list<element: string>, not texts; name another as "
        "text_column, or '' for none"),
    "a type that nothing reads": (
        lambda path: pq.write_table(pa.table({"text": DICTIONARIES}), path, row_group_size=1), {},
        "t.parquet: not readable Parquet: Nested data conversions not implemented"),
    "a caption of several that is a list": (
        changed(text=None, caption_1=[1, 2], caption_2=[["a"], ["b"]]), {},
        "t.parquet: not readable Parquet: 'caption_2' holds list<element: string>, not texts"),
    "coded bytes": (changed(image=pa.array([encoded(1)] * 2).dictionary_encode()), {},
        "t.parquet: column 'image' holds dictionary<values=binary, indices=int32, ordered=0>"),
    "cut short": (cut, {}, "t.parquet: not readable Parquet: Parquet magic bytes not found in "
        "footer. Either the file is corrupted or this is not a parquet file."),
    "empty": (lambda path: path.write_bytes(b""), {}, "t.parquet: not readable Parquet: "),
    "not there": (lambda _: None, {}, "t.parquet: no such file"),
    "null image": (changed(image=[None, encoded(2)]), {},
        "1 of 2 samples are bad, 0 may be (max_bad: 0): t.parquet: row 0: 'image' holds no image"),
    "null text": (changed(text=[None, "a"]), {},
        "t.parquet: row 0: 'text' is empty or not a text"),
    "blank text": (changed(text=["a", " "]), {},
        "t.parquet: row 1: 'text' is empty or not a text"),
    "a word for nothing": (changed(text=["a", "NULL"]), {},
        "t.parquet: row 1: 'text' is 'NULL': no value"),
    "no captions": (changed(text=[["a"], []]), {},
        "t.parquet: row 1: 'text' is empty or not a text"),
    "unseen letters": (changed(text=["a", "\u200b"]), {},
        "t.parquet: row 1: the caption has nothing that is seen"),
    "bytes that are no text": (changed(text=[b"a", b"\xff"]), {},
        "t.parquet: row 1: 'text' is not valid UTF-8"),
    "null split": (changed(split=["train", None]), {},
        "t.parquet: row 1: 'split' is empty or not a text"),
    "images that are not there": (changed(image=["1.png", "2.png"]), {},
        "t.parquet: row 0: image '1.png' is not in "),
    "an address": (changed(image=["s3://a/1.png", "x"]), {},
        "t.parquet: row 0: its image is a URL, of which those of http and https alone are "),
    "outside": (changed(image=["../1.png", "x"]), {},
        "t.parquet: row 0: image '../1.png' is outside the folder"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "fields", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_in_one_line(tmp_path, make, fields, message):
    make(tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        Table(files=tmp_path / "t.parquet", max_bad=0, holdout=0, **fields).build("train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "t.parquet" in str(caught.value) or "column" in message


def test_files_that_are_not_alike_or_not_there_are_told(tmp_path):
    changed()(tmp_path / "a.parquet")
    changed(text=None)(tmp_path / "b.parquet")
    with pytest.raises(
        DataError, match=r"b.parquet: has image_column 'image', but .*a.parquet has"
    ):
        Table(files=tmp_path).build("train")
    for files, message in {
        "x/*.parquet": "x/*.parquet: no file fits this pattern",
        "x-{split}.parquet": "no such file; looked for ",
        "t.xlsx": "t.xlsx: a table is one of .parquet, .arrow",
        "sub": "sub: no Parquet or Arrow files here (.parquet, .arrow, .feather, .ipc)",
    }.items():
        (tmp_path / "t.xlsx").write_bytes(b"")
        (tmp_path / "sub").mkdir(exist_ok=True)
        with pytest.raises(DataError) as caught:
            Table(files=tmp_path / files).build("train")
        assert message in str(caught.value)
    with pytest.raises(SpecError, match="needs files: a table, a folder or a pattern; or repo"):
        Table()
    with pytest.raises(DataError, match="no such folder"):
        Table(repo="./gone").build("train")


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow"])
def test_a_table_that_changes_after_it_was_read_is_told(tmp_path, name):
    path = write(tmp_path / name, ROWS)
    samples = Table(files=path).build("train")
    image_in(samples[0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match="has changed since its rows were read; start again"):
        image_in(samples[1])
    bad = []
    sample_keys(values_of(samples, "image")[:1], "image", lambda *problem: bad.append(problem))
    (problem,) = bad
    assert problem == (
        0,
        f"{name}: row 0: cannot be read: has changed since its rows were read; start again",
    )


def test_an_image_that_turns_out_to_be_null_is_told_when_it_is_read(tmp_path):
    held = pa.table({"image": [encoded(1), b""], "text": ["a", "b"]})
    pq.write_table(held, tmp_path / "t.parquet", write_statistics=False)
    samples = Table(files=tmp_path / "t.parquet", holdout=0).build("train")
    bad = []
    sample_keys(values_of(samples, "image"), "image", lambda *problem: bad.append(problem))
    assert bad == [(1, "t.parquet: row 1: 'image' holds no image")]


def test_ids_of_integers_and_strings_are_mapped_once_over_all_splits(tmp_path):
    groups = (1, "1", "a", 1.0, None, 2**70)
    rows = [
        {"text": f"{i}", "group": group, "split": ("train", "val")[i % 5 % 2]}
        for i, group in enumerate(groups)
    ]
    (tmp_path / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = Table(files=tmp_path / "t.jsonl")
    ids = {row["text"]: row["id"] for split in ("train", "val") for row in data.build(split)}
    assert ids["0"] == ids["1"] == ids["3"]
    assert len({*ids.values()}) == 4
    assert all(isinstance(each, int) for each in ids.values())


def test_it_passes_the_kit_of_components(tmp_path):
    rows = [{"image": encoded(i % 200), "text": f"text {i}"} for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    check_component(Table(files=tmp_path / "t.parquet"), split="train")


def test_rows_take_little_memory(tmp_path):
    held = {"image": [b"\xff"] * 20_000, "text": [f"a dog {i}" for i in range(20_000)]}
    pq.write_table(pa.table(held), tmp_path / "t.parquet")
    samples = Table(files=tmp_path / "t.parquet", holdout=0).build("train")
    assert len(pickle.dumps(samples.columns["image"])) < 1000
    assert len(pickle.dumps(samples.columns["id"])) < 1000
    assert len(pickle.dumps(samples.columns["source"])) < 1000
    assert samples.columns["text"].ends_M.dtype == np.uint32


def test_a_table_is_taken_as_such_by_the_name_of_its_file_or_folder(tmp_path, capsys):
    (tmp_path / "d").mkdir()
    path = write(tmp_path / "d" / "t.parquet", ROWS)
    for image in (tmp_path / "d").glob("*.png"):
        image.unlink()
    for given in (path, path.parent):
        data = named_data(str(given))
        assert data == Table(files=given)
        assert f"{given}: taken as data.type=table" in capsys.readouterr().err
        assert len(data.build("train")) > 0
    for name in ("more.csv", "dataset_infos.json"):
        (tmp_path / "d" / name).write_text("image,text\n")
    Table(files=tmp_path / "d").build("train")
    assert "d/more.csv: left out, since there are Parquet" in capsys.readouterr().err
