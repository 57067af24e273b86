"""Checkpoint folders are whole or not there."""

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.errors import WeightsError
from contrastive.model import checkpoint

FILES = {
    "model.safetensors": {"weight": torch.arange(6.0).view(2, 3)},
    "seen.safetensors": {},
    "spec.json": {"towers": {}, "a": [1, 2]},
    "parts.json": {"encoders": {}, "packages": {}},
}


def read(folder):
    saved = checkpoint.open_folder(folder)
    spec = {key: value for key, value in saved.json("spec.json").items() if key != "towers"}
    return saved.tensors("model.safetensors")["weight"].tolist(), spec


def test_what_was_written_is_read(tmp_path):
    checkpoint.write_folder(tmp_path / "m", FILES)
    assert read(tmp_path / "m") == ([[0, 1, 2], [3, 4, 5]], {"a": [1, 2]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"], "nothing else is left behind"


def test_an_older_folder_is_replaced(tmp_path):
    checkpoint.write_folder(tmp_path / "m", FILES | {"old.json": {}})
    checkpoint.write_folder(tmp_path / "m", FILES)
    assert not (tmp_path / "m" / "old.json").exists()
    assert checkpoint.is_whole(tmp_path / "m")


OPERATIONS = ["open", "fsync", "rename", "mkdir"]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_dying_at_any_operation_leaves_a_whole_folder(tmp_path, monkeypatch, operation):
    """Every call of every file operation fails in turn, as if the process had died there."""

    class Died(BaseException):
        pass

    from pathlib import Path

    owner = os if operation == "fsync" else Path
    real = getattr(owner, operation)
    target = tmp_path / "m"
    for fatal in range(1, 100):
        monkeypatch.undo()
        checkpoint.write_folder(target, FILES)
        left = iter(range(fatal - 1))

        def dies(*args, left=left, **kwargs):
            if next(left, None) is None:
                raise Died
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, operation, dies)
        new = FILES | {"spec.json": {"towers": {}, "a": "new"}}
        try:
            checkpoint.write_folder(target, new)
        except Died:
            monkeypatch.undo()
            if target.exists():
                assert read(target)[1] in ({"a": [1, 2]}, {"a": "new"})
            else:  # between two renames: the old one is beside it, whole
                [old] = [p for p in tmp_path.iterdir() if p.name.endswith(".old")]
                assert read(old)[1] == {"a": [1, 2]}
            checkpoint.write_folder(target, new)
            assert read(target)[1] == {"a": "new"}
        else:
            break
    else:
        pytest.fail("it never got through")
    assert fatal > 1, "the operation was never used"


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_every_truncation_and_bit_flip_is_noticed(tmp_path, data):
    folder = tmp_path / "m"
    checkpoint.write_folder(folder, FILES)
    path = folder / data.draw(st.sampled_from([*FILES, checkpoint.MANIFEST]))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        raw = raw[:place]
    path.write_bytes(raw)
    if checkpoint.is_whole(folder):
        assert path.name == checkpoint.MANIFEST, "damage in a file went unseen"
        return
    with pytest.raises(WeightsError) as error:
        read(folder)
    assert "\n" not in str(error.value)


def test_a_full_disk_leaves_the_previous_one_and_says_so(tmp_path, monkeypatch):
    checkpoint.write_folder(tmp_path / "m", FILES)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="m: cannot be written: No space left on device"):
        checkpoint.write_folder(tmp_path / "m", FILES | {"spec.json": {}})
    assert read(tmp_path / "m")[1] == {"a": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    checkpoint.write_folder(tmp_path / "m", FILES)
    path = tmp_path / "m" / checkpoint.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret.json"] = {"sha256": "0" * 64, "bytes": 2}
    path.write_text(json.dumps(manifest))
    assert checkpoint.open_folder(tmp_path / "m").files == FILES.keys()


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "precious.jpg").write_bytes(b"x")
    with pytest.raises(WeightsError, match="holds other things than a saved model"):
        checkpoint.write_folder(tmp_path / "pictures", FILES)
    assert (tmp_path / "pictures" / "precious.jpg").exists()
    (tmp_path / "empty").mkdir()
    checkpoint.write_folder(tmp_path / "empty", FILES)
    assert checkpoint.is_whole(tmp_path / "empty")


def test_tied_weights_are_saved(tmp_path):
    weight = torch.arange(4.0)
    tied = FILES | {"model.safetensors": {"a": weight, "b": weight, "c": weight[:2]}}
    checkpoint.write_folder(tmp_path / "m", tied)
    loaded = checkpoint.open_folder(tmp_path / "m").tensors("model.safetensors")
    assert {name: t.tolist() for name, t in loaded.items()} == {
        "a": [0, 1, 2, 3],
        "b": [0, 1, 2, 3],
        "c": [0, 1],
    }


def test_a_manifest_of_another_shape_is_one_line(tmp_path):
    checkpoint.write_folder(tmp_path / "m", FILES)
    (tmp_path / "m" / checkpoint.MANIFEST).write_text("[1, 2]")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.open_folder(tmp_path / "m")


def test_a_folder_of_the_first_release_is_read(tmp_path):
    checkpoint.write_folder(tmp_path / "m", FILES)
    manifest = tmp_path / "m" / checkpoint.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text())["files"]))
    assert read(tmp_path / "m") == ([[0, 1, 2], [3, 4, 5]], {"a": [1, 2]})


def test_a_folder_of_a_later_release_is_refused_with_a_remedy(tmp_path):
    checkpoint.write_folder(tmp_path / "m", FILES)
    manifest = tmp_path / "m" / checkpoint.MANIFEST
    later = json.loads(manifest.read_text()) | {"format": checkpoint.FORMAT + 1}
    manifest.write_text(json.dumps(later))
    with pytest.raises(WeightsError, match="pip install --upgrade contrastive-kit"):
        checkpoint.open_folder(tmp_path / "m")


def test_files_are_hashed_once_until_they_change(tmp_path, monkeypatch):
    checkpoint.write_folder(tmp_path / "m", FILES)
    hashed = []
    real = checkpoint._sha256
    monkeypatch.setattr(checkpoint, "_sha256", lambda path: hashed.append(path.name) or real(path))
    for _ in range(3):
        checkpoint.open_folder(tmp_path / "m")
    assert sorted(hashed) == sorted(FILES)
    checkpoint.write_folder(tmp_path / "m", FILES | {"spec.json": {"towers": {}, "a": "new"}})
    checkpoint.open_folder(tmp_path / "m")
    assert sorted(hashed) == sorted([*FILES, *FILES])
