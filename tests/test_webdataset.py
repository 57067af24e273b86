"""Tar shards: what others write is read, and what is wrong with them is told by name."""

from __future__ import annotations

import json
import os
import re
import tarfile
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest

from contrastive import RunSpec
from contrastive.cli.context import named_data
from contrastive.data import shards as tar_shards
from contrastive.data.columns import ids_of, values_of
from contrastive.data.content_hash import keys_of
from contrastive.data.images import open_image
from contrastive.data.row_order import order_of
from contrastive.datasets import WebDataset
from contrastive.datasets.splits import split_of
from contrastive.errors import BadSample, DataError, SpecError
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.shards import member, png, samples, tar, write_shards
from tests.toys import toy_dict

ALL = "train+val+test"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))


def build(folder, split=ALL, **fields):
    return WebDataset(**{"shards": folder, "max_bad": 1.0} | fields).build(split)


def one(folder, members, form=tarfile.GNU_FORMAT):
    folder.mkdir(exist_ok=True)
    (folder / "a.tar").write_bytes(members if isinstance(members, bytes) else tar(members, form))
    return folder


def test_the_layout_of_img2dataset(tmp_path):
    folder = write_shards(tmp_path / "s", 3, 20)
    (folder / "00000_stats.json").write_text("{}")
    (folder / "00000.parquet").write_bytes(b"PAR1")
    rows = build(folder)
    assert [row["text"] for row in rows] == [f"number {i}" for i in range(60)]
    assert [row["image"].read() for row in rows] == [png(i) for i in range(60)]
    assert rows[21]["source"] == "00001.tar:000000021"
    assert len({*ids_of(rows).tolist()}) == 60
    assert "label" not in rows[0]
    for split in ("train", "val", "test"):
        keys = [f"{i:09d}" for i in range(60) if split_of(f"{i:09d}", 0.1) == split]
        assert [row["source"][10:] for row in build(folder, split)] == keys


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_of_every_format(tmp_path, form):
    long = f"./{'d' * 60}//{'é' * 30}"
    names = ["a/0", f"{'p' * 90}/{'q' * 60}", long if form != tarfile.USTAR_FORMAT else "./b/1"]
    parts = [m for n in names for m in (member(f"{n}.JPG", png(1)), member(f"{n}.txt", b"words"))]
    rows = build(one(tmp_path / "s", parts, form))
    tidy = [name.removeprefix("./").replace("//", "/") for name in names]
    assert [row["source"] for row in rows] == [f"a.tar:{name}" for name in tidy]


def test_a_checksum_of_signed_bytes_is_right_too(tmp_path):
    content = bytearray(tar([member("é.png", png(0)), member("é.txt", b"words")]))
    for place in (0, 1024):
        header = content[place : place + 512]
        header[148:156] = b" " * 8
        total = sum(each - 256 * (each > 127) for each in header)
        content[place + 148 : place + 156] = f"{total:06o}\0 ".encode()
    assert len(build(one(tmp_path / "s", bytes(content)))) == 1


def test_columns_are_members_or_fields(tmp_path):
    about = {"group": "g", "kind": "cat", "split": "validation", "alts": ["one", "NULL", " "]}
    parts = [
        member("0.jpg", b"other"),
        member("0.front.png", png(0)),
        member("0.json", json.dumps(about).encode()),
        member("1.front.png", png(1)),
        member("1.alts", b'["two", "three"]'),
        member("1.json", json.dumps(about | {"split": "", "kind": 7}).encode()),
    ]
    given = {"image_column": "back.png; front.png", "text_column": "alts", "label_column": "kind"}
    folder = one(tmp_path / "s", parts)
    held = split_of("g", 0.1)
    rows = build(folder, f"val+{held}", **given)
    assert [row["text"] for row in rows] == ["one", "two", "three"]
    assert [row["label"] for row in rows] == ["cat", "7", "7"]
    assert rows.classes == ("7", "cat")
    assert len({*ids_of(rows).tolist()}) == 1
    assert [line.split(": ")[1] for line in rows.bad_rows.lines] == [
        "'alts' is 'NULL'",
        "'alts' is empty or not a text",
    ]
    first = WebDataset(shards=folder, captions_per_image=1, max_bad=1, **given)
    both = first.build(f"val+{held}", purpose="training")
    assert [row["text"] for row in both] == ["one", "two"]


