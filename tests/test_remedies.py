"""A remedy in a message is code: each is carried out here, and the user goes on."""

from __future__ import annotations

import re
import shutil
from functools import partial
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from contrastive import RunSpec, answer, build_model, classify, evaluate, load_model, search, train
from contrastive.datasets import ClassFolders, ImageFolder
from contrastive.doctor import diagnose
from contrastive.encoders import HFImage, HFText, SentenceTransformers, Timm
from contrastive.errors import ContrastiveError
from contrastive.features.cache import FeatureCache
from contrastive.losses import InfoNCE
from tests.toys import network, toy_dict, write_noise

pytestmark = pytest.mark.slow


def spec(changes: dict[str, Any]) -> RunSpec:
    """Return a small run with some fields changed: ``{"training.lr": 1.0}``."""
    from pathlib import Path

    parts: Any = toy_dict(Path("flickr30k"), images=8, epochs=1, batch_size=4)
    for name, value in changes.items():
        *above, last = name.split(".")
        place = parts
        for key in above:
            place = place.setdefault(key, {})
        place[last] = value
    return RunSpec.model_validate(parts)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_noise(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(toy_dict(tmp_path_factory.mktemp("data") / "x", images=4)["model"]).eval()


def told(act) -> str:
    with pytest.raises((ContrastiveError, ValueError)) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


SEVERAL = {
    "names": lambda state: state,
    "a checkpoint": lambda state: {"state_dict": state, "epoch": 3},
    "other strides": lambda state: {
        k: v.T.contiguous().T if v.ndim == 2 else v for k, v in state.items()
    },
    "shared memory": lambda state: state | {"cls_token": state["pos_embed"][:, :1]},
}


@pytest.mark.parametrize("form", SEVERAL)
def test_a_pickle_is_converted_as_the_message_says(here, form):
    net = Timm(name="test_vit", pretrained=False).build().net
    (here / "weights").mkdir()
    state = {k: v if v.ndim > 1 else v.clone() for k, v in net.state_dict().items()}
    torch.save(SEVERAL[form](state), here / "weights" / "x.pth")
    said = told(lambda: Timm(name="test_vit", weights="weights/x.pth").build())
    exec(said.split("you trust: ")[1], {"torch": torch, "safetensors": safetensors})
    Timm(name="test_vit", weights="weights/x.safetensors").build()


@pytest.mark.parametrize("kind", [HFText, SentenceTransformers])
def test_a_folder_with_a_pickle_is_converted_as_the_message_says(here, models, kind):
    source = models / ("bert" if kind is HFText else "sentences")
    folder = shutil.copytree(source, here / "model")
    (file,) = folder.rglob("model.safetensors")
    torch.save(load_file(file), file.with_name("pytorch_model.bin"))
    file.unlink()
    said = told(lambda: kind(name=str(folder)).build())
    exec(f"import transformers, sentence_transformers\n{said.split('you trust: ')[1]}")
    kind(name=str(folder)).build()


IMAGE, TEXT = "model.towers.image", "model.towers.text"
RESNET = {"type": "resnet", "width": 4, "image_size": 32}
TOWER = {"encoder": {"type": "cbow"}, "head": {"type": "linear"}}
FIELDS = [  # what is wrong, the remedy that is named, and the same spec with it
    ({"training.learning_rate": 1.0}, "did you mean 'lr'?", {"training.lr": 1.0}),
    ({TEXT: "cbow"}, "needs a mapping of fields", {TEXT: TOWER}),
    ({"training.wd": 0.1}, "did you mean 'weight_decay'?", {"training.weight_decay": 0.1}),
    ({"training.fp16": True}, "did you mean 'precision'?", {"training.precision": "fp32"}),
    ({"training.optimizer": "sgd"}, "its fields are lr and weight_decay", {"training.lr": 1.0}),
    ({"training.gradient_accumulation_steps": 2}, "'accumulate'?", {"training.accumulate": 2}),
    ({"epochs": 3}, "did you mean 'training.epochs'?", {"training.epochs": 3}),
    ({"learning_rate": 1.0}, "did you mean 'training.lr'?", {"training.lr": 1.0}),
    ({"model.projection_dim": 8}, "did you mean 'embed_dim'?", {"model.embed_dim": 8}),
    ({f"{IMAGE}.lock": True}, "did you mean 'frozen'?", {f"{IMAGE}.frozen": "all"}),
    ({"model.loss.tau": 0.1}, "did you mean 'temperature'?", {"model.loss.temperature": 0.1}),
    ({"model.loss.type": "clip"}, "did you mean 'infonce'?", {"model.loss.type": "infonce"}),
    ({"model.loss": {"type": "SigLIP"}}, "mean 'sigmoid'?", {"model.loss": {"type": "sigmoid"}}),
    ({"model.loss": {"type": "NTXentLoss"}}, "mean 'infonce'?", {"model.loss.type": "infonce"}),
    (
        {f"{IMAGE}.encoder": {"type": "resnet50"}},
        "did you mean {type: timm, name: resnet50}?",
        {f"{IMAGE}.encoder": {"type": "timm", "name": "resnet50"}},
    ),
    (
        {f"{TEXT}.encoder": {"type": "distilbert-base-uncased"}},
        "did you mean {type: hf-text, name: distilbert-base-uncased}?",
        {f"{TEXT}.encoder": {"type": "hf-text", "name": "distilbert-base-uncased"}},
    ),
    (
        {f"{IMAGE}.unfrozen": ["net.layer4.*"], f"{IMAGE}.frozen": "none"},
        "set frozen: encoder",
        {f"{IMAGE}.unfrozen": ["net.layer4.*"], f"{IMAGE}.frozen": "encoder"},
    ),
]


@pytest.mark.parametrize(("wrong", "remedy", "right"), FIELDS)
def test_a_field_or_name_that_is_meant_is_one_that_is_taken(wrong, remedy, right):
    assert remedy in told(lambda: spec(wrong))
    spec(right)


BUILDS = [
    ({f"{IMAGE}.head": {"type": "identity"}}, "set embed_dim: 96", {"model.embed_dim": 96}),
    (
        {f"{IMAGE}.unfrozen": ["layer4"]},
        "mean '*.layer4.*'?",
        {f"{IMAGE}.unfrozen": ["*.layer4.*"]},
    ),
    (
        {f"{IMAGE}.unfrozen": ["net.layr4.*"]},
        "net.layer4.*",
        {f"{IMAGE}.unfrozen": ["net.layer4.*"]},
    ),
]


@pytest.mark.parametrize(("wrong", "remedy", "right"), BUILDS)
def test_a_model_is_built_with_the_remedy(wrong, remedy, right):
    assert remedy in told(lambda: build_model(spec(wrong).model))
    build_model(spec(wrong | right).model)


TRAINED = [
    (
        {"training.lr_factors": {"towers.text.encoder": 0.5}},
        "did you mean 'towers.text.encoder.*'?",
        {"training.lr_factors": {"towers.text.encoder.*": 0.5}},
    ),
    (
        {"training.layer_decay": {"text": 0.5}},
        "use training.lr_factors",
        {"training.layer_decay": {}, "training.lr_factors": {"towers.text.*": 0.5}},
    ),
    (
        {f"{IMAGE}.encoder": RESNET, f"{IMAGE}.frozen": "none", "training.micro_batch": 2},
        "set batch_norm to eval",
        {"training.batch_norm": "eval"},
    ),
    ({"evaluation.split": "dev"}, "null to measure nothing", {"evaluation.split": None}),
    ({"evaluation.split": "train"}, "that it has not seen", {"evaluation.split": None}),
    ({"training.device": "gpu"}, "choose auto", {"training.device": "auto"}),
    (
        {"model.pairs": [["text", "text"], ["image", "text"]]},
        "give towers.text an augment or dropout",
        {f"{TEXT}.head": {"type": "mlp", "dropout": 0.1}},
    ),
]


@pytest.mark.parametrize(("wrong", "remedy", "right"), TRAINED)
def test_a_run_begins_with_the_remedy(here, wrong, remedy, right):
    quiet = {"evaluation.split": None}
    cache = FeatureCache(here / "features")
    assert remedy in told(lambda: train(spec(quiet | wrong), here / "run", cache=cache))
    train(spec(quiet | wrong | right), here / "run", cache=cache)


def test_a_run_that_is_there_goes_on_as_is_said(here):
    cache, quiet = FeatureCache(here / "features"), {"evaluation.split": None}
    train(spec(quiet), here / "run", cache=cache)
    said = told(lambda: train(spec(quiet), here / "run", cache=cache))
    assert "go on with resume=True" in said

    def resumed(changed):
        return train(changed, here / "run", resume=True, cache=cache)

    changed = spec(quiet | {"training.lr": 0.5, "model.loss": {"type": "sigmoid"}})
    for _ in range(2):
        said = told(partial(resumed, changed))
        changed = changed.with_(re.search(r"; give (\S+=.*), or start anew", said)[1])
    assert changed == spec(quiet)
    resumed(changed)


def test_a_batch_that_is_larger_than_the_data_is_told(here, capsys):
    cache, quiet = FeatureCache(here / "features"), {"evaluation.split": None}
    train(spec(quiet | {"training.batch_size": 5000}), here / "run", cache=cache)
    assert (
        "training.batch_size is 5,000, more than the 12 pairs: it is 12" in capsys.readouterr().err
    )
    train(spec(quiet | {"training.batch_size": 12}), here / "other", cache=cache)
    assert "training.batch_size" not in capsys.readouterr().err


def weights(folder, rename):
    save_file({rename(k): v for k, v in load_file(network()).items()}, folder / "w.safetensors")
    return Timm(name="test_resnet", weights=folder / "w.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_weights_of_a_wrapped_model_are_told_and_renamed(here, prefix):
    said = told(weights(here, lambda name: prefix + name).build)
    assert f"k.removeprefix({prefix!r}): v" in said
    saved = load_file(here / "w.safetensors")
    save_file({k.removeprefix(prefix): v for k, v in saved.items()}, here / "w.safetensors")
    Timm(name="test_resnet", weights=here / "w.safetensors").build()


def test_a_pickle_is_converted_by_the_line_that_is_told(here):
    torch.save(load_file(network()), here / "w.pth")
    said = told(Timm(name="test_resnet", weights=here / "w.pth").build)
    import safetensors.torch  # noqa: F401 (the line that is told uses it)

    exec(f"import safetensors.torch, torch; {said.split('that you trust: ')[1]}")
    Timm(name="test_resnet", weights=here / "w.safetensors").build()


def test_counters_that_evaluation_does_not_use_may_lack(here):
    saved = {k: v for k, v in load_file(network()).items() if "num_batches" not in k}
    save_file(saved, here / "w.safetensors")
    Timm(name="test_resnet", weights=here / "w.safetensors").build()


@pytest.mark.parametrize(("given", "step"), [("./vit", "local-dir:./vit"), ("local-dir:./vit", "")])
def test_a_folder_of_transformers_given_to_timm_finds_its_type(here, given, step):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = transformers.ViTConfig(**sizes, num_attention_heads=2, image_size=32, patch_size=16)
    transformers.ViTModel(config).save_pretrained(here / "vit")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(here / "vit")
    said = told(Timm(name=given).build)
    if step:
        assert said.endswith(f"set name to {step}")
    else:
        assert said.endswith("set type to hf-image, name to it")
        HFImage(name="./vit").build()


def test_arguments_of_python_are_given_as_is_said(model):
    assert "list(...)" in told(lambda: classify(model, "0.png", {"cat": 1, "dog": 2}))
    assert classify(model, "0.png", list({"cat": 1, "dog": 2})).shape == (1, 2)
    assert "such as ['cat', 'dog']" in told(lambda: classify(model, "0.png", "cat, dog"))
    assert "give each row one" in told(lambda: evaluate(model, [{"image": "0.png", "text": "a"}]))
    evaluate(model, [{"image": "0.png", "text": "a", "id": 0}])
    find = told(lambda: search(model, "0.png", images=["1.png"], find="text"))
    assert "give find='image'" in find
    assert search(model, "0.png", images=["1.png"], find="image")
    build = told(lambda: InfoNCE()(torch.zeros(2, 2), torch.zeros(2, 2)))
    assert "InfoNCE(...).build()" in build
    InfoNCE().build()
    assert "load_model('m')" in told(lambda: classify("m", "0.png", ["a"]))
    model.save("m")
    assert load_model("m").towers
    assert answer(model, "0.png", "the cat is {}", ["red", "blue"]).shape == (1, 2)


def test_equal_captions_are_told_beside_the_table_and_grouped_as_is_said(here, model, command):
    lines = [f"{i}.png,a photo of a {('cat', 'dog', 'cat')[i]},test" for i in range(3)]
    (here / "captions.csv").write_text("\n".join(["image,text,split", *lines]))
    report = evaluate(model, ImageFolder(folder=here).build("test"))
    assert (report.captions, report.equal_captions) == (3, 2)
    assert report.as_dict()["equal_captions"] == 2
    (note,) = report.notes
    assert "2 of 3 captions stand at several groups" in note
    assert report.retrieval["image_to_text"].recall[1].value < 1
    grouped = evaluate(model, ImageFolder(folder=here, group_column="text").build("test"))
    assert (grouped.equal_captions, grouped.notes) == (0, [])
    model.save(here / "m")
    ended = command("evaluate", "--model", here / "m", "--data", f"type=image-folder,folder={here}")
    assert note in ended.out


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["folder"], "drop captions that do not tell samples apart"),
        (["group_column"], "give rows with the same caption the same id (data.group_column), or "),
        ([], "give rows with the same caption the same id, or drop captions"),
    ],
)
def test_the_doctor_names_fields_that_the_data_have(fields, said):
    captions = {"rows": 9, "groups": 9, "duplicated": 9, "met": 1.0, "example": "a", "floor": 0.0}
    run = {"batch": 4, "loss": {"type": "infonce"}, "captions": captions, "data_fields": fields}
    (finding,) = diagnose([{"step": 0, "run": run}])
    assert finding.remedy.startswith(said)


