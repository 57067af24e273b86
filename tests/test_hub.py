"""Models on the Hub: pushed, loaded and refused, against a server that speaks its HTTP API."""

import json

import pytest
import torch
from huggingface_hub.utils import close_session

from contrastive import ContrastiveError, ContrastiveModel, build_model, load_model
from contrastive.errors import WeightsError
from contrastive.model.hub import saved_on_hub
from tests.exports import here
from tests.hub_server import TOKEN, HubServer
from tests.toys import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<:DeprecationWarning")  # of httpx


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("hub") / "model"
    build_model(tiny_model("infonce")).save(place)
    return place


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a Hub that this process asks for whatever it wants of the real one."""
    server, at = HubServer(), "huggingface_hub.constants"
    own = {"ENDPOINT": server.at, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    own["HUGGINGFACE_CO_URL_TEMPLATE"] = (
        f"{server.at}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    )
    for name, value in (own | {"HF_HUB_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setattr(f"{at}.{name}", value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()  # whose connections lead elsewhere
    yield server
    close_session()
    server.stop()


def test_a_model_is_pushed_and_loaded_by_name(hub, folder, tmp_path):
    hub.repositories["me/other"] = {"0" * 40: {"config.json": b"{}", "code.py": b"raise"}}
    listed = ["export.json", "verify.json", "text.onnx", "verify/00.png"]
    export = dict.fromkeys([*listed, "verify/mine.png", "notes.md"], b"x")
    export["export.json"] = json.dumps({"to": "onnx", "files": listed}).encode()
    hub.repositories["me/export"] = {"1" * 40: export}
    model, texts = load_model(folder), ["a red square", "two dogs"]
    assert model.push_to_hub("me/tiny", private=True) == f"{hub.at}/me/tiny"
    for load in (ContrastiveModel.from_pretrained, lambda name: load_model(f"hf:{name}@main")):
        assert torch.equal(model.embed("text", texts), load("me/tiny").embed("text", texts))
    model.push_to_hub("me/tiny", card="# Mine")
    assert ContrastiveModel.from_pretrained("me/tiny").spec == model.spec
    model.push_to_hub("me/export")
    lost = "; see whether the Hub answers (HF_ENDPOINT names it), and try again"
    for told, call in (
        ("no model of this package", lambda: ContrastiveModel.from_pretrained("me/none")),
        ("loaded by hf:me/other", lambda: ContrastiveModel.from_pretrained("me/other")),
        ("give OWNER/NAME", lambda: model.push_to_hub("me/tiny/more")),
        ("hf auth login", lambda: model.push_to_hub("me/tiny", token="hf_wrong")),
        ("me/other: holds code.py, and nothing that", lambda: model.push_to_hub("me/other")),
        (lost, lambda: model.push_to_hub("me/broken")),
        (lost, lambda: ContrastiveModel.from_pretrained("me/broken")),
    ):
        with pytest.raises(ContrastiveError) as error:
            call()
        said = str(error.value)
        assert told in said
        assert "\n" not in said
        assert told != lost or (said.endswith(lost) and "no model of this package" not in said)
    hub.refuses_files = True
    with pytest.raises(WeightsError, match=r"^me/tiny: cannot be uploaded \(.*403"):
        model.push_to_hub("me/tiny")
    assert [*hub.files("me/other")] == ["config.json", "code.py"]
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


def test_an_export_is_pushed_with_its_card(hub, folder, tmp_path, command, monkeypatch):
    monkeypatch.setattr("contrastive.exporters.verification.compared", here)
    line = ("export", "--to", "contrastive", "-m", folder, "--license", "mit", "--push", "tiny")
    done = command(*line, "-o", tmp_path / "out")  # tiny is of who is logged in
    assert done.code == 0, done.err
    assert f"pushed: {hub.at}/me/tiny" in done.out
    card = hub.files("me/tiny")["README.md"].decode()
    assert 'load_model("hf:me/tiny")' in card
    assert "license: mit" in card
    assert "Not measured" in card
    # whoever may not write to one that is there is told before anything is computed
    cannot = "tiny: cannot be made or written on the Hub ("
    for token, down, told in (
        ("hf_wrong", False, (cannot, "HF_TOKEN")),
        (TOKEN, True, (cannot, "503", "HF_ENDPOINT")),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        hub.down = down
        done = command(*line, "-o", tmp_path / "again")
        assert (done.code, len(done.err.splitlines())) == (2, 1), done.err
        assert all(words in done.err for words in told)
    assert not (tmp_path / "again").exists()


def test_save_pretrained_writes_a_card_and_all_files(folder, tmp_path):
    load_model(folder).save_pretrained(tmp_path / "saved")
    assert 'load_model("saved")' in (tmp_path / "saved" / "README.md").read_text()
    again = ContrastiveModel.from_pretrained(tmp_path / "saved")
    assert again.spec == load_model(folder).spec
    assert saved_on_hub(f"hf:{tmp_path / 'saved'}") == tmp_path / "saved"
    assert load_model(f"hf:{tmp_path / 'saved'}").spec == again.spec
    assert saved_on_hub(f"hf:{tmp_path}") is None
