"""Models on the Hub: pushed, loaded and refused, against a server that speaks its HTTP API."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contrastive import ContrastiveModel, build_model, load_model
from contrastive.model.hub import saved_on_hub
from tests.hub_server import TOKEN, HubServer
from tests.toys import tiny_model

IN_A_PROCESS = """
import sys
import torch
from contrastive import ContrastiveModel, ContrastiveError, load_model

model = load_model(sys.argv[1])
print("pushed", model.push_to_hub("me/tiny", private=True))
texts = ["a red square", "two dogs"]
for load in (ContrastiveModel.from_pretrained, lambda name: load_model(f"hf:{name}@main")):
    print("same", torch.equal(model.embed("text", texts), load("me/tiny").embed("text", texts)))
model.push_to_hub("me/tiny", card="# Mine")
print("again", ContrastiveModel.from_pretrained("me/tiny").spec == model.spec)
model.push_to_hub("me/export")
for name, call in {
    "none": lambda: ContrastiveModel.from_pretrained("me/none"),
    "other": lambda: ContrastiveModel.from_pretrained("me/other"),
    "bad": lambda: model.push_to_hub("me/tiny/more"),
    "token": lambda: model.push_to_hub("me/tiny", token="hf_wrong"),
    "foreign": lambda: model.push_to_hub("me/other"),
    "broken": lambda: model.push_to_hub("me/broken"),
    "lost": lambda: ContrastiveModel.from_pretrained("me/broken"),
}.items():
    try:
        call()
    except ContrastiveError as error:
        print(name, error)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub") / "model"
    build_model(tiny_model("infonce")).save(place)
    return place


@pytest.fixture
def hub():
    server = HubServer()
    yield server
    server.stop()


def on(hub, home: Path, **changes):
    own = {"HF_ENDPOINT": hub.at, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    own |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return os.environ | own | changes


def test_a_model_is_pushed_and_loaded_by_name(hub, folder, tmp_path):
    hub.repositories["me/other"] = {"0" * 40: {"config.json": b"{}", "code.py": b"raise"}}
    listed = ["export.json", "verify.json", "text.onnx", "verify/00.png"]
    export = dict.fromkeys([*listed, "verify/mine.png", "notes.md"], b"x")
    export["export.json"] = json.dumps({"to": "onnx", "files": listed}).encode()
    hub.repositories["me/export"] = {"1" * 40: export}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, folder],
        env=on(hub, tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[:4] == [f"pushed {hub.at}/me/tiny", "same True", "same True", "again True"]
    none, other, bad, token, foreign, broken, lost = said[4:]
    assert "no model of this package" in none
    assert "no model of this package" in other
    assert other.endswith("a model of transformers is loaded by hf:me/other")
    assert "give OWNER/NAME" in bad
    assert "hf auth login" in token
    assert "me/other: holds code.py, and nothing that this package has pushed" in foreign
    assert [*hub.files("me/other")] == ["config.json", "code.py"]
    for line in (broken, lost):
        assert line.endswith("see whether the Hub answers (HF_ENDPOINT names it), and try again")
        assert "no model of this package" not in line
    assert hub.private["me/tiny"]
    assert {*hub.files("me/export")} == {*hub.files("me/tiny"), "verify/mine.png", "notes.md"}
    files = hub.files("me/tiny")
    assert files.keys() == {
        *json.loads(files["manifest.json"])["files"],
        "manifest.json",
        "README.md",
    }
    assert files["README.md"] == b"# Mine"
    assert not [*tmp_path.rglob("code.py")]


def test_an_export_is_pushed_with_its_card(hub, folder, tmp_path):
    command = [sys.executable, "-m", "contrastive", "export", "--to", "contrastive"]
    command += [
        "-m",
        folder,
        "-o",
        tmp_path / "out",
        "--push",
        "tiny",
        "--license",
        "mit",
    ]  # of who is logged in
    env = on(hub, tmp_path / "home")  # tiny is of who is logged in
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"pushed: {hub.at}/me/tiny" in done.stdout
    card = hub.files("me/tiny")["README.md"].decode()
    assert 'load_model("hf:me/tiny")' in card
    assert "license: mit" in card
    assert "Not measured" in card
    # whoever may not write to one that is there is told before anything is computed
    command[-5], env["HF_TOKEN"] = tmp_path / "again", "hf_wrong"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    said = done.stderr.partition("nanobind: ")[0]  # Triton's words as a process ends, torch 2.15
    assert (done.returncode, len(said.splitlines())) == (2, 1), done.stderr
    assert "tiny: cannot be made or written on the Hub (" in done.stderr
    assert "HF_TOKEN" in done.stderr
    hub.down = True
    command[-5] = tmp_path / "again"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    said = done.stderr.partition("nanobind: ")[0]
    assert (done.returncode, len(said.splitlines())) == (2, 1), done.stderr
    assert "503" in done.stderr
    assert "HF_ENDPOINT" in done.stderr
    assert not (tmp_path / "again").exists()


def test_save_pretrained_writes_a_card_and_all_files(folder, tmp_path):
    load_model(folder).save_pretrained(tmp_path / "saved")
    assert 'load_model("saved")' in (tmp_path / "saved" / "README.md").read_text()
    again = ContrastiveModel.from_pretrained(tmp_path / "saved")
    assert again.spec == load_model(folder).spec
    assert saved_on_hub(f"hf:{tmp_path / 'saved'}") == tmp_path / "saved"
    assert load_model(f"hf:{tmp_path / 'saved'}").spec == again.spec
    assert saved_on_hub(f"hf:{tmp_path}") is None
