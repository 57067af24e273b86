"""Shards in a storage: a real HTTP server and a real server of S3, which fail as a test says."""

from __future__ import annotations

import re
import shutil
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from contrastive.data.columns import chosen, values_of
from contrastive.data.loading import map_in_workers
from contrastive.data.storage import remote_folders
from contrastive.data.storage.remote_folders import StorageError
from contrastive.datasets import WebDataset
from contrastive.errors import DataError
from tests.shards import png, samples, tar
from tests.storages import reach, s3_server

pytest.importorskip("aiohttp")
ALL = "train+val+test"
PLACE = "shards"


class Files(BaseHTTPRequestHandler):
    """Serves what ``files`` holds; ``meet`` says what happens to a request before that."""

    files: dict[str, bytes]
    meet = staticmethod(lambda *_: None)
    says_versions = True
    requests: list[tuple[str, str]]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.requests.append((self.command, self.path))
        content = self.files.get(self.path)
        how = self.meet(self.command, self.path)
        if how == 500 or content is None:
            self.send_error(how or 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.says_versions:
            self.send_header("ETag", f'"{hash(content)}"')
        self.end_headers()
        if self.command == "GET":
            if how == "slow":
                time.sleep(0.5)
            self.wfile.write(content[: len(content) // 2] if how == "short" else content)
        if how == "short":
            self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def http_server(files):
    handler = type("Some", (Files,), {"files": files, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield handler, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def http(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_folders, "PAUSES", (0.0, 0.0))
    files = {f"/s/{i}.tar": tar(samples(range(5 * i, 5 * i + 5))) for i in range(3)}
    with http_server(files) as (server, address):
        yield server, f"{address}/s/{{0..2}}.tar"


def build(shards, **fields):
    return WebDataset(**{"shards": shards, "max_bad": 1.0} | fields).build(ALL)


def gets(server):
    return [path for method, path in server.requests if method == "GET"]


def test_shards_are_fetched_once_and_images_read_from_the_copies(http):
    server, shards = http
    rows = build(shards)
    assert [row["image"].read() for row in rows] == [png(i) for i in range(15)]
    assert sorted(gets(server)) == ["/s/0.tar", "/s/1.tar", "/s/2.tar"]
    server.requests.clear()
    assert [row["text"] for row in build(shards)] == [f"number {i}" for i in range(15)]
    assert {method for method, _ in server.requests} == {"HEAD"}


def test_copies_that_do_not_all_fit_come_and_go(http, capsys):
    server, shards = http
    size = len(server.files["/s/0.tar"])
    rows = build(shards, cache_gb=1.5 * size / 10**9)
    assert "window: 8, say, reads that many shards at a time" in capsys.readouterr().err
    for i in (0, 14, 1, 7):
        assert rows[i]["image"].read() == png(i)
    assert len(gets(server)) == 3 + 4
    build(shards, cache_gb=1.5 * size / 10**9, window=1)
    assert not capsys.readouterr().err


def twice(how):
    left = [2]

    def meet(method, path):
        if path == "/s/1.tar" and method == "GET" and left[0]:
            left[0] -= 1
            return how
        return None

    return meet


@pytest.mark.parametrize("how", [500, "short"])
def test_what_a_storage_fails_at_twice_is_tried_again(http, how):
    server, shards = http
    server.meet = staticmethod(twice(how))
    rows = build(shards)
    assert len(rows) == 15
    assert rows.bad_rows.lines == []
    assert gets(server).count("/s/1.tar") == 3


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (500, r"^http.*/s/1\.tar: cannot be read: 500, "),
        ("short", r"^http.*/s/1\.tar: cannot be read: .*(payload|\d bytes came of)"),
        ("slow", r"^http.*/s/1\.tar: cannot be read: no answer within 0 s"),
    ],
)
def test_what_a_storage_goes_on_failing_at_is_told_with_the_name(http, monkeypatch, how, said):
    server, shards = http
    server.meet = staticmethod(lambda method, path: how if path == "/s/1.tar" else None)
    if how == "slow":
        monkeypatch.setattr(remote_folders, "ANSWER_WITHIN", 0.1)
        monkeypatch.setattr(remote_folders, "SLOWEST", 10**9)
    with pytest.raises(StorageError, match=said) as told:
        build(shards)
    assert len(str(told.value).splitlines()) == 1
    server.meet = staticmethod(lambda *_: None)
    monkeypatch.setattr(remote_folders, "ANSWER_WITHIN", 60.0)
    assert len(build(shards)) == 15


def test_a_shard_that_changes_is_read_anew_at_a_start_and_ends_a_run(http, tmp_path):
    server, shards = http
    rows = build(shards)
    server.files["/s/1.tar"] = tar(samples(range(50, 55)))
    assert rows[7]["image"].read() == png(7)  # the copy is of the version that was noted
    assert build(shards)[7]["image"].read() == png(52)
    again = build(shards)
    shutil.rmtree(tmp_path / "cache" / "files")
    server.files["/s/1.tar"] = tar(samples(range(60, 65)))
    again[0]["image"].read()
    with pytest.raises(StorageError, match=r"^http.*/s/1\.tar: has changed since .*start again"):
        again[7]["image"].read()
    server.files.pop("/s/2.tar")
    with pytest.raises(StorageError, match=r"^http.*/s/2\.tar: cannot be read"):
        again[14]["image"].read()
    with pytest.raises(DataError, match=r"/s/2\.tar: is not there"):
        build(shards)


def test_other_bytes_of_a_storage_that_tells_of_no_change_are_told(http, tmp_path):
    server, shards = http
    server.says_versions = False
    build(shards)
    server.files["/s/1.tar"] = tar(samples(range(50, 55)))
    shutil.rmtree(tmp_path / "cache" / "files")
    with pytest.raises(StorageError, match=r"/s/1\.tar: other bytes than before came") as told:
        build(shards)[7]["image"].read()
    shutil.rmtree(re.search(r"remove (.*), and start again$", str(told.value))[1])
    assert build(shards)[7]["image"].read() == png(52)


def test_a_server_that_lists_nothing_wants_names(http):
    _, shards = http
    folder = shards.rpartition("/")[0]
    for given in (folder, f"{folder}/*.tar"):
        with pytest.raises(DataError, match=r"lists no files; name them, as by .*/s/\{00000"):
            build(given)


@pytest.mark.slow
def test_shards_in_s3(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_folders, "PAUSES", (0.0, 0.0))
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION", "EC2_METADATA_DISABLED"):
        monkeypatch.setenv(f"AWS_{name}", "")
    monkeypatch.setattr(fsspec.config, "conf", {})
    with s3_server() as server:
        reach(server.address)
        storage = fsspec.filesystem("s3")
        storage.mkdir(PLACE)
        for i, split in enumerate(("train", "train", "val")):
            storage.pipe_file(f"{PLACE}/s/{split}/{i}.tar", tar(samples(range(5 * i, 5 * i + 5))))
        left = [2]

        def meet(method, path):
            if method == "GET" and path.endswith("1.tar") and left[0]:
                left[0] -= 1
                return "500 InternalError"
            return None

        server.meet = meet
        place = f"s3://{PLACE}/s/{{split}}/*.tar"
        rows = WebDataset(shards=place).build("train")
        assert [row["image"].read() for row in rows] == [png(i) for i in range(10)]
        assert rows[9]["source"] == "train/1.tar:000000009"
        assert left == [0]
        server.requests.clear()
        assert len(WebDataset(shards=f"s3://{PLACE}/s/val").build("val")) == 5
        rows = WebDataset(shards=place).build("val")
        assert [row["image"].read() for row in rows] == [png(i) for i in range(10, 15)]
        fetched = [path for method, path in server.requests if method == "GET" and "tar" in path]
        assert len(fetched) == 0
        storage.pipe_file(f"{PLACE}/s/val/2.tar", tar(samples(range(20, 25))))
        rows = WebDataset(shards=place).build("val")
        assert rows[0]["image"].read() == png(20)
        with pytest.raises(DataError, match=r"s3://shards/s/none/\*\.tar: no shards there"):
            build(f"s3://{PLACE}/s/none/*.tar")


def test_worker_processes_fetch_what_is_not_there(http, tmp_path):
    server, shards = http
    rows = build(shards)
    shutil.rmtree(tmp_path / "cache" / "files")
    server.requests.clear()
    groups = [[0, 5, 14], [1, 6, 13], [2, 7, 12], [3, 8, 11]]
    read = [*map_in_workers(Read(values_of(rows, "image")), groups, workers=2)]
    assert read == [[png(i) for i in group] for group in groups]
    assert sorted(gets(server)) == ["/s/0.tar", "/s/1.tar", "/s/2.tar"]


@dataclass
class Read:
    images: Any

    def __getitem__(self, group):
        return [image.read() for image in chosen(self.images, group)]


def test_shards_of_the_hub_are_told_of(tmp_path):
    where = r"by https://huggingface\.co/datasets/o/n/resolve/main/FILE; check"
    with pytest.raises(StorageError, match=where):
        build("hf://datasets/o/n/data/0.tar")


@pytest.mark.parametrize("fails", [False, True])
def test_new_shards_are_read_by_several_processes(http, monkeypatch, fails):
    server, shards = http
    monkeypatch.setattr("contrastive.datasets.shards.index.MANY_SHARDS", 2)
    monkeypatch.setattr("contrastive.data.worker_processes.worker_count", lambda _: 2)
    if fails:
        server.meet = staticmethod(lambda *asked: 500 if asked == ("GET", "/s/2.tar") else None)
        with pytest.raises(StorageError, match=r"^http.*/s/2\.tar: cannot be read: 500"):
            build(shards)
        server.meet = staticmethod(lambda *_: None)
    assert [row["text"] for row in build(shards)] == [f"number {i}" for i in range(15)]
    assert gets(server).count("/s/0.tar") == 1
