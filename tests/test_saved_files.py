"""Saved files of another shape, kind or size are told in one line that names the file."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrastive import load_model, train
from contrastive.cli.context import Context
from contrastive.config.stored import saved_folder
from contrastive.errors import ContrastiveError
from contrastive.model import saved_files
from contrastive.model.saved_folder import is_whole
from tests.hostile import run_spec, saved, seal
from tests.miniature import write_flickr30k

if TYPE_CHECKING:
    from pathlib import Path

STEP = "checkpoints/step-00000004"
JUNK = [None, [], {}, 0, -1, 1e308, 10**30, True, "", "x", "\0", "\ud800", "../..", [[]], {"a": {}}]
JSON = ("spec.json", "run.json", "parts.json", "state.json", "manifest.json")
TENSORS = ("model", "seen", "optimizer", "random")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a run of four steps and its spec."""
    root = tmp_path_factory.mktemp("made")
    spec = run_spec(write_flickr30k(root / "data", images=24))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRASTIVE_CACHE", str(root / "cache"))
        train(spec, root / "run")
    return root / "run", spec


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "run"), made[1]


def problems(run: Path, spec: Any, place: str = "") -> list[str]:
    """Open a run in all ways, or those that read a place; return what is said.

    Anything but an error of ours raises.
    """
    model = (
        lambda: load_model(run).similarity(torch.ones(1, 8), torch.ones(1, 8)),
        lambda: Context(run).run(),
        lambda: Context(run).run("type=lines,file=texts.txt"),
        lambda: Context(run).cache,
    )
    checkpoint = (lambda: load_model(run / STEP), lambda: train(spec, run, resume=True))
    said: list[str] = []
    for door in {"model": model, STEP: checkpoint}.get(place, model + checkpoint):
        try:
            with warnings.catch_warnings(action="ignore"):
                door()
        except ContrastiveError as error:
            said.append(str(error))
    return said


def rewrite(run: Path, file: str, content: Any) -> None:
    """Put other JSON into every saved folder of a run, with a manifest that fits."""
    for folder in saved(run):
        if (folder / file).exists():
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / file).write_text(text)
            if file != "manifest.json":
                seal(folder)


@pytest.mark.slow
@pytest.mark.parametrize("file", JSON)
@pytest.mark.parametrize("content", [None, [], {}, 3, {"encoders": None}, {"training": []}])
def test_json_of_another_shape_is_one_line(content, file, run):
    folder, spec = run
    rewrite(folder, file, content)
    said = problems(folder, spec)
    assert any(file in line for line in said), said
    assert all("\n" not in line for line in said if "cannot be read" in line)


def nested(levels: int) -> Any:
    deep: Any = {}
    for _ in range(levels):
        deep = {"loss": deep, "type": "queue"}
    return deep


ABSURD = {
    "nested deeper than 50 levels": json.dumps(nested(200)),
    "not a JSON file: maximum recursion": "[" * 100_000,
    "not a JSON file: Exceeds the limit": f'{{"a": {"9" * 5000}}}',
    "has a NUL character": json.dumps({"a": "\0"}),
    "has half of a character": json.dumps({"\ud800": 1}),
    "bytes are too many": f'{{"a": "{" " * 20_000}"}}',
}


