"""A saved model loads on another machine and from another folder, to the same bits."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contrastive import build_model, load_model, train
from contrastive.errors import SpecError, WeightsError
from contrastive.model.saved_folder import is_whole, open_folder, write_folder
from tests.duals import save_clip
from tests.miniature import Picture
from tests.toys import network, tiny_model, toy_dict

IMAGES = [Picture(i).draw() for i in range(3)]
TEXTS = ["a dog", "the cat sat on a mat"]
VIT = {"type": "hf-image", "name": "w/vit"}
BERT = {"type": "hf-text", "name": "w/bert"}
CBOW = {"type": "cbow", "width": 8, "buckets": 64}
LORA = {"frozen": "encoder", "lora": {"rank": 2}}

PAIRS = {
    "hf": ({"encoder": VIT}, {"encoder": BERT}),
    "trained": ({"encoder": VIT, "frozen": "none"}, {"encoder": BERT, "frozen": "none"}),
    "timm, sentence-transformers": (
        {"encoder": {"type": "timm", "name": "local-dir:w/timm"}},
        {"encoder": {"type": "sentence-transformers", "name": "w/sentences"}},
    ),
    "a file of weights, LoRA": (
        {"encoder": {"type": "timm", "name": "test_resnet", "weights": "w/net.safetensors"}},
        {"encoder": BERT, **LORA},
    ),
    "dual": (
        {"encoder": {"type": "hf-dual-image", "name": "w/dual"}},
        {"encoder": {"type": "hf-dual-text", "name": "w/dual"}},
    ),
    "shards": (
        {"encoder": {"type": "vit", "image_size": 32, "patch_size": 16, "width": 8, "heads": 2}},
        {"encoder": BERT | {"name": "w/shards"}},
    ),
}


@pytest.fixture(scope="module")
def kept(models, tmp_path_factory):
    """Return a folder with weights of every kind."""
    import transformers

    folder = tmp_path_factory.mktemp("kept") / "w"
    for name in ("vit", "bert", "timm", "sentences"):
        shutil.copytree(models / name, folder / name)
    shutil.copyfile(network(), folder / "net.safetensors")
    save_clip(folder / "dual")
    shutil.copytree(models / "bert", folder / "shards", ignore=lambda *_: ["model.safetensors"])
    bert = transformers.AutoModel.from_pretrained(models / "bert")
    bert.save_pretrained(folder / "shards", max_shard_size="10KB")
    assert len([*(folder / "shards").glob("model-*.safetensors")]) > 1
    (folder / "bert" / "code.py").write_text("raise SystemExit")
    (folder / "bert" / "training_args.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture
def here(kept, tmp_path, monkeypatch, offline):
    shutil.copytree(kept, tmp_path / "project" / "w")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def model_of(pair):
    towers = {
        modality: {"head": {"type": "linear"}, "frozen": "encoder"} | tower
        for modality, tower in zip(("image", "text"), pair, strict=True)
    }
    torch.manual_seed(0)
    return build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})


def embeddings(model):
    return [model.embed("image", IMAGES), model.embed("text", TEXTS)]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_a_whole_model_loads_where_nothing_else_is_to_the_same_bits(here, monkeypatch, name):
    model = model_of(PAIRS[name])
    expected = embeddings(model)
    model.save("whole", whole=True)
    names = {path.name for path in (here / "project" / "whole").rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".py", ".bin", ".pt", ".pkl"))}
    assert {path.name for path in (here / "project" / "whole").iterdir()} - {"encoders"} == {
        "manifest.json",
        "spec.json",
        "parts.json",
        "model.safetensors",
        "seen.safetensors",
    }
    (here / "elsewhere").mkdir()
    shutil.move("whole", here / "elsewhere" / "given")
    shutil.rmtree("w")
    monkeypatch.chdir(here / "elsewhere")
    given = load_model("given")
    assert equal(embeddings(given), expected)
    given.save("again")  # stays whole, though nobody asks
    shutil.rmtree("given")
    assert equal(embeddings(load_model("again")), expected)


@pytest.mark.parametrize("name", ["hf", "a file of weights, LoRA"])
def test_a_whole_model_names_no_path_of_this_machine(here, monkeypatch, name):
    place = here / "project" / "w"
    shutil.copytree(place / "bert", here / "project" / "b" / "vit")  # two of one last name
    image = {k: v.replace("w/", f"{place}/", 1) for k, v in PAIRS[name][0]["encoder"].items()}
    text = PAIRS[name][1] | {"encoder": BERT | {"name": str(here / "project" / "b" / "vit")}}
    model = model_of((PAIRS[name][0] | {"encoder": image}, text))
    expected = embeddings(model)
    model.save("whole", whole=True)
    assert not [file for file in Path("whole").glob("*.json") if str(here) in file.read_text()]
    (here / "elsewhere").mkdir()
    shutil.move("whole", here / "elsewhere" / "given")
    shutil.rmtree(here / "project")
    monkeypatch.chdir(here / "elsewhere")
    given = load_model("given")
    assert given.spec.towers["text"].encoder.name == ("vit-1" if name == "hf" else "vit")
    assert equal(embeddings(given), expected)
    given.save("again")
    shutil.rmtree("given")
    assert equal(embeddings(load_model("again")), expected)


def test_two_towers_of_one_folder_share_its_copy(here):
    model_of(PAIRS["dual"]).save("whole", whole=True)
    assert [path.name for path in (here / "project" / "whole" / "encoders").iterdir()] == ["0"]


def test_a_file_of_weights_has_any_name_but_not_any_kind(here, monkeypatch):
    (here / "project" / "w" / "net.safetensors").rename(here / "сеть & co.safetensors")
    timm = {"type": "timm", "name": "test_resnet", "weights": str(here / "сеть & co.safetensors")}
    model = model_of(({"encoder": timm}, {"encoder": CBOW, "frozen": "none"}))
    expected = embeddings(model)
    model.save("whole", whole=True)
    (here / "сеть & co.safetensors").rename(here / "net.odd")
    assert equal(embeddings(load_model("whole")), expected)
    model.tower("image").paths = {"weights": str(here / "net.odd")}
    with pytest.raises(WeightsError, match=r"net\.odd: a saved model has no files of this kind"):
        model.save("odd", whole=True)
    assert not (here / "project" / "odd").exists()


def test_weights_that_are_trained_are_not_copied(here):
    model_of(PAIRS["trained"]).save("whole", whole=True)
    copied = here / "project" / "whole" / "encoders"
    assert {path.suffix for path in copied.rglob("*") if path.is_file()} == {".json"}


def test_a_damaged_copy_is_noticed_and_a_whole_model_is_replaced_by_one_that_is_not(here):
    model = model_of(PAIRS["hf"])
    model.save("m", whole=True)
    file = next((here / "project" / "m" / "encoders").rglob("tokenizer.json"))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WeightsError, match=r"tokenizer\.json: damaged"):
        load_model("m")
    model.save("m", whole=True)
    assert is_whole(here / "project" / "m")
    model.save("m", whole=False)
    assert not (here / "project" / "m" / "encoders").exists()
    assert not [path for path in (here / "project").iterdir() if path.name.startswith(".")]
    assert is_whole(here / "project" / "m")


@pytest.mark.parametrize("place", ["../w/bert", "encoders/0/../../x", "/etc", "encoders/0/.git"])
def test_a_copy_cannot_be_outside_the_folder(here, place):
    model = model_of(PAIRS["hf"])
    model.save("m", whole=True)
    parts = json.loads((here / "project" / "m" / "parts.json").read_text())
    parts["copies"]["text"][0]["place"] = place
    folder = here / "project" / "m"
    kept = {*json.loads((folder / "manifest.json").read_text())["files"]} - {"parts.json"}
    write_folder(folder, {"parts.json": parts}, keep=kept)
    with pytest.raises(WeightsError, match=r"parts\.json: cannot be read: copies\.text\.0\.place"):
        load_model("m")


def test_nothing_in_a_whole_model_is_imported(here):
    config = here / "project" / "w" / "bert" / "config.json"
    about = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "code.Bert"}}
    config.write_text(json.dumps(about))
    model_of(PAIRS["hf"]).save("m", whole=True)
    for folder in (path.parent for path in [*(here / "project" / "m").rglob("config.json")]):
        (folder / "code.py").write_text("raise SystemExit")
    before = {*sys.modules}
    assert load_model("m").towers
    assert not {name for name in {*sys.modules} - before if name.endswith("code")}


# moved


def moved(here, monkeypatch):
    """Save a model in a project, and come back to its folder on another machine."""
    model = model_of(PAIRS["a file of weights, LoRA"])
    model.save("runs/m")
    shutil.move(here / "project", here / "moved")
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    return embeddings(model), here / "moved" / "runs" / "m"


def test_a_project_moves_as_a_whole(here, monkeypatch):
    expected, folder = moved(here, monkeypatch)
    assert equal(embeddings(load_model(folder)), expected)


def test_what_is_missing_is_told_with_an_override_that_works(here, monkeypatch):
    expected, folder = moved(here, monkeypatch)
    (here / "moved" / "w").rename(here / "w2")
    shutil.copytree(folder, here / "work" / "m")
    changes = []
    for path in ("w2/net.safetensors", "w2/bert"):
        with pytest.raises(WeightsError) as told:
            load_model("m", overrides=changes)
        assert str(told.value).count("\n") == 0
        change = str(told.value).rpartition("--set ")[2]
        assert f"overrides=[{change!r}]" in str(told.value)
        changes.append(change.replace("PATH", str(here / path)))
    model = load_model("m", overrides=changes)
    assert equal(embeddings(model), expected)
    model.save("n")  # remembers
    assert equal(embeddings(load_model("n")), expected)


def test_an_override_to_other_weights_is_refused(here):
    model_of(PAIRS["hf"]).save("m")
    path = here / "project" / "w" / "bert" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(path).items()}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match="text encoder's weights are not those"):
        load_model("m", overrides=["towers.text.encoder.name=w/bert"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("embed_dim=4", "embed_dim is 4, and was 8; "),
        ("towers.text.encoder.width=16", "towers.text.encoder.width is 16, and was 8; "),
        ("loss={type: sigmoid}", "lacks loss.bias, since loss.type is sigmoid, and was infonce, "),
    ],
)
def test_an_override_that_weights_do_not_fit_is_one_line(tmp_path, override, told):
    build_model(tiny_model("infonce")).save(tmp_path / "m")
    with pytest.raises(WeightsError) as error:
        load_model(tmp_path / "m", overrides=[override])
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 250
    assert "leave that out" in str(error.value)
    assert load_model(tmp_path / "m").spec.embed_dim == 8


def test_a_weight_of_another_shape_is_named(tmp_path):
    build_model(tiny_model("infonce")).save(tmp_path / "m")
    saved = open_folder(tmp_path / "m")
    weights = saved.tensors("model.safetensors")
    weights["towers.image.head.weight"] = torch.zeros(3, 8)
    files = {name: saved.json(name) for name in ("spec.json", "parts.json")}
    files |= {"model.safetensors": weights, "seen.safetensors": {}}
    write_folder(tmp_path / "m", files)
    told = r"head\.weight is 3 x 8, not 8 x \d+; copy the folder again, or save the model anew"
    with pytest.raises(WeightsError, match=told):
        load_model(tmp_path / "m")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("towers.text.encoder.nmae=x", r"unknown field; did you mean 'name'\?"),
        ("towers.text", "write it as a.b=value"),
        ("towers.audio.encoder.name=x", "towers.audio"),
    ],
)
def test_a_mistake_in_an_override_is_one_line(here, override, problem):
    model_of(PAIRS["hf"]).save("m")
    with pytest.raises(SpecError, match=problem):
        load_model("m", overrides=[override])


@pytest.mark.slow
def test_a_run_is_used_from_another_folder_and_after_its_project_has_moved(
    here, monkeypatch, command
):
    spec = toy_dict(here / "project" / "photos", images=12, epochs=1, batch_size=4, cache="off")
    spec["data"]["folder"] = "photos"
    spec["model"]["towers"]["text"] |= {"encoder": BERT, "frozen": "encoder"}
    train(spec, "runs/clip")
    Picture(0).draw().save(here / "p.png")
    (here / "work").mkdir()
    monkeypatch.chdir(here / "work")
    there = command("evaluate", "--json", "--model", here / "project" / "runs" / "clip")
    assert there.code == 0, there.err
    shutil.move(here / "project", here / "moved")
    run = here / "moved" / "runs" / "clip"
    again = command("evaluate", "--json", "--model", run)
    assert json.loads(again.out)["retrieval"] == json.loads(there.out)["retrieval"]
    (here / "moved" / "w").rename(here / "w2")
    classify = ("classify", here / "p.png", "--classes", "cat,dog", "--model", run)
    told = command(*classify)
    assert told.code == 2, told.err
    change = told.err.strip().rpartition("--set ")[2].replace("PATH", str(here / "w2" / "bert"))
    assert command(*classify, "--set", change).code == 0
