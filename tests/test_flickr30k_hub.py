"""Flickr30k as the hub has it: the dataset of the folders, its images read when they are needed.

The hub is a server in this process that speaks its protocol.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest

from contrastive.data.content_hash import sample_key
from contrastive.data.images import StoredImage, open_image
from contrastive.data.loading import uniform_batches
from contrastive.datasets import Flickr30k
from contrastive.encoders import ViT
from contrastive.errors import DataError, MissingExtra
from tests.miniature import Picture, write_flickr30k, write_hub_copy

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not find_spec("datasets"), reason="needs datasets"),
]

SPLITS = ("train", "val", "test", "train+val+test")
REVISION = "refs/convert/parquet"


def rows(samples):
    return [samples[index] for index in range(len(samples))]


def changed(tmp_path, change):
    """Return the dataset of a copy whose rows were changed."""
    return Flickr30k(source="hub", repo=str(write_hub_copy(tmp_path / "copy", change=change)))


def message(config, split="train") -> str:
    """Return the one line with which a build fails."""
    with pytest.raises(DataError) as caught:
        config.build(split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("purpose", ["training", "evaluation"])
def test_the_hubs_copy_is_the_dataset_of_the_folder(tmp_path, purpose):
    files = Flickr30k(folder=write_flickr30k(tmp_path / "files"))
    table = Flickr30k(source="hub", repo=str(write_hub_copy(tmp_path / "copy")))
    for split in SPLITS:
        ours, theirs = (rows(data.build(split, purpose=purpose)) for data in (table, files))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert (a["id"], a["text"]) == (b["id"], b["text"])
            assert a["image"].read() == b["image"].read_bytes()
            assert sample_key(a["image"], "image") == sample_key(b["image"], "image")


def test_who_is_in_the_test_split_is_said_by_the_column_not_by_the_hub(tmp_path):
    """The hub calls all of its rows test."""
    copy = write_hub_copy(tmp_path / "copy")
    assert {path.parent.name for path in copy.rglob("*.parquet")} == {"test"}
    data = Flickr30k(source="hub", repo=str(copy))
    for split in SPLITS[:3]:
        named = {str(row["image"]) for row in rows(data.build(split))}
        assert named == {Picture(i).name for i in range(24) if Picture(i).split == split}
    assert "there are: 'test', 'train', 'val'" in message(data, "validation")


def test_a_row_holds_where_its_picture_is_and_the_captions_of_one_share_it(tmp_path):
    data = Flickr30k(source="hub", repo=str(write_hub_copy(tmp_path / "copy")))
    first, *others, last = rows(data.build("test"))
    assert isinstance(first["image"], StoredImage)
    assert first["source"] == "copy: row 5"
    assert all(row["image"] is first["image"] for row in others[:4])
    assert last["image"] is not first["image"]
    assert open_image(first["image"]).size == (64, 64)


def test_worker_processes_read_the_pictures_of_a_table(tmp_path):
    files = Flickr30k(folder=write_flickr30k(tmp_path / "files")).build("train+val+test")
    table = Flickr30k(source="hub", repo=str(write_hub_copy(tmp_path / "copy")))
    preprocess = ViT(depth=1).build().preprocess
    found = []
    for samples in (files, table.build("train+val+test")):
        images = [row["image"] for row in rows(samples)][::5]
        parts = uniform_batches(images, range(24), preprocess, batch_size=4, workers=2)
        found.append([part.inputs["image"] for part in parts])
    assert len(found[0]) == 6
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def cell(row: int, column: str, value):
    return lambda rows: rows[row].__setitem__(column, value)


NAME = Picture(0).name
FAULTS = {
    "empty caption": (cell(0, "caption", ["", "b", "c", "d", "e"]), 1, "caption 0 is empty"),
    "no captions": (cell(0, "caption", []), 1, f"image '{NAME}' has no captions"),
    "captions missing": (cell(0, "caption", None), 1, f"image '{NAME}' has no captions"),
    "caption missing": (cell(0, "caption", ["a", None]), 1, "caption 1 is not a text"),
    "no picture": (cell(0, "image", None), 5, f"image '{NAME}' is not in "),
    "a path instead": (cell(0, "image", {"path": "/etc/passwd"}), 5, f"image '{NAME}' is not in "),
    "no split": (cell(0, "split", None), 1, f"image '{NAME}' has no split"),
    "blank split": (cell(0, "split", " "), 1, f"image '{NAME}' has no split"),
    "no name": (cell(0, "filename", None), 1, "no filename"),
}


@pytest.mark.parametrize(("change", "bad", "problem"), FAULTS.values(), ids=FAULTS)
def test_a_bad_row_is_reported_once_and_left_out(tmp_path, change, bad, problem):
    data = changed(tmp_path, change).model_copy(update={"max_bad": 0.1})
    samples = data.build("train")
    (line,) = samples.bad_rows.lines
    assert line.startswith("copy: row 0: ")
    assert problem in line
    assert samples.bad_rows.bad == bad
    assert not {row["text"] for row in rows(samples)} & {"", Picture(0).captions[0]}
    assert "samples are bad, 0 may be" in message(data.model_copy(update={"max_bad": 0}))


def test_an_image_that_stands_twice_is_used_once(tmp_path):
    samples = changed(tmp_path, lambda rows: rows.append(rows[0])).build("train")
    assert len(samples) == 80
    assert samples.bad_rows.lines == [f"copy: row 24: image '{NAME}' was here before"]


def test_a_row_of_a_split_of_its_own_is_in_no_other(tmp_path):
    data = changed(tmp_path, cell(0, "split", "tset"))
    assert len(data.build("train")) == 75
    assert {row["id"] for row in rows(data.build("tset"))} == {0}


def test_too_many_bad_rows_end_the_build(tmp_path):
    def hollow(rows):
        for row in rows[:4]:
            row["caption"] = []

    assert "4 of 64 samples are bad, 1 may be (max_bad: 0.01)" in message(changed(tmp_path, hollow))


def test_a_broken_picture_is_named(tmp_path):
    broken = cell(0, "image", {"bytes": b"\xff\xd8\xff junk"})
    first = changed(tmp_path, broken).build("train")[0]["image"]
    with pytest.raises(Exception, match=f"^{NAME}: not a readable JPEG"):
        open_image(first)


def test_a_table_of_another_kind_is_one_line(tmp_path):
    def without_split(rows):
        for row in rows:
            row["who"] = row.pop("split")

    folder = tmp_path / "other"
    folder.mkdir()
    data = Flickr30k(source="hub", repo=str(folder))
    assert message(data) == f"{folder}: no Parquet files here (.parquet)"
    (folder / "a.parquet").write_bytes(b"PAR1 and no more")
    assert message(data).startswith(f"{folder / 'a.parquet'}: not readable Parquet: ")
    (folder / "a.parquet").unlink()

    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"image": [1], "caption": [["a"]]}).to_parquet(folder / "a.parquet")
    expected = "no column 'split', 'filename'; there are: 'image', 'caption'"
    assert message(data) == f"{folder / 'a.parquet'}: {expected}"
    whole = {"image": [1], "caption": [["a"]], "split": ["train"], "filename": ["a.jpg"]}
    datasets.Dataset.from_dict(whole).to_parquet(folder / "a.parquet")
    expected = "column 'image' holds int64, not {bytes, path}"
    assert message(data) == f"{folder / 'a.parquet'}: {expected}"
    datasets.enable_progress_bars()


def test_what_is_not_there_is_said_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in (tmp_path / "nowhere", "./nowhere", "~/nowhere", "one/two/three"):
        assert message(Flickr30k(source="hub", repo=str(name))) == f"{name}: no such folder"
    line = message(Flickr30k(source="hub"))
    assert line.startswith(f"nlphuji/flickr30k: its Parquet files at {REVISION} are neither in ")
    assert f"hf download nlphuji/flickr30k --repo-type dataset --revision {REVISION} " in line


@pytest.mark.parametrize(
    ("module", "extra"), [("huggingface_hub", "datasets"), ("pyarrow.parquet", "parquet")]
)
def test_without_a_library_it_says_what_to_install(tmp_path, monkeypatch, module, extra):
    folder = write_hub_copy(tmp_path / "copy")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf'pip install "contrastive-kit\[{extra}\]"'):
        Flickr30k(source="hub", repo=str(folder) if extra == "parquet" else "a/b").build("train")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "source 'folder' needs folder: where Flickr30k was unpacked; or set source: hub"),
        ({"source": "hub", "splits": "lists"}, "splits is of source 'folder'"),
        ({"source": "web", "folder": "x"}, "Input should be 'folder' or 'hub'"),
    ],
)
def test_a_source_needs_what_it_reads_and_takes_no_more(fields, problem):
    with pytest.raises(ValueError, match=problem):
        Flickr30k(**fields)


class Hub(BaseHTTPRequestHandler):
    """The answers of the hub that a download needs."""

    copy: dict[str, bytes]
    asked: list[str]
    sha = "0" * 39 + "1"

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        api, files = "/api/datasets/nlphuji/flickr30k", "/datasets/nlphuji/flickr30k/resolve"
        listed = [
            {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
            for name, content in self.copy.items()
        ]
        about = {"id": "nlphuji/flickr30k", "sha": self.sha}
        answers = {f"{files}/{self.sha}/{name}": content for name, content in self.copy.items()}
        answers[f"{api}/revision/{REVISION}"] = json.dumps(about).encode()
        answers[f"{api}/tree/{self.sha}"] = json.dumps(listed).encode()
        self.send_response(200 if path in answers else 404)
        content = answers.get(path, b"")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{digest(content)}"')
        self.send_header("X-Repo-Commit", self.sha)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub(tmp_path):
    """Serve a copy with the loading script that the real one has; yield the address and log."""
    folder = write_hub_copy(tmp_path / "copy")
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.parquet")}
    answers = {"copy": {**files, "flickr30k.py": b"raise SystemExit(3)"}, "asked": []}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThisHub", (Hub,), answers))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers["asked"]
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_downloaded_once_without_its_code_and_then_read_offline(hub, tmp_path):
    address, asked = hub
    script = (
        "import sys; from contrastive.datasets import Flickr30k;"
        "samples = Flickr30k(source='hub').build('test');"
        "print(len(samples), samples[0]['source'], len(samples[0]['image'].read()) > 600)"
    )
    told = []
    for offline in ("0", "1"):
        env = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": offline}
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            env=os.environ | env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        told.append(ended.stdout)
        if offline == "0":
            assert any(path.endswith("/TEST/test/0001.parquet") for path in asked)
            assert not any(path.endswith(".py") for path in asked)
            asked.clear()
    assert told == ["20 flickr30k: row 5 True\n"] * 2
    assert (asked, ended.stderr) == ([], "")