@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda loss: loss, "model.loss"),
        (lambda loss: {"type": "matryoshka", "widths": [4], "loss": loss}, "model.loss.loss"),
        (lambda loss: {"type": "queue", "size": 8, "loss": loss}, "model.loss"),
    ],
    ids=["alone", "matryoshka", "queue"],
)
def test_the_remedy_of_few_groups_is_one_that_the_data_and_the_loss_take(wrap, place):
    captions = {"rows": 9, "groups": 2, "met": 0.0, "floor": 1.0}
    run = {"batch": 4, "captions": captions, "data_fields": [*ClassFolders.model_fields]}
    run["loss"] = wrap({"type": "infonce", "positives": "multi"})
    (finding,) = diagnose([{"step": 0, "run": run}])
    assert finding.remedy == f"set {place} to {{type: supcon}}"
    spec({"model.loss": run["loss"]}).with_(f"{place}={{type: supcon}}")


def test_the_doctor_names_the_field_of_a_loss_within_others():
    loss = {"type": "queue", "loss": {"type": "infonce", "positives": "ignore"}}
    steps = [{"step": i, "loss": 1.0, "collisions": 2} for i in range(1, 30)]
    run = {"batch": 4, "batch_of_process": 4, "loss": loss}
    (finding,) = diagnose([{"step": 0, "run": run}, *steps])
    assert finding.remedy == "set model.loss.loss.positives to multi or mask"
    queue = {"type": "queue", "size": 8, "loss": {"type": "infonce", "positives": "mask"}}
    assert spec({"model.loss": queue}).with_("model.loss.loss.positives=multi")
