"""A mistake in a plugin ends in one line that names the plugin, in every verb and process."""

import json
from pathlib import Path

import pytest

from contrastive import train
from contrastive.config.foreign_errors import SHOW

pytestmark = pytest.mark.slow

NAMES = {
    "encoder": "encoder contrastive_fails:Text (of contrastive-fails 0.2.0)",
    "head": "head contrastive_fails:Narrow (of contrastive-fails 0.2.0)",
    "loss": "loss contrastive_fails:Apart (of contrastive-fails 0.2.0)",
    "data": "dataset contrastive_fails:Rows (of contrastive-fails 0.2.0)",
}
CHECKED = {
    "encoder": "failing-text",
    "head": "failing-head",
    "loss": "failing-loss",
    "data": "failing-rows",
}


@pytest.fixture
def spec(installed, tmp_path, monkeypatch):
    """Write a run whose part fails at a place: ``spec("loss", "forward")``."""
    installed("fails")
    monkeypatch.chdir(tmp_path)

    def write(part="", where="", **training):
        fields = {kind: {"type": name} for kind, name in CHECKED.items()}
        if part:
            fields[part]["where"] = where
        tower = {"encoder": fields["encoder"], "head": fields["head"]}
        settings = {"epochs": 1, "batch_size": 4, "workers": 0, "device": "cpu"}
        run = {
            "model": {
                "embed_dim": 4,
                "towers": {"text": tower},
                "pairs": [["text", "text"]],
                "loss": fields["loss"],
            },
            "data": fields["data"],
            "training": settings | training,
            "evaluation": {"split": None},
        }
        Path("run.yaml").write_text(json.dumps(run))
        return "run.yaml"

    return write


@pytest.mark.parametrize(
    ("part", "where", "workers"),
    [
        ("encoder", "build", 0),
        ("encoder", "preprocess", 0),
        ("encoder", "preprocess", 1),
        ("encoder", "forward", 0),
        ("encoder", "backward", 0),
        ("head", "build", 0),
        ("loss", "build", 0),
        ("loss", "forward", 0),
        ("data", "build", 0),
        ("data", "item", 0),
    ],
)
def test_a_run_names_the_part_that_failed_and_its_package(spec, command, part, where, workers):
    ended = command("train", spec(part, where, workers=workers))
    assert ended.code == 2
    *_, line = ended.err.splitlines()
    assert f"{NAMES[part]} raised KeyError: '{where}' at __init__.py:" in line
    assert f"try: contrastive plugins check {CHECKED[part]}; {SHOW}=1 shows the traceback" in line
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("where", ["build", "item"])
def test_a_plugin_does_not_end_the_run_in_silence(spec, command, where):
    part = "data" if where == "item" else "encoder"
    ended = command("train", spec(part, f"{where}, exit"))
    assert ended.code == 2
    assert f"{NAMES[part]} raised SystemExit at __init__.py:" in ended.err.splitlines()[-1]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "SystemExit"),
        ("pipe", "BrokenPipeError: [Errno 32] Broken pipe"),
        ("mute", "MuteError: (its __str__ raises AttributeError)"),
    ],
)
def test_whatever_preprocessing_raises_names_the_encoder(spec, command, how, said, workers):
    ended = command("train", spec("encoder", f"preprocess, {how}", workers=workers))
    assert ended.code == 2
    assert f"{NAMES['encoder']} raised {said} at " in ended.err.splitlines()[-1]


def test_a_mistake_while_a_spec_is_checked_is_attributed(spec, command):
    ended = command("validate", spec("encoder", "validator"))
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)
    assert f"{NAMES['encoder']} raised KeyError: 'validator'" in ended.err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_the_machine_s(spec, command, workers):
    ended = command("train", spec("encoder", "preprocess, full disk", workers=workers))
    assert ended.code == 2
    assert ended.err.splitlines()[-1].endswith("scratch.bin: No space left on device")
    assert "plugins check" not in ended.err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_that_a_library_tells_in_its_own_words_is_the_machine_s(spec, command, workers):
    ended = command(
        "train", spec("encoder", "preprocess, full disk, by a library", workers=workers)
    )
    assert ended.code == 2
    line = ended.err.splitlines()[-1]
    assert line.startswith(f"No space left on device; free some space ({NAMES['encoder']} raised ")
    assert "plugins check" not in line


@pytest.mark.parametrize("workers", [0, 1])
def test_the_traceback_is_to_be_had(spec, command, monkeypatch, workers):
    monkeypatch.setenv(SHOW, "1")
    ended = command("train", spec("encoder", "preprocess", workers=workers))
    assert ended.code == 2
    assert 'self.config.at("preprocess")' in ended.err
    assert "raised KeyError" in ended.err.splitlines()[-1]


def test_in_python_the_exception_is_as_it_was_raised(spec):
    with pytest.raises(KeyError, match="forward"):
        train(spec("loss", "forward"))