@pytest.mark.parametrize(
    ("names", "given"),
    [
        (["train/0.tar", "val/0.tar"], "s"),
        (["cc-train-0.tar", "cc-val-0.tar"], "s"),
        (["a/train/0.tar", "a/validation/0.tar"], "s/a/{split}/*.tar"),
        (["train/0.tar", "val/0.tar"], "s/{train,val}/{0..0}.tar"),
    ],
)
def test_splits_are_those_of_names(tmp_path, names, given, capsys):
    for i, name in enumerate(names):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar(samples([i])))
    assert [len(build(tmp_path / given, split)) for split in ("train", "val")] == [1, 1]
    with pytest.raises(DataError, match="no split 'final'; there are: 'train', 'val'"):
        build(tmp_path / given, "final")
    (tmp_path / "s" / "more.tar").write_bytes(tar(samples([5])))
    if given == "s":
        build(tmp_path / given, "train")
        assert re.search(
            r"more\.tar: beside shards that are named by splits", capsys.readouterr().err
        )


def test_data_takes_a_shard_a_pattern_and_an_address(tmp_path, monkeypatch):
    write_shards(tmp_path / "s", 2, 5)
    monkeypatch.chdir(tmp_path)
    shard = min((tmp_path / "s").iterdir())
    assert isinstance(named_data(str(shard)), WebDataset)
    assert len(named_data("s/*.tar").build("train+val+test")) == 10
    assert named_data("s3://b/0.tar") == WebDataset(shards="s3://b/0.tar")


def test_a_later_start_reads_no_shard_and_no_image(tmp_path, monkeypatch):
    folder = write_shards(tmp_path / "s", 2, 5)
    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    rows = build(folder)
    # the time of a change cannot be set, and this one is too near to be sure of no other
    monkeypatch.setattr("contrastive.data.content_index._settled", lambda *_: True)
    keys = keys_of([row["image"] for row in rows], "image")
    monkeypatch.setattr(tar_shards.Shard, "opened", lambda _: pytest.fail("is read"))
    again = build(folder)
    assert [*again] == [*rows]
    found = keys_of([row["image"] for row in again], "image")
    assert np.array_equal(found.keys_D, keys.keys_D)
    assert not keys.problems
    for path in (tmp_path / "cache" / "shards").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.undo()
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    assert [*build(folder)] == [*rows]


def test_images_are_read_in_other_processes_too(tmp_path):
    rows = build(write_shards(tmp_path / "s", 2, 5))
    sent = ForkingPickler.loads(ForkingPickler.dumps(values_of(rows, "image")))
    assert [image.read() for image in sent] == [png(i) for i in range(10)]
    assert sent[7] == rows[7]["image"]


