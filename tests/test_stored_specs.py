"""Specs that were saved with a model or a run name import paths only if they are trusted."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

import contrastive
from contrastive import ModelSpec, build_model, load_spec
from contrastive.errors import SpecError
from tests.hostile import MODEL, run_spec

HEAD = """from contrastive.interface import Head

class Mine(Head):
    def build(self, in_dim, out_dim):
        from torch import nn
        return nn.Linear(in_dim, out_dim)
"""
REMEDY = "which only your own spec may use; if this one is yours, add --trusted"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Return the spec of a model with a head of the user's own, beside its module."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_head.py").write_text(HEAD)
    spec = json.loads(json.dumps(MODEL))
    spec["towers"]["image"]["head"] = {"type": "my_head:Mine"}
    (tmp_path / "own.yaml").write_text(json.dumps(spec))
    yield spec
    sys.modules.pop("my_head", None)


def test_the_users_own_spec_may_and_the_import_path_is_as_it_was(mine):
    before = [*sys.path]
    assert load_spec("own.yaml").towers["image"].head.__class__.__name__ == "Mine"
    assert sys.path == before


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("spec.json", {}),
        ("run.json", {}),
        ("copied.yaml", {"format": 2}),
        ("saved/other.yaml", {}),
        ("saved/deep/other.yaml", {}),
    ],
)
def test_what_was_saved_may_not_unless_it_is_trusted(file, more, mine, tmp_path, command):
    build_model(MODEL).save("saved")
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(more | mine))
    for refused in (load_spec, build_model, lambda file: load_spec(ModelSpec, file)):
        with pytest.raises(SpecError, match=REMEDY):
            refused(path)
    assert "my_head" not in sys.modules
    ended = command("validate", path)
    assert ended.code == 2
    assert REMEDY in ended.err
    assert load_spec(path, trusted=True).towers["image"].head.kind == "head"
    assert command("validate", path, "--trusted").code == 0


def test_a_link_to_what_was_saved_may_not_either(mine, tmp_path):
    build_model(MODEL).save("saved")
    (tmp_path / "saved" / "other.yaml").write_text(json.dumps(mine))
    (tmp_path / "link.yaml").symlink_to(tmp_path / "saved" / "other.yaml")
    with pytest.raises(SpecError, match=REMEDY):
        load_spec("link.yaml")


def test_the_saved_spec_of_a_run_is_a_spec_like_any_other(mine, tmp_path, command):
    saved = {"format": 2} | run_spec(tmp_path / "data")
    (tmp_path / "run.json").write_text(json.dumps(saved))
    assert command("validate", "run.json").code == 0
    saved["model"] = mine
    (tmp_path / "run.json").write_text(json.dumps(saved))
    for line in ("train run.json", "evaluate -m saved --data run.json"):
        build_model(MODEL).save("saved")
        ended = command(*line.split())
        assert (ended.code, REMEDY in ended.err) == (2, True)
        trusted = command(*line.split(), "--trusted")
        assert trusted.code == 2
        assert "data" in trusted.err, "there are none, which is found later"
        assert REMEDY not in trusted.err


def test_a_file_of_a_saved_model_is_upgraded_with_its_folder(mine, command):
    build_model(MODEL).save("saved")
    ended = command("validate", "--upgrade", "saved/spec.json")
    assert ended.code == 2
    *_, remedy = ended.err.strip().partition("run: contrastive ")
    assert command(*remedy.split()).code == 0


READERS = {
    "model/saved_files.py": "saved folders: looked at, and of a shape",
    "config/entry_points.py": "where pip says that a package is from",
    "datasets/tables/text_decoding.py": "captions",
    "datasets/tables/table.py": "names of classes in the schema of a table",
    "datasets/shards/index.py": "the header of our notes of a shard, which safetensors has read",
    "curation/shard_folder.py": "checksums of the shards that we wrote",
    "features/inventory.py": "what describes an encoder's features, to show it",
    "reporting/run_log.py": "lines of numbers",
    "plugin_tools/listing.py": "what a process of ours answers",
    "encoders/text.py": "what a tokenizer says of itself",
    "encoders/weights.py": "what a model's config says, to compare it",
    "features/store.py": "the formats of features",
    "distributed/heartbeat.py": "notes that the ranks of a run write to their own store",
    "training/run_token.py": "the token of a run in a storage: four values of known kinds",
    "training/tracking.py": "texts that trackers keep of their runs, such as ids",
    "model/hub.py": "texts of a model that goes to the Hub, to find paths of this machine",
    "exporters/sentence_transformers.py": "configs that its own program has just written",
    "exporters/onnx/int8.py": "what the export has just written",
    "exporters/verification.py": "what the export has just written, and a process of ours answers",
    "exporters/templates/embed.py": "what lies beside it, read without this package",
    "exporters/templates/verify.py": "what lies beside it, read without this package",
    "testing/generic.py": "what a process of ours answers, and configs of plugins",
    "testing/menu.py": "a config of the plugin that is checked",
}


def test_json_is_read_in_few_places():
    """A new one needs a thought: whose file is it, and may it name components?"""
    root = Path(contrastive.__file__).parent
    found = {
        file.relative_to(root).as_posix()
        for file in root.rglob("*.py")
        if re.search(r"json\.loads?\(|model_validate_json\(", file.read_text(encoding="utf-8"))
    }
    assert found - {"config/base.py"} == READERS.keys()  # where pydantic's own is wrapped
