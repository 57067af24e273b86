"""What the verbs share is found, read and validated once in a process."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from contrastive import RunSpec, train
from contrastive.config import base
from contrastive.encoders import CBOW
from contrastive.model import saved_folder
from tests.toys import toy_dict


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTRASTIVE_CACHE", str(folder / "cache"))
        train(RunSpec.model_validate(toy_dict(folder / "data", epochs=1)), folder / "toy")
    return folder / "toy"


@pytest.fixture
def counted(monkeypatch):
    """Count what is parsed, hashed and validated, by file or by kind."""
    counts = Counter()
    sha256, read_bytes = saved_folder._sha256, Path.read_bytes

    def count(path):
        counts[f"read {path.name}"] += 1
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    monkeypatch.setattr(
        saved_folder, "_sha256", lambda path: counts.update([f"hash {path.name}"]) or sha256(path)
    )
    validate = base.validated

    def count_spec(kind, *given):
        counts["spec"] += kind is CBOW
        return validate(kind, *given)

    monkeypatch.setattr(base, "validated", count_spec)
    return counts


@pytest.mark.parametrize(
    "arguments", [("search", "a red circle"), ("evaluate",), ("caption", "{image}")]
)
def test_a_verb_reads_each_file_of_its_model_once_and_validates_its_spec_once(
    arguments, run, counted, command
):
    saved_folder._verified.clear()
    image = next((run.parent / "data").rglob("*.png"), None) or next(
        (run.parent / "data").rglob("*.jpg")
    )
    ended = command(*(one.format(image=image) for one in arguments), "--model", run)
    assert ended.code == 0, ended.err
    for name in ("spec.json", "run.json", "parts.json"):
        assert counted[f"read {name}"] <= 1
    assert counted["read parts.json"] == 1
    assert counted["hash model.safetensors"] == 1
    assert counted["spec"] == 1, "by the encoder of its text tower"


def test_a_run_without_a_final_model_hashes_its_checkpoint_once(run, counted, command, tmp_path):
    (run / "model").rename(tmp_path / "model")
    saved_folder._verified.clear()
    try:
        ended = command("search", "a red circle", "--model", run)
    finally:
        (tmp_path / "model").rename(run / "model")
    assert ended.code == 0, ended.err
    assert counted["hash model.safetensors"] == counted["hash optimizer.safetensors"] == 1
