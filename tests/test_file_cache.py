"""Copies of remote files: whole, of bounded size, fetched once by several processes."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from contrastive.data.storage.file_cache import FileCache
from contrastive.data.storage.remote_folders import StorageError


@pytest.fixture
def files(tmp_path):
    return FileCache(tmp_path / "copies", max_bytes=100)


def writes(content, fetched=None):
    def fetch(path):
        path.write_bytes(content)
        if fetched is not None:
            fetched.append(content)

    return fetch


def read(files, key, content, fetched=None):
    with files.opened(key, writes(content, fetched), size=len(content), name=key) as file:
        return file.read()


def copies(files):
    kept = {"bytes", "bytes.lock"}
    paths = (path for path in files.folder.rglob("*") if path.is_file())
    return sorted(
        p.stat().st_size for p in paths if p.parent.name != "locks" and p.name not in kept
    )


def test_a_file_is_fetched_once_for_each_version(files):
    fetched = []
    assert [read(files, "a, version 1", b"one", fetched) for _ in range(3)] == [b"one"] * 3
    assert read(files, "a, version 2", b"two", fetched) == b"two"
    assert fetched == [b"one", b"two"]


def test_what_was_used_longest_ago_goes_and_what_is_open_stays(files):
    for name, age in (("a", 300), ("b", 200), ("c", 100)):
        read(files, name, name.encode() * 30)
        path = files._path(name)
        os.utime(path, (time.time() - age,) * 2)
    read(files, "b", b"b" * 30)  # which notes the use
    with files.opened("a", pytest.fail, size=30, name="a") as held:
        os.utime(files._path("a"), (0, 0))
        read(files, "d", b"d" * 40)
        assert not files._path("c").exists()
        assert files._path("a").exists()
        assert held.read() == b"a" * 30
    assert sum(copies(files)) == 100


def test_two_wait_for_one_fetch(files):
    fetched, found = [], []

    def slow(path):
        fetched.append(1)
        time.sleep(0.05)
        path.write_bytes(b"whole")

    def look():
        with files.opened("a", slow, size=5, name="a") as file:
            found.append(file.read())

    threads = [threading.Thread(target=look) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (found, fetched) == ([b"whole"] * 4, [1])


def test_what_a_crash_or_a_killed_fetch_left_is_no_copy(files):
    read(files, "a", b"whole")
    files._path("a").write_bytes(b"who")
    assert read(files, "a", b"whole") == b"whole"
    left = files.folder / "incoming" / f"{2**22 + 1}-0-abc"
    left.write_bytes(b"x" * 50)
    os.utime(left, (0, 0))
    read(files, "b", b"b" * 90)
    read(files, "c", b"c" * 90)
    assert copies(files) == [90]


def test_what_others_have_put_there_stays_when_room_is_made(files, tmp_path):
    read(files, "a", b"a" * 60)
    outside, name = tmp_path / "outside", files._path("a").name
    for path in (
        outside / name,
        files.folder / "notes" / "mine.txt",
        files.folder / "00" / "mine.txt",
        files.folder / "incoming" / "mine.txt",
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 60)
        os.utime(path, (0, 0))
    (files.folder / "01").symlink_to(outside)
    assert read(files, "b", b"b" * 60) == b"b" * 60
    assert not files._path("a").exists()
    there = [*outside.iterdir(), *files.folder.rglob("mine.txt")]
    assert [path.read_bytes() for path in there] == [b"x" * 60] * 4


def full(path):
    path.write_bytes(b"wh")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


@pytest.mark.parametrize(
    ("fetch", "size", "said"),
    [
        (writes(b"who"), 5, "a.tar: 3 bytes came of 5"),
        (
            writes(b"whole"),
            500,
            "a.tar: has 500 bytes, and the copies of files may have 100",
        ),
        (full, 5, "No space left on device; set CONTRASTIVE_CACHE to a folder on a larger disk"),
    ],
)
def test_a_file_that_cannot_be_kept_is_told_and_leaves_nothing(files, fetch, size, said):
    with pytest.raises(StorageError, match=said), files.opened("a", fetch, size=size, name="a.tar"):
        pytest.fail("is open")
    assert not copies(files)


def test_a_full_disk_makes_room_once(files):
    read(files, "a", b"a" * 60)
    tries = []

    def fetch(path):
        tries.append(path)
        (full if files._path("a").exists() else writes(b"whole"))(path)

    with files.opened("b", fetch, size=5, name="a") as file:
        assert file.read() == b"whole"
    assert len(tries) == 2


def test_small_files_are_kept_and_a_damaged_one_is_fetched_again(files, capsys, monkeypatch):
    fetched, flushed = [], []
    monkeypatch.setattr(os, "fsync", flushed.append)

    def fetch():
        fetched.append(1)
        return b"image"

    assert files.content("a", fetch) == files.content("a", fetch) == b"image"
    path = files._path("a")
    whole = path.read_bytes()
    for torn in (whole[:-1], b"", bytes(len(whole))):  # as a crash may leave what is not flushed
        path.write_bytes(torn)
        assert files.content("a", fetch) == b"image"
    assert len(fetched) == 4
    assert not flushed  # a wait for the disk, for each image
    with pytest.raises(TimeoutError):  # of the caller's own, which is no fault of the disk
        files.content("b", lambda: (_ for _ in ()).throw(TimeoutError()))
    assert not capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told_once_or_in_the_error(tmp_path, capsys):
    (tmp_path / "copies").write_text("a file")
    files = FileCache(tmp_path / "copies", max_bytes=100)
    assert [files.content("a", lambda: b"image") for _ in range(2)] == [b"image"] * 2
    told = capsys.readouterr().err
    assert told.count("no copies are kept") == 1
    with pytest.raises(StorageError, match=r"copies.*set CONTRASTIVE_CACHE"):
        read(files, "a", b"whole")
