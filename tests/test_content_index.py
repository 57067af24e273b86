"""Files are read and decoded once; what has changed, or may have, is read again."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from PIL import Image

from contrastive.data import content_index, decodable
from contrastive.data.content_hash import sample_key
from contrastive.data.content_index import content_index as index_of_this_process
from contrastive.data.decodable import undecodable

PIPE = ["a pipe"] if hasattr(os, "mkfifo") else []


@pytest.fixture
def index(monkeypatch):
    """Return what forgets the index in memory, as a new process would, and counts reads."""
    reads = []
    real = content_index.read_bounded

    def counted(path, most):
        reads.append(path.name)
        return real(path, most)

    monkeypatch.setattr(content_index, "read_bounded", counted)

    def restarted():
        index_of_this_process().write()
        content_index._index_in.cache_clear()
        reads.clear()
        return reads

    return restarted


@pytest.fixture
def later(monkeypatch):
    """Let notes be made when files are no longer new."""
    monkeypatch.setattr(content_index, "RESOLUTION", -(10**12))


def image(path, colour="red"):
    Image.new("RGB", (8, 8), colour).save(path)
    return path


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once_over_many_starts(tmp_path, index):
    paths = [image(tmp_path / f"{c}.png", c) for c in ("red", "green")]
    reads = index()
    keys = [sample_key(path, "image") for path in (*paths, *paths)]
    assert reads == ["red.png", "green.png"]
    reads = index()
    assert [sample_key(str(path), "image") for path in (*paths, *paths)] == keys
    assert reads == []


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("change", ["content", "replaced", "touched"])
def test_a_changed_file_is_read_again(tmp_path, index, change):
    path = image(tmp_path / "a.png")
    key = sample_key(path, "image")
    before = path.stat()
    reads = index()
    if change == "touched":
        os.utime(path, ns=(1, 1))
    else:
        other = image(tmp_path / "b.png", "blue")
        if change == "replaced":
            other.replace(path)
        else:
            path.write_bytes(other.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and rsync do
    again = sample_key(path, "image")
    assert reads == ["a.png"]
    assert (again == key) == (change == "touched")


def test_a_file_that_is_as_new_as_its_note_is_not_trusted(tmp_path, index):
    path = image(tmp_path / "a.png")
    sample_key(path, "image")
    reads = index()
    sample_key(path, "image")
    assert reads == ["a.png"], "a change at once after the note has the same times"


@pytest.mark.parametrize("damage", ["no database", "a folder", "read-only", "another table", *PIPE])
def test_an_index_that_cannot_be_used_is_told_and_files_are_read(
    tmp_path, index, damage, monkeypatch, capsys
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(cache))
    cache.mkdir()
    place = cache / "files.sqlite"
    if damage == "no database":
        place.write_bytes(b"rubbish " * 1000)
    elif damage == "a folder":
        place.mkdir()
    elif damage == "a pipe":
        os.mkfifo(f"{place}-journal")
    elif damage == "another table":
        with sqlite3.connect(place) as database:
            database.execute("create table files (other text)")
    else:
        monkeypatch.setattr(sqlite3, "connect", refuse)
    path = image(tmp_path / "a.png")
    key = sample_key(path, "image")
    assert key == sample_key(path.read_bytes(), "image")
    index()
    assert capsys.readouterr().err.count("the index of files cannot be used") == 1
    assert undecodable([path]) == {}
    if damage == "no database":
        assert place.read_bytes() == b"rubbish " * 1000, "nobody knows whose it is"


@pytest.mark.usefixtures("later")
def test_an_index_that_is_deleted_meanwhile_is_made_anew_and_not_at_the_end(
    tmp_path, index, monkeypatch, capsys
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(cache))
    paths = [image(tmp_path / f"{i}.png") for i in range(2)]
    index()
    sample_key(paths[0], "image")
    shutil.rmtree(cache)
    index()  # the end of a process
    assert not cache.exists(), "nothing is put where somebody has cleared up"
    sample_key(paths[0], "image")
    index_of_this_process().write()
    shutil.rmtree(cache)
    for path in paths:  # the first write finds out
        note_problem_of(path)
        index_of_this_process().write()
    reads = index()
    assert undecodable([paths[1]]) == {}
    assert reads == []
    assert capsys.readouterr().err == ""


def note_problem_of(path):
    index_of_this_process().note_problem(sample_key(path, "image"), "")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("column", ["noted", "hash", "mtime"])
def test_a_note_of_another_type_is_none(tmp_path, index, monkeypatch, column):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    path = image(tmp_path / "a.png")
    key = sample_key(path, "image")
    index()
    with sqlite3.connect(tmp_path / "cache" / "files.sqlite") as database:
        assert database.execute(f"update files set {column} = 'abc'").rowcount == 1
    reads = index()
    assert sample_key(path, "image") == key
    assert reads == ["a.png"]


def refuse(*_, **__):
    raise sqlite3.OperationalError("attempt to write a readonly database")


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_decoded_once_and_their_problems_remembered(
    tmp_path, index, workers, monkeypatch
):
    good = [image(tmp_path / f"{i}.png", (i, 0, 0)) for i in range(80)]
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:40])
    images = [*good, broken, tmp_path / "gone.png", good[3].read_bytes(), str(broken)]
    found = undecodable(images, workers=workers)
    assert sorted(found) == [80, 81, 83]
    assert found[80] == found[83]
    assert found[80].startswith(f"{broken}: ")
    assert "No such file" in found[81]
    index()
    monkeypatch.setattr(decodable, "open_image", lambda _: pytest.fail("decoded again"))
    assert undecodable(images, workers=0) == found
    monkeypatch.undo()
    image(broken)
    assert undecodable([broken]) == {}, "it was mended"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), MemoryError()])
def test_a_failure_of_the_disk_or_of_memory_is_not_remembered_as_one_of_the_image(
    tmp_path, index, later, monkeypatch, error
):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as failing:
        failing.setattr("contrastive.data.images.read_bounded", fail)
        if isinstance(error, MemoryError):
            with pytest.raises(MemoryError):
                undecodable([path])
        else:
            assert undecodable([path]) == {0: f"{path}: cannot be read: Input/output error"}
    index()
    assert undecodable([path]) == {}


def test_a_journal_that_another_process_removes_meanwhile_is_none(
    tmp_path, index, monkeypatch, capsys
):
    real = Path.glob

    def glob(self, pattern):
        return [*real(self, pattern), self / "files.sqlite-journal"]

    monkeypatch.setattr(Path, "glob", glob)
    index()
    sample_key(image(tmp_path / "red.png"), "image")
    assert "cannot be used" not in capsys.readouterr().err
