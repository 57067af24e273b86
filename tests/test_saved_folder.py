"""Checkpoint folders are whole or not there."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.data.storage import atomic_files
from contrastive.errors import WeightsError
from contrastive.model import saved_folder

FILES = {
    "model.safetensors": {"weight": torch.arange(6.0).view(2, 3)},
    "seen.safetensors": {},
    "spec.json": {"towers": {}, "a": [1, 2]},
    "parts.json": {"encoders": {}, "packages": {}},
}


def read(folder):
    saved = saved_folder.open_folder(folder)
    spec = {key: value for key, value in saved.json("spec.json").items() if key != "towers"}
    return saved.tensors("model.safetensors")["weight"].tolist(), spec


def test_what_was_written_is_read(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    assert read(tmp_path / "m") == ([[0, 1, 2], [3, 4, 5]], {"a": [1, 2]})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"], "nothing else is left behind"


def test_an_older_folder_is_replaced(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES | {"old.json": {}})
    saved_folder.write_folder(tmp_path / "m", FILES)
    assert not (tmp_path / "m" / "old.json").exists()
    assert saved_folder.is_whole(tmp_path / "m")


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_every_truncation_and_bit_flip_is_noticed(tmp_path, data):
    folder = tmp_path / "m"
    saved_folder.write_folder(folder, FILES)
    path = folder / data.draw(st.sampled_from([*FILES, saved_folder.MANIFEST]))
    raw = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    if data.draw(st.booleans()):
        raw[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        raw = raw[:place]
    path.write_bytes(raw)
    try:
        saved_folder.open_folder(folder)
    except WeightsError:
        with pytest.raises(WeightsError) as error:
            read(folder)
        assert "\n" not in str(error.value)
    else:
        assert path.name == saved_folder.MANIFEST, "damage in a file went unseen"


def test_a_full_disk_leaves_the_previous_one_and_says_so(tmp_path, monkeypatch):
    saved_folder.write_folder(tmp_path / "m", FILES)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="m: cannot be written: No space left on device"):
        saved_folder.write_folder(tmp_path / "m", FILES | {"spec.json": {}})
    assert read(tmp_path / "m")[1] == {"a": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_manifest_cannot_point_outside_its_folder(tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    saved_folder.write_folder(tmp_path / "m", FILES)
    path = tmp_path / "m" / saved_folder.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["files"]["../secret.json"] = {"sha256": "0" * 64, "bytes": 2}
    path.write_text(json.dumps(manifest))
    assert saved_folder.open_folder(tmp_path / "m").files == FILES.keys()


def test_a_folder_with_other_things_is_not_replaced(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "precious.jpg").write_bytes(b"x")
    with pytest.raises(WeightsError, match="holds other things than a saved model"):
        saved_folder.write_folder(tmp_path / "pictures", FILES)
    assert (tmp_path / "pictures" / "precious.jpg").exists()
    (tmp_path / "empty").mkdir()
    saved_folder.write_folder(tmp_path / "empty", FILES)
    assert saved_folder.is_whole(tmp_path / "empty")


def test_a_folder_whose_manifest_is_of_another_program_is_not_replaced(tmp_path):
    app = {"manifest.json": '{"name": "app", "icons": []}', "package.json": "{}", "app.js": "1"}
    (tmp_path / "app").mkdir()
    for name, text in app.items():
        (tmp_path / "app" / name).write_text(text)
    with pytest.raises(WeightsError, match="holds other things than a saved model"):
        saved_folder.write_folder(tmp_path / "app", FILES)
    assert {path.name: path.read_text() for path in (tmp_path / "app").iterdir()} == app


@pytest.mark.parametrize("fails_at", [1, 2])
def test_where_folders_cannot_be_exchanged_a_rename_that_fails_leaves_the_model_in_its_place(
    tmp_path, monkeypatch, fails_at
):
    saved_folder.write_folder(tmp_path / "m", FILES)
    real, calls = Path.rename, []

    def rename(self, to):
        calls.append(to)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        return real(self, to)

    monkeypatch.setattr(atomic_files, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(WeightsError, match="m: cannot be written: No space left on device"):
        saved_folder.write_folder(tmp_path / "m", FILES | {"spec.json": {"towers": {}, "a": "new"}})
    assert [p.name for p in tmp_path.iterdir()] == ["m"]
    assert read(tmp_path / "m")[1] == {"a": [1, 2]}


def test_a_link_to_a_folder_is_written_through(tmp_path):
    saved_folder.write_folder(tmp_path / "disk" / "m", FILES)
    (tmp_path / "m").symlink_to(tmp_path / "disk" / "m")
    saved_folder.write_folder(tmp_path / "m", FILES | {"spec.json": {"towers": {}, "a": "new"}})
    assert (tmp_path / "m").is_symlink()
    assert read(tmp_path / "disk" / "m")[1] == {"a": "new"}
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["m"]


def test_what_somebody_has_put_beside_the_weights_is_kept(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    (tmp_path / "m" / "onnx").mkdir()
    (tmp_path / "m" / "onnx" / "model.onnx").write_bytes(b"mine")
    (tmp_path / "m" / "README.md").write_text("mine")
    saved_folder.write_folder(tmp_path / "m", FILES | {"spec.json": {"towers": {}, "a": "new"}})
    assert read(tmp_path / "m")[1] == {"a": "new"}
    assert (tmp_path / "m" / "onnx" / "model.onnx").read_bytes() == b"mine"
    assert (tmp_path / "m" / "README.md").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_a_model_with_a_damaged_manifest_is_replaced(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    manifest = tmp_path / "m" / saved_folder.MANIFEST
    manifest.write_text(manifest.read_text().replace("spec.json", "spec.jsom"))
    saved_folder.write_folder(tmp_path / "m", FILES)
    assert read(tmp_path / "m")[1] == {"a": [1, 2]}
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("lost", ["seen.safetensors", saved_folder.MANIFEST])
def test_a_file_of_somebody_in_a_damaged_model_is_kept(tmp_path, lost):
    saved_folder.write_folder(tmp_path / "m", FILES)
    (tmp_path / "m" / "metrics.json").write_text("mine")
    (tmp_path / "m" / lost).unlink()
    if lost == saved_folder.MANIFEST:
        (tmp_path / "m" / lost).write_text("{")
    else:
        saved_folder.remove_folder(tmp_path / "m")
    saved_folder.write_folder(tmp_path / "m", FILES)
    assert (tmp_path / "m" / "metrics.json").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_file_of_somebody_whose_name_is_taken_now_is_kept_and_hinders_nothing(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    (tmp_path / "m" / "more.json").write_text("mine")
    for value in (1, 2):
        saved_folder.write_folder(tmp_path / "m", FILES | {"more.json": {"a": value}})
    assert saved_folder.open_folder(tmp_path / "m").json("more.json") == {"a": 2}
    assert [path.read_text() for path in tmp_path.glob(".m.*/more.json")] == ["mine"]


def test_what_a_process_that_runs_is_building_is_left_alone(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    theirs = tmp_path / f".m.{os.getppid()}.tmp"
    theirs.mkdir()
    (theirs / "spec.json").write_text("{}")
    saved_folder.write_folder(tmp_path / "m", FILES)
    assert (theirs / "spec.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_what_a_process_was_building_that_nobody_has_asked_after_is_taken_up(tmp_path):
    ended = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)  # as in a container without an init
    left = tmp_path / f".model.{ended}.tmp"
    left.mkdir()
    try:
        assert atomic_files.leftovers(tmp_path) == [(left, tmp_path / "model")]
    finally:
        os.waitpid(ended, 0)


def test_tied_weights_are_saved(tmp_path):
    weight = torch.arange(4.0)
    tied = FILES | {"model.safetensors": {"a": weight, "b": weight, "c": weight[:2]}}
    saved_folder.write_folder(tmp_path / "m", tied)
    loaded = saved_folder.open_folder(tmp_path / "m").tensors("model.safetensors")
    assert {name: t.tolist() for name, t in loaded.items()} == {
        "a": [0, 1, 2, 3],
        "b": [0, 1, 2, 3],
        "c": [0, 1],
    }


def test_a_manifest_of_another_shape_is_one_line(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    for text in ("[1, 2]", '{"format": 2}', '{"format": "2", "files": {}}'):
        (tmp_path / "m" / saved_folder.MANIFEST).write_text(text)
        with pytest.raises(
            WeightsError, match=r"manifest\.json: cannot be read: .*; copy it again"
        ):
            saved_folder.open_folder(tmp_path / "m")


def test_a_folder_of_the_first_release_is_read(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    manifest = tmp_path / "m" / saved_folder.MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text())["files"]))
    assert read(tmp_path / "m") == ([[0, 1, 2], [3, 4, 5]], {"a": [1, 2]})


def test_a_folder_of_a_later_release_is_refused_with_a_remedy(tmp_path):
    saved_folder.write_folder(tmp_path / "m", FILES)
    manifest = tmp_path / "m" / saved_folder.MANIFEST
    later = json.loads(manifest.read_text()) | {"format": saved_folder.FORMAT + 1}
    manifest.write_text(json.dumps(later))
    with pytest.raises(WeightsError, match="pip install --upgrade contrastive-kit"):
        saved_folder.open_folder(tmp_path / "m")


def test_files_are_hashed_once_until_they_change(tmp_path, monkeypatch):
    saved_folder.write_folder(tmp_path / "m", FILES)
    hashed = []
    real = saved_folder._sha256
    monkeypatch.setattr(
        saved_folder, "_sha256", lambda path: hashed.append(path.name) or real(path)
    )
    for _ in range(3):
        saved_folder.open_folder(tmp_path / "m")
    assert sorted(hashed) == sorted(FILES)
    saved_folder.write_folder(tmp_path / "m", FILES | {"spec.json": {"towers": {}, "a": "new"}})
    saved_folder.open_folder(tmp_path / "m")
    assert sorted(hashed) == sorted([*FILES, *FILES])
