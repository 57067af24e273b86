"""``contrastive init`` writes a spec to begin with, and data that it trains on; ``--version``."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import contrastive
from contrastive import RunSpec, load_spec
from contrastive.datasets.miniature import Drawing
from contrastive.errors import TrainingError

KINDS = {
    "flickr30k": "flickr30k",
    "image-folder": "images",
    "class-folders": "classes",
    "table": "tables",
    "webdataset": "shards",
    "mix": "datasets",
}


def place_of(data):
    """Return the folder that a dataset is in."""
    if data.registry.name_of(type(data)) == "mix":
        return data.datasets["photos"].folder.parent
    return next(Path(getattr(data, n)) for n in ("folder", "files", "shards") if hasattr(data, n))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "class-folders",
        # docs/command_line.md trains the one and docs/flickr30k.md the other
        pytest.param("image-folder", marks=pytest.mark.nightly),
        pytest.param("flickr30k", marks=pytest.mark.nightly),
        # below, their rows are those of image-folder, and mixed
        *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("table", "webdataset", "mix")),
    ],
)
def test_what_it_writes_trains_and_is_found(kind, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    made = command("init", kind, "--with-data")
    assert made.out.splitlines() == [
        "written: clip.yaml",
        f"written: {KINDS[kind]}",
        "next: contrastive train clip.yaml",
    ]
    assert command("train", "clip.yaml", "training.epochs=5").code == 0  # of 12
    report = json.loads(command("evaluate", "--json").out)
    if kind == "class-folders":
        found = report["classification"]["accuracy"]
    else:
        found = report["retrieval"]["text_to_image"]["recall"]["1"]
    assert found["low"] > found["chance"]
    searched = () if kind != "class-folders" else ("--images", "classes")
    assert command("search", "a red circle", "-k", 1, *searched).code == 0


@pytest.mark.parametrize("kind", ["table", "webdataset", "mix"])
def test_the_data_of_other_forms_hold_the_same_rows(kind, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    for each in ("image-folder", kind):
        assert command("init", each, "--with-data", "-o", f"{each}.yaml").code == 0
    plain, other = (load_spec(f"{each}.yaml").data for each in ("image-folder", kind))
    for split in ("train", "val", "test"):
        rows = [(row["text"], row["label"]) for row in plain.build(split)]
        found = [(row["text"], row["label"]) for row in other.build(split)]
        assert found[-len(rows) :] == rows
        assert len(found) == len(rows) * (2 if kind == "mix" else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_without_data_it_is_a_spec_of_pretrained_towers(kind, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    made = command("init", kind, "-o", "specs/mine.yaml", "--json")
    assert json.loads(made.out) == {"spec": "specs/mine.yaml"}
    spec = load_spec("specs/mine.yaml")
    assert isinstance(spec, RunSpec)
    assert {tower.frozen for tower in spec.model.towers.values()} == {"encoder"}
    assert place_of(spec.data).as_posix() == f"specs/{KINDS[kind]}"
    assert (tmp_path / "specs" / "mine.yaml").read_text().startswith("# ")
    assert [path.name for path in tmp_path.iterdir()] == ["specs"]
    printed = command("init", kind, "-o", "-")
    assert printed.out == (tmp_path / "specs" / "mine.yaml").read_text().replace("specs/", "")
    assert [path.name for path in tmp_path.iterdir()] == ["specs"]


@pytest.mark.parametrize("kind", KINDS)
def test_without_data_it_says_what_to_do_before_training(kind, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    written, first, then = command("init", kind, "-o", "my, data/clip.yaml").out.splitlines()
    assert written == "written: my, data/clip.yaml"
    assert first.startswith("first: ")
    assert first.endswith(f" in my, data/{KINDS[kind]}")
    assert then == "next: contrastive train 'my, data/clip.yaml'"
    assert place_of(load_spec("my, data/clip.yaml").data).as_posix() == f"my, data/{KINDS[kind]}"
    (tmp_path / KINDS[kind]).mkdir()
    assert "first: " not in command("init", kind).out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "folder"], "folder: is a folder; give a file, such as folder/clip.yaml"),
        (["-o", "file/clip.yaml"], "file/clip.yaml: cannot be written (file: File exists); give -"),
        (["-o", "file/clip.yaml", "--with-data"], "file/clip.yaml: cannot be written (file: Fi"),
        (["-o", "-", "--with-data"], "--output - prints the spec alone; give a file, or leave out"),
        (["-o", "-", "--json"], "--output - prints the spec alone; give a file, or leave out --wi"),
    ],
)
def test_where_no_spec_can_be_written_it_says_so(arguments, said, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    made = command("init", "flickr30k", *arguments)
    assert made.code == 2
    assert made.err.startswith(said)
    assert len(made.err.splitlines()) == 1
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "file"}


@pytest.mark.parametrize("there", ["clip.yaml", "flickr30k"])
def test_nothing_is_overwritten(there, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / there).write_text("mine")
    made = command("init", "flickr30k", "--with-data")
    assert made.code == 2
    assert made.err.strip() == (f"{there}: is there already; move it, or give another --output")
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert command("init", "flickr30k", "--with-data", "-o", "new/clip.yaml").code == 0


def test_a_full_disk_leaves_nothing_and_the_next_try_works(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    names = iter(range(5))

    def draw(self, real=Drawing.draw):
        if next(names, None) is None:
            raise OSError(28, "No space left on device", "00.jpg")
        return real(self)

    with monkeypatch.context() as full:
        full.setattr(Drawing, "draw", draw)
        done = command("init", "image-folder", "--with-data")
    assert done.code == 2
    assert "No space left on device" in done.err
    assert not list(tmp_path.iterdir())
    assert command("init", "image-folder", "--with-data").code == 0


def test_the_version_names_the_file_that_was_imported(command):
    said = command("--version")
    assert said.code == 0
    assert said.out.startswith(f"contrastive-kit {contrastive.__version__} (")
    assert str(contrastive.__path__[0]) in said.out


def test_the_other_project_of_that_name_is_told_of(command, monkeypatch):
    class Other:
        version = "1.2.0"

    def distribution(name):
        if name != "contrastive":
            raise PackageNotFoundError(name)
        return Other()

    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    said = command("--version")
    assert said.code == 1
    assert "contrastive 1.2.0 is installed too: another project (contrastive PCA)" in said.err


SCRIPT = """
import multiprocessing
from contrastive import train