def test_windows_shuffle_so_many_shards_at_a_time(tmp_path):
    rows = build(write_shards(tmp_path / "s", 6, 10), window=2)
    usable = np.arange(60)[np.arange(60) != 17]
    epochs = [order_of(rows).of_epoch(usable, seed=1, epoch=e, count=59).rows_U for e in (0, 1, 0)]
    assert np.array_equal(epochs[0], epochs[2])
    assert not np.array_equal(epochs[0], epochs[1])
    for found in epochs:
        assert sorted(found.tolist()) == usable.tolist()
        shards = (found // 10).tolist()
        assert max(len({*shards[i : i + 19]}) for i in (0, 40)) <= 3
        changes = sum(a != b for a, b in pairwise(shards))
        assert changes > 20
        windows = [{*shards[:19]}, {*shards[21:39]}, {*shards[41:]}]
        assert all(len(window) == 2 for window in windows)
    assert type(order_of(build(tmp_path / "s"))).__name__ == "Shuffled"


def cut(at):
    return lambda content: content[:at]


def changed(at, new):
    return lambda content: content[:at] + new + content[at + len(new) :]


def third_png_says(number):
    """Return what changes the length in a header, whose checksum is right again."""

    def change(content):
        header = bytearray(content[THIRD : THIRD + 512])
        header[124:136] = f"{number:011o}\0".encode()
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        return content[:THIRD] + bytes(header) + content[THIRD + 512 :]

    return change


WHOLE = tar(samples(range(5)))
EACH = WHOLE.index(b"000000001.png")  # bytes of a sample
THIRD = 2 * EACH


@pytest.mark.parametrize(
    ("fault", "there", "said"),
    [
        (cut(THIRD + 530), 2, r"2.png has \d+ bytes by its header, of which 18 are there; was the"),
        (cut(THIRD + 100), 2, r"byte {THIRD:,}: ends within a header; was it copied completely\?"),
        (cut(THIRD), 2, r"byte {THIRD:,}: ends without the blocks that end an archive"),
        (cut(5 * EACH), 5, "ends without the blocks that end an archive"),
        (cut(0), 0, "byte 0: is empty"),
        (changed(THIRD + 3, b"!"), 2, "byte {THIRD:,}: no header of a member where one should be"),
        (third_png_says(10**9), 2, "has 1,000,000,000 bytes by its header, of which"),
        (third_png_says(600), 2, "no header of a member where one should be"),
        (third_png_says(1100), 4, "runs over 000000002.txt, which is lost"),
        (lambda content: content + tar(samples([9])), 5, "more follows behind the end of the arch"),
        (lambda content: b"\x1f\x8b" + content, 0, "is compressed; .*: gzip -d FILE"),
        (lambda _: b"<html>not found</html>" * 99, 0, "is no tar file, or its first header is dam"),
    ],
    ids=range(12),
)
def test_a_faulty_shard_is_told_by_its_name(tmp_path, fault, there, said):
    folder = one(tmp_path / "s", fault(WHOLE))
    said = said.replace("{THIRD:,}", f"{THIRD:,}")
    told, usable = "", 0
    try:
        rows = build(folder)
    except DataError as error:
        told = str(error)
    else:
        told = "\n".join(rows.bad_rows.lines)
        for row in rows:
            try:
                assert row["image"].read() == png(int(row["source"][6:]))
                usable += 1
            except BadSample as error:
                told += f"{row['image']}: {error}"
    assert usable == there
    assert "a.tar" in told
    assert re.search(said, told)
    if "runs over" not in said:  # which is met when the image is read
        with pytest.raises(DataError, match=r"a\.tar"):  # one bad row of a few is too many
            build(folder, max_bad=0.0)


def test_a_shard_that_ends_early_counts_for_what_others_have_more(tmp_path):
    folder = write_shards(tmp_path / "s", 3, 10)
    path = folder / "00001.tar"
    path.write_bytes(path.read_bytes()[: 4 * EACH])
    rows = build(folder)
    assert (len(rows), rows.bad_rows.bad) == (24, 6)
    assert len(rows.bad_rows.lines) == 1
    with pytest.raises(DataError, match=r"\d of \d+ samples are bad, \d may be .*00001\.tar: byte"):
        build(folder, max_bad=0.1)


LINKS = {"linkname": "0.png", "type": tarfile.SYMTYPE}


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("1.png", **LINKS)], "'1.png' is a link to another file; not read"),
        ([member("1.png", type=tarfile.LNKTYPE, linkname="0.png")], "is a link to another member"),
        ([member("1.png", type=tarfile.CHRTYPE)], "'1.png' is a device"),
        ([member("1.png", type=tarfile.FIFOTYPE)], "'1.png' is a pipe"),
        ([member("1.png", b"x", pax_headers={"GNU.sparse.major": "1"})], "is a sparse file"),
        ([member("1.png", b"x", type=tarfile.GNUTYPE_SPARSE)], "'1.png' is a sparse file"),
        ([member("1.png", b"x", type=b"Q")], r"is of a kind that is not known \(b'Q'\)"),
        ([member("1.mp4", b"x")], "has no image .png, jpg.*; it has 'mp4', 'txt'|has no image"),
        ([member("1.png", png(1)), member("1.json", b"{")], "its .json cannot be read: Expecting"),
        ([member("1.png", png(1)), member("1.json", b"[1]")], "its .json is not an object"),
        ([member("1.png", png(1)), member("1.png", png(2))], "'1.png' is there twice; the first"),
        ([member("1.png", png(1)), member("1.json", b'{"label": [1]}')], "'label' is not a text"),
        ([member("0.png", png(1))], "'0.png' is there twice; the first is taken"),
        ([member("2.png", png(1)), member("2.txt", b"NULL")], "'txt' is 'NULL': no value"),
        ([member("2.png", png(1)), member("2.txt", b"\xff\xfe")], "is not valid UTF-8"),
        ([member("2.png", png(1)), member("2.txt", b" ")], "'txt' is empty or not a text"),
    ],
)
def test_what_is_no_sample_is_told_by_shard_and_key(tmp_path, members, said):
    parts = [member("0.png", png(0)), member("0.txt", b"zero"), *members, member("1.txt", b"one")]
    rows = build(one(tmp_path / "s", parts, tarfile.PAX_FORMAT))
    assert rows[0]["text"] == "zero"
    assert rows[0]["image"].read() == png(0)
    lines = "\n".join(rows.bad_rows.lines)
    assert re.search(rf"^a\.tar:\d.*{said}", lines, re.MULTILINE), lines


