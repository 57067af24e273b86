"""``contrastive cache``: what is there, what may go, whether it is whole."""

import json
import os
import time

import numpy as np
import pytest

from contrastive import list_cache, prune_cache, verify_cache
from contrastive.cli import cache as verbs
from contrastive.data.content_index import ContentIndex
from contrastive.errors import ContrastiveError
from contrastive.features import key_index, verification
from contrastive.features.store import FORMAT, Store

DAY = 86_400
COPY = "0" * 62
PIPE = hasattr(os, "mkfifo")


def about(name, form=FORMAT):
    return {"out_dim": 4, "format": form, "spec": {"type": "timm", "name": name}}


def keys_of(count):
    return np.arange(32 * count, dtype=np.uint8).reshape(count, 32) + 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a cache: two encoders, one of an earlier version, an index, two copies, two others."""
    monkeypatch.setattr(key_index, "TAIL", 4)
    folder = tmp_path / "cache"
    for days, (name, form) in enumerate([("new", FORMAT), ("used", FORMAT), ("old", 2)]):
        store = Store(folder / "features", about(name, form))
        store.append(keys_of(6), np.ones((6, 4), np.float32))
        aged(store.folder, days)
    index = ContentIndex(folder)
    index.hash_of(__file__)
    index.write()
    for days, digits in enumerate(("0a", "ff")):
        copy = folder / "files" / digits / COPY
        copy.parent.mkdir(parents=True)
        copy.write_bytes(bytes(1000))
        os.utime(copy, (0, time.time() - days * DAY))
    shard = folder / "shards" / f"{'0' * 64}.safetensors"
    model = folder / "remote" / "01234567" / "m" / "spec.json"
    for path in (shard, model):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(500))
    os.utime(shard, (time.time() - 30, 0))  # read shortly before
    (folder / "mine.txt").write_text("mine")
    (folder / "features" / "notes").mkdir()
    return folder


def aged(folder, days):
    for path in folder.iterdir():
        os.utime(path, (0, time.time() - days * DAY - 60))


def store_in(place, name):
    [found] = [each for each in list_cache(place).encoders if each.name == f"timm {name}"]
    return found.folder


def names(place):
    return [each.name.removeprefix("timm ") for each in list_cache(place).encoders]


def test_each_encoder_is_a_line_and_what_is_not_of_the_cache_is_told(place, command):
    (store_in(place, "new") / "README").write_text("mine")
    ended = command("cache", "list", place)
    assert ended.code == 0, ended.err
    rows = [line for line in ended.out.splitlines() if "timm" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["timm new", "timm used", "timm old"]
    assert "of an earlier version (format 2, now 3)" in rows[2]
    assert "index of files: 1 files" in ended.out
    assert "copies of remote files: 2 files, 2.0 kB" in ended.out
    assert "indexes of shards: 1 files, 500 bytes" in ended.out
    assert "models of storages (not pruned): 1, 500 bytes" in ended.out
    assert ended.err.count("is not of the cache, and is left alone") == 3
    told = json.loads(command("cache", "list", place, "--json").out)
    size = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    assert told["bytes"] == size - 2 * len("mine") - 500
    assert [each["rows"] for each in told["encoders"]] == [6, 6, 6]
    assert told["copies_of_remote_files"] == {"files": 2, "bytes": 2000}
    assert told == list_cache(place).as_dict()


def test_an_empty_cache_and_a_folder_that_is_not_there(tmp_path, command):
    for verb in ("list", "verify"):
        assert command("cache", verb).code == 0
        ended = command("cache", verb, tmp_path / "nowhere")
        assert ended.code == 2
        assert "nowhere: no such folder" in ended.err
    (tmp_path / "file").touch()
    assert "file: is no folder" in command("cache", "prune", tmp_path / "file", "--outdated").err


@pytest.mark.parametrize(
    ("options", "stay", "copies"),
    [
        (["--outdated"], ["new", "used"], 2),
        (["--older-than", "1.5d"], ["new", "used"], 2),
        (["--older-than", "12h"], ["new"], 1),
        (["--older-than", "0s"], [], 0),
        (["--max-size", "0"], [], 0),
        (["--max-size", "1TB"], ["new", "used", "old"], 2),
        (["--max-size", "90 kB", "--outdated"], ["new", "used"], 2),
    ],
)
def test_what_was_used_longest_ago_goes(place, command, options, stay, copies):
    before = list_cache(place).bytes
    ended = command("cache", "prune", place, *options, "--yes", "--json")
    assert ended.code == 0, ended.err
    assert names(place) == stay
    after = list_cache(place)
    assert len(after.copies) == copies
    assert len(after.shards) == (not {"0s", "0"} & {*options})
    assert len(after.models) == 1
    told = json.loads(ended.out)
    assert told["bytes"] == before - after.bytes
    assert told["bytes_left"] == after.bytes
    assert (place / "mine.txt").exists()
    assert (place / "features" / "notes").exists()
    assert [*(place / "features").iterdir()] != []


def test_what_a_link_leads_to_stays(place, tmp_path):
    outside = tmp_path / "outside" / COPY
    outside.parent.mkdir()
    outside.write_bytes(b"mine")
    (place / "files" / "01").symlink_to(outside.parent)
    found = list_cache(place)
    assert len(found.copies) == 2
    assert place / "files" / "01" in found.others
    assert not prune_cache(place, max_size=0).in_use
    assert outside.read_bytes() == b"mine"


def test_what_is_verified_is_not_deleted_meanwhile(place, monkeypatch):
    real, kept = verification.description_of, set()

    def read(folder):
        kept.update(prune_cache(place, max_size=0).in_use)
        return real(folder)

    begun = place / "features" / ("0" * 32) / "lock"
    begun.parent.mkdir()
    begun.touch()  # as long as another process makes a store
    monkeypatch.setattr(verification, "description_of", read)
    stores = {each.folder for each in list_cache(place).encoders} - {begun.parent}
    assert not verify_cache(place)
    assert kept & stores


def test_a_folder_that_has_but_a_file_of_that_name_stays(place):
    mine = place / "features" / "mine" / "encoder.json"
    mine.parent.mkdir()
    mine.write_text("{}")
    assert mine.parent in list_cache(place).others
    prune_cache(place, max_size=0, outdated=True)
    assert mine.read_text() == "{}"


def test_no_more_goes_than_has_to(place):
    found = list_cache(place)
    one = {each.name: each.bytes for each in found.encoders}["timm old"]
    gone = prune_cache(place, max_size=found.bytes - one)
    assert [each.name for each in gone.encoders] == ["timm old"]
    gone = prune_cache(place, max_size=found.bytes - one - 1)
    assert [each.name for each in gone.encoders] == ["timm used"]
    assert not gone.copies, "the other one is a minute younger"


def test_what_a_process_uses_stays_and_is_told(place, command):
    here = Store(place / "features", about("used"))
    mapped = here.features(0)
    ended = command("cache", "prune", place, "--max-size", "0", "--yes")
    assert ended.code == 3
    assert f"{here.folder}: stays: a process uses it" in ended.err
    assert names(place) == ["used"]
    assert mapped.tolist() == [[1] * 4] * 6
    del here, mapped
    assert command("cache", "prune", place, "--max-size", "0", "--yes").code == 0
    assert names(place) == []


def test_files_that_are_not_of_the_cache_stay_where_they_are(place, command):
    folder = store_in(place, "old")
    (folder / "README").write_text("mine")
    ended = command("cache", "prune", place, "--outdated", "--yes")
    assert f"{folder}: has files that are not of the cache, which stay" in ended.err
    assert [path.name for path in folder.iterdir()] == ["README"]


@pytest.mark.parametrize("answer", ["y", "n", None])
def test_it_asks_before_anything_is_deleted(place, command, monkeypatch, answer):
    monkeypatch.setattr(verbs.sys.stdin, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr(verbs.typer, "confirm", lambda *_, **__: answer == "y")
    ended = command("cache", "prune", place, "--outdated")
    assert "timm old, 6 rows" in ended.err
    assert ("old" in names(place)) == (answer != "y")
    assert ended.code == (2 if answer is None else 0)
    assert ("give --yes" in ended.err) == (answer is None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say what may go: --older-than 30d, --max-size 20GB or --outdated"),
        (["--older-than", "soon"], "older_than is 'soon'; give a time with its unit, such as 30d"),
        (["--older-than", "30"], "older_than is '30'; give a time with its unit, such as 30d"),
        (["--max-size", "-1"], "max_size is '-1'; give bytes, or a size such as 50GB"),
        (["--max-size", "1e9"], "max_size is '1e9'; give bytes"),
    ],
)
def test_mistakes_are_one_line(place, command, options, said):
    ended = command("cache", "prune", place, *options)
    assert ended.code == 2
    assert ended.err.startswith(said)
    assert ended.err.count("\n") == 1
    assert len(names(place)) == 3
    with pytest.raises(ContrastiveError):
        prune_cache(place)


def test_a_whole_cache_has_nothing_to_tell(place, command):
    ended = command("cache", "verify", place)
    assert ended.code == 0
    assert "18 rows of 3 encoders are whole" in ended.out
    assert verify_cache(place) == []


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "a feature": (lambda f: flip(f / "features.bin", 20), "1 of 6 rows are damaged"),
    "a key": (lambda f: flip(f / "keys.bin", 40), "the index of keys is wrong"),
    "a checksum": (lambda f: flip(f / "keys.bin", 34), "1 of 6 rows are damaged"),
    "features cut": (lambda f: os.truncate(f / "features.bin", 40), "4 of 6 rows are damaged"),
    "an index": (lambda f: flip(index_of(f), 8), "the index of keys is wrong"),
    "an index cut": (lambda f: os.truncate(index_of(f), 8), "the index of keys is cut off"),
}


def index_of(folder):
    [path] = folder.glob("index-*.bin")
    return path


@pytest.mark.parametrize("what", DAMAGES)
def test_damage_is_told_with_what_to_do_and_repaired(place, command, what):
    spoil, said = DAMAGES[what]
    folder = store_in(place, "new")
    spoil(folder)
    ended = command("cache", "verify", place)
    assert ended.code == 1
    line = next(line for line in ended.out.splitlines() if said in line)
    assert line.startswith(str(folder))
    assert line.endswith("; run: contrastive cache verify --repair")
    told = json.loads(command("cache", "verify", place, "--repair", "--json").out)
    assert all(each["remedy"].startswith("repaired: ") for each in told["damages"])
    assert command("cache", "verify", place).code == 0
    here = Store(place / "features", about("new"))
    rows = np.full((6, 4), 2, np.float32)
    here.append(keys_of(6), rows)
    found = here.find(keys_of(6))
    assert (found >= 0).all()
    assert {*here.features(0)[found].ravel().tolist()} <= {1.0, 2.0}


HOSTILE = {
    "no JSON": b"\x80\x04pickle",
    "another": json.dumps(about("other")).encode(),
    "a list": b"[1]",
    "deep": b"[" * 100_000,
    "a number": b'{"out_dim": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("what", [*HOSTILE, "nothing", *["a pipe"] * PIPE])
def test_a_description_that_is_none_is_one_line_and_can_be_pruned(place, command, what):
    described = store_in(place, "new") / "encoder.json"
    described.unlink()
    if what in HOSTILE:
        described.write_bytes(HOSTILE[what])
    elif what == "a pipe":
        os.mkfifo(described)
    ended = command("cache", "verify", place)
    assert ended.code == 1
    assert ended.out.count("\n") == 1
    assert f"{described}: " in ended.out
    assert ended.out.endswith("; run: contrastive cache prune --outdated\n")
    listed = command("cache", "list", place, "--json")
    [broken] = [e for e in json.loads(listed.out)["encoders"] if e["name"] == "?"]
    assert broken["outdated"].startswith("encoder.json: ")
    assert command("cache", "prune", place, "--outdated", "--yes").code == 0
    assert command("cache", "verify", place).code == 0
    assert names(place) == ["used"]


@pytest.mark.skipif(not PIPE, reason="the system has none")
@pytest.mark.parametrize("name", ["features.bin", "keys.bin"])
def test_a_pipe_in_place_of_a_file_is_one_line(place, command, name):
    path = store_in(place, "new") / name
    path.unlink()
    os.mkfifo(path)
    ended = command("cache", "verify", place)
    assert ended.code == 1
    assert f"{path}: " in ended.out
    assert "delete it; its rows are computed again" in ended.out
    path.unlink()  # as it says
    command("cache", "verify", place, "--repair")
    assert command("cache", "verify", place).code == 0


def test_a_folder_elsewhere_that_is_linked_is_left_alone(place, tmp_path):
    folder = store_in(place, "new").rename(tmp_path / "elsewhere")
    (place / "features" / ("0" * 32)).symlink_to(folder)
    prune_cache(place, max_size=0)
    assert (folder / "keys.bin").exists()


def test_a_broken_index_of_files_is_told(place, command):
    (place / "files.sqlite").write_bytes(b"none" * 2000)
    ended = command("cache", "verify", place)
    assert ended.code == 1
    assert "the index of files is damaged" in ended.out
    assert ended.out.endswith("; delete it while nothing runs; files are read again\n")
    (place / "files.sqlite").unlink()
    assert command("cache", "verify", place).code == 0