@pytest.mark.slow
@pytest.mark.parametrize("file", JSON)
@pytest.mark.parametrize("why", ABSURD)
def test_absurd_json_is_one_line(why, file, run, monkeypatch):
    folder, spec = run
    monkeypatch.setattr(saved_files, "MAX_JSON", 15_000 if "many" in why else 10**6)
    rewrite(folder, file, ABSURD[why])
    said = problems(folder, spec)
    if file == "manifest.json":  # the checkpoints are not whole either
        with pytest.raises(ContrastiveError) as error:
            load_model(folder / "model")
        said.append(str(error.value))
    assert any(why in line for line in said), said


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="has pipes and devices")
@pytest.mark.parametrize("file", ["spec.json", "manifest.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "folder"])
def test_only_regular_files_are_opened(kind, file, run):
    folder, _ = run
    (folder / "model" / file).unlink()
    if kind == "pipe":
        os.mkfifo(folder / "model" / file)
    elif kind == "folder":
        (folder / "model" / file).mkdir()
    else:
        (folder / "model" / file).symlink_to(kind)
    with pytest.raises(ContrastiveError, match=f"{file}: is no regular file") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [*sorted(saved_files.CHECKPOINT), "everything"])
def test_a_checkpoint_that_lacks_a_file_is_not_whole_and_the_one_before_is_taken(lacking, run):
    folder, _ = run
    step = folder / STEP
    manifest = json.loads((step / "manifest.json").read_text())
    files = manifest["files"]
    left = {} if lacking == "everything" else {k: v for k, v in files.items() if k != lacking}
    written = {} if lacking == "everything" else manifest | {"files": left}
    (step / "manifest.json").write_text(json.dumps(written))
    assert not is_whole(step)
    shutil.rmtree(folder / "model")
    assert Context(folder).saved.path.name == "step-00000003"


def with_tensors(folder: Path, name: str, change: Any) -> None:
    path = folder / f"{name}.safetensors"
    tensors = {key: value.clone() for key, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    seal(folder)


def with_header(folder: Path, name: str, change: Any) -> None:
    path = folder / f"{name}.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size :])
    seal(folder)


TENSOR_FAULTS = {
    "an unknown modality": ("seen", lambda x: x.update(sound=torch.zeros(2, dtype=torch.int64))),
    "fractions for hashes": ("seen", lambda x: x.update(image=torch.zeros(2))),
    "hashes in a table": ("seen", lambda x: x.update(image=torch.zeros(2, 2, dtype=torch.int64))),
    "no weights": ("model", dict.clear),
    "a weight too many": ("model", lambda x: x.update(more=torch.zeros(1))),
    "a weight of another shape": (
        "model",
        lambda x: x.update({next(iter(x)): torch.zeros(7, 7, 7)}),
    ),
    "integers for weights": ("model", lambda x: x.update({k: v.int() for k, v in x.items()})),
    "no generator": ("random", dict.clear),
    "a short generator": ("random", lambda x: x.update(cpu=torch.zeros(3, dtype=torch.uint8))),
    "fractions for a generator": ("random", lambda x: x.update(cpu=torch.zeros(5056))),
    "moments of nothing": ("optimizer", lambda x: x.update({"nothing|exp_avg": torch.zeros(1)})),
    "moments without a kind": ("optimizer", lambda x: x.update(nothing=torch.zeros(1))),
    "moments that are not finite": ("optimizer", lambda x: next(iter(x.values())).fill_(torch.inf)),
    "moments of another shape": (
        "optimizer",
        lambda x: x.update({key: torch.zeros(9, 9) for key in list(x)[:1]}),
    ),
    "moments of another kind": (
        "optimizer",
        lambda x: x.update({f"{key.partition('|')[0]}|evil": x.pop(key) for key in list(x)[:1]}),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_tensors_of_something_else_are_one_line(fault, run):
    folder, spec = run
    name, change = TENSOR_FAULTS[fault]
    for place in (folder / STEP, folder / "model"):
        if (place / f"{name}.safetensors").exists():
            with_tensors(place, name, change)
    said = problems(folder, spec)
    assert said
    assert all(f"{name}.safetensors" in line or "shape" in line for line in said), said
    assert not any("\n" in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("shape", [[0, 2**62, 8], [2**62], [-1], "x", None])
def test_an_absurd_shape_is_one_line(shape, name, run):
    folder, spec = run
    for place in (folder / STEP, folder / "model"):
        if (place / f"{name}.safetensors").exists():
            absurd = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
            key = "cpu" if name == "random" else "text"
            with_header(place, name, lambda header, at=key, new=absurd: header.update({at: new}))
    said = problems(folder, spec)
    assert any(f"{name}.safetensors" in line for line in said)
    assert not any("\n" in line for line in said)


def mutated(data: Any, chance: random.Random) -> Any:
    """Return JSON with one value, key or level changed."""
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                visit(value[key])

    visit(data)
    if not places:
        return chance.choice(JUNK)
    inside, key = chance.choice(places)
    match chance.randrange(4):
        case 0:
            del inside[key]
        case 1 if isinstance(inside, dict):
            inside[chance.choice(["x", "type", "", "image", "format"])] = inside.pop(key)
        case 2:
            inside[key] = [inside[key]]
        case _:
            inside[key] = chance.choice(JUNK)
    return data


def mutate_file(path: Path, chance: random.Random) -> None:
    """Change a file: its JSON, the header of its tensors, or its bytes."""
    raw = path.read_bytes()
    if path.suffix == ".json" and chance.random() < 0.8:
        path.write_text(json.dumps(mutated(json.loads(raw), chance)))
        return
    if path.suffix == ".safetensors" and chance.random() < 0.8:
        size = struct.unpack("<Q", raw[:8])[0]
        header = json.dumps(mutated(json.loads(raw[8 : 8 + size]), chance)).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + raw[8 + size :])
        return
    place = chance.randrange(len(raw))
    flipped = bytes([raw[place] ^ 1 << chance.randrange(8)])
    path.write_bytes(raw[:place] + (flipped + raw[place + 1 :] if chance.random() < 0.7 else b""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "count"),
    [(0, 40), *(pytest.param(seed, 500, marks=pytest.mark.nightly) for seed in range(1, 7))],
)  # nightly: more of what the first has
def test_no_mutation_of_a_saved_run_is_a_traceback(seed, count, made, tmp_path):
    """A manifest that fits is written after most of them, as a stranger would."""
    chance = random.Random(seed)
    base, spec = made
    told = 0
    for number in range(count):
        run = shutil.copytree(base, tmp_path / "run", dirs_exist_ok=True)
        name = chance.choice(["model", STEP])
        place = run / name
        path = place / chance.choice(sorted(p.name for p in place.iterdir()))
        mutate_file(path, chance)
        if chance.random() < 0.9 and path.name != "manifest.json":
            seal(place)
        try:
            told += bool(problems(run, spec, name))
        except Exception as error:
            error.add_note(
                f"mutation {number} of {path.relative_to(run)}: {path.read_bytes()[:2000]}"
            )
            raise
        shutil.rmtree(run)
    assert told > count / 3, "mutations that nobody notices test nothing"


def test_files_know_the_folder_that_they_were_saved_in(run, tmp_path):
    folder, _ = run
    assert saved_folder(folder / "model" / "run.json") == folder / "model"
    assert saved_folder(folder / STEP / "deep" / "own.yaml") == folder / STEP
    assert saved_folder(folder / "own.yaml") == folder
    assert saved_folder(tmp_path / "own.yaml") is None