def test_pickles_and_the_like_are_not_read_and_told_once(tmp_path, capsys):
    parts = [
        member("0.png", png(0)),
        member("0.txt", b"zero"),
        member("0.pkl", b"cos\nsystem\n(S'false'\ntR."),
        member("1.pkl", b"cos\nsystem\n(S'false'\ntR."),
        member("0.cls", b"7"),
        member("README", b"words"),
        member("._0.png", b"of a Mac"),
        member("folder", type=tarfile.DIRTYPE),
    ]
    rows = build(one(tmp_path / "s", parts))
    assert len(rows) == 1
    told = capsys.readouterr().err
    assert "a.tar: '0.pkl' and its like are pickles; not read" in told
    assert "1.pkl" not in told
    assert "'cls' is not read; if it is the label, set label_column to it" in told
    assert "'README' has no end such as .jpg; not read" in told
    assert build(tmp_path / "s", label_column="cls")[0]["label"] == "7"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shards": "pipe:cat s/0.tar"}, "pipe: would run a command; give files, or addresses"),
        ({"shards": []}, "no shards; give a tar file"),
        ({"shards": "s/none.tar"}, "none.tar: no such file"),
        ({"shards": "s/x*.tar"}, r"x\*.tar: no shards there"),
        ({"shards": "empty"}, r"empty: no shards here \(.tar\)"),
        ({"shards": "s/{split}.tar"}, "no shards; looked for s/train.tar"),
        ({"shards": "none/{split}-{0..40000}.tar"}, "no shards; looked for none/train-"),
        ({"shards": "s/0.tar.gz"}, "is compressed.*undo that: gzip -d s/0.tar.gz"),
        ({"shards": "s", "text_column": "alt"}, r"no sample has a text \(alt\); there are: 'png',"),
        (
            {"shards": "s", "label_column": "kind"},
            r"no sample has a label \(kind\); .*set label_co",
        ),
        ({"shards": "https://u:p@example.org/0.tar"}, "password or a query"),
        ({"shards": "s/{0..99999999}.tar"}, "more than 1,000,000 shards"),
        ({"shards": "s/{0..%s}.tar" % ("9" * 5000)}, "more than 1,000,000 shards"),
        ({"shards": "s/" + 30 * "{0,1}"}, "more than 1,000,000 shards"),
        ({"shards": "a" * 5000}, "aaa: File name too long"),
        (
            {"shards": "bad.tar"},
            r"no sample has a text .*; a.tar: its .json is not an object",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, given, said):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "s", 1, 3)
    (tmp_path / "empty").mkdir()
    one(tmp_path / "bad.tar", [member("0.png", png(0)), member("0.json", b"[]")])
    (tmp_path / "s" / "0.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises((DataError, SpecError), match=said) as told:
        WebDataset(**given).build("train")
    assert len(str(told.value).splitlines()) == 1


def test_a_shard_that_changes_during_a_run_ends_it(tmp_path):
    folder = write_shards(tmp_path / "s", 1, 5)
    rows = build(folder)
    path = folder / "00000.tar"
    other = path.read_bytes().replace(png(3), png(4))
    path.write_bytes(other)
    os.utime(path, (1e9, 1e9))
    with pytest.raises(DataError, match=r"00000\.tar: has changed since .*start again") as told:
        open_image(rows[3]["image"])
    assert not isinstance(told.value, BadSample)
    with pytest.raises(DataError, match=r"00000\.tar: has changed since .*start again"):
        keys_of(values_of(rows, "image"), "image")
    assert build(folder)[3]["image"].read() == png(4)
    path.unlink()
    with pytest.raises(DataError, match=r"00000\.tar: cannot be read: No such file"):
        open_image(rows[3]["image"])


@pytest.mark.slow
def test_a_second_run_with_cached_features_opens_no_shard(tmp_path, monkeypatch):
    spec = toy_dict(tmp_path, epochs=1)
    spec["data"] = {"type": "webdataset", "shards": str(write_shards(tmp_path / "s", 2, 30))}
    monkeypatch.setattr("contrastive.data.content_index._settled", lambda *_: True)
    train(RunSpec.model_validate(spec), tmp_path / "one")
    monkeypatch.setattr(tar_shards.Shard, "opened", lambda _: pytest.fail("is read"))
    train(RunSpec.model_validate(spec), tmp_path / "two")
    losses = [
        [line["loss"] for line in read_log(tmp_path / run / "log.jsonl") if "loss" in line]
        for run in ("one", "two")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 2