multiprocessing.set_start_method("spawn", force=True)
train("clip.yaml", "runs/a")
"""


TWICE = "train was called while a worker process imports your script"


def test_a_process_that_imports_its_parents_script_does_not_train(monkeypatch):
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(TrainingError, match=TWICE):
        contrastive.train("clip.yaml", "runs/a")


@pytest.mark.nightly  # by day without the process
def test_a_script_without_a_guard_is_told_so(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    command("init", "flickr30k", "--with-data")
    text = (tmp_path / "clip.yaml").read_text().replace("workers: 0", "workers: 1")
    (tmp_path / "clip.yaml").write_text(text)
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py"], capture_output=True, text=True, check=False
    )
    assert ended.returncode
    assert TWICE in ended.stderr


@pytest.mark.nightly
def test_a_script_with_the_guard_that_is_told_trains(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    command("init", "flickr30k", "--with-data")
    text = (tmp_path / "clip.yaml").read_text().replace("workers: 0", "workers: 1")
    (tmp_path / "clip.yaml").write_text(text)
    *above, call = SCRIPT.strip().splitlines()
    guarded = "\n".join([*above, 'if __name__ == "__main__":', f"    {call}"])
    (tmp_path / "script.py").write_text(guarded)
    subprocess.run([sys.executable, "script.py"], check=True)


def test_another_kind_is_refused_in_plain_words(command):
    refused = command("init", "flick")
    assert refused.code == 2
    assert "'flick' is not one of 'flickr30k', 'image-folder'" in " ".join(refused.err.split())
    assert "Value error" not in refused.err
