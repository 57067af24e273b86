"""The files of ``examples/`` do what they say: on a miniature, with tiny networks like the real."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors import safe_open

from contrastive import RunSpec, load_model, load_spec
from contrastive.evaluation.evaluate import evaluate
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.conftest import Outcome
from tests.miniature import FORMS, Picture, write_flickr30k, write_hub_copy
from tests.pages import stood_in
from tests.toys import network

EXAMPLES = Path(__file__).parents[1] / "examples"
CLIP = EXAMPLES / "flickr30k_clip"
README = (CLIP / "README.md").read_text(encoding="utf-8")
NAMES = ("resnet50.a1_in1k", "distilbert/distilbert-base-multilingual-cased", "data/flickr30k")
IMAGES = 48


def code_of(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def commands(page: Path = CLIP / "README.md") -> list[list[str]]:
    """Return the words of each ``contrastive`` command in a README."""
    lines = (
        "".join(code_of("console", page.read_text(encoding="utf-8")))
        .replace("\\\n", " ")
        .splitlines()
    )
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [words[1:] for words in words if words and words[0] == "contrastive"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a folder with all four annotation files, and lists for the two that need them."""
    folder = tmp_path_factory.mktemp("data") / "flickr30k"
    return write_flickr30k(folder, images=IMAGES, forms=tuple(FORMS), lists=True)


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    """Return a folder with a tiny DistilBERT and its tokenizer, random and saved as any other."""
    import torch
    from transformers import DistilBertConfig, DistilBertModel, DistilBertTokenizer

    captions = " ".join(text for i in range(IMAGES) for text in Picture(i).captions)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(captions.split()))]
    vocabulary = {word: number for number, word in enumerate(words)}
    torch.manual_seed(0)
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": len(words)}
    folder = tmp_path_factory.mktemp("distilbert")
    DistilBertModel(DistilBertConfig(**sizes)).save_pretrained(folder)
    DistilBertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(data, distilbert):
    """Return the overrides that put tiny networks and the miniature in their place."""
    return [
        f"data.folder={data}",
        "model.towers.image.encoder.name=test_resnet",
        f"model.towers.image.encoder.weights={network()}",
        f"model.towers.text.encoder.name={distilbert}",
        "training.batch_size=16",
        "training.workers=0",
    ]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return a folder as ``data``, with one image cut off and one caption empty."""
    folder = tmp_path_factory.mktemp("planted") / "flickr30k"
    wrong = {"broken": 1, "malformed": 1}
    return write_flickr30k(folder, images=IMAGES, forms=tuple(FORMS), lists=True, **wrong)


def plant(rows) -> None:
    """Do the same to the hub's copy."""
    trained = [row for row in rows if row["split"] == "train"]
    trained[0]["image"]["bytes"] = trained[0]["image"]["bytes"][:100]
    trained[-1]["caption"] = ["", *trained[-1]["caption"][1:]]


@pytest.fixture
def copies(planted, tmp_path):
    """Return the overrides that take each of the copies that there are of Flickr30k."""
    folder = f"data.folder={planted}"
    found = {form: [folder, f"data.annotations={name}"] for form, name in FORMS.items()}
    if find_spec("datasets"):
        repo = write_hub_copy(tmp_path / "flickr30k-parquet", images=IMAGES, change=plant)
        found["hub"] = ["data.source=hub", f"data.repo={repo}"]
    return found


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_spec_is_valid(path, command):
    assert command("validate", path).code == 0


@pytest.mark.slow
def test_the_flickr30k_clip_runs_from_data_to_search(tiny, data, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command("train", CLIP / "clip.yaml", *tiny).code == 0
    assert Path("runs/clip/model/model.safetensors").is_file()

    report = json.loads(command("evaluate", "--json").out)
    assert report["split"] == "test"
    sizes = {
        way: (found["queries"], found["targets"]) for way, found in report["retrieval"].items()
    }
    assert sizes == {"image_to_text": (8, 40), "text_to_image": (40, 8)}
    for found in report["retrieval"].values():
        for figure in found["recall"].values():
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1

    picture = data / "flickr30k-images" / Picture(5).name
    asked = ("--classes", "red circle,blue square", "--template", "a picture of a {}")
    (answer,) = json.loads(command("classify", picture, *asked, "--json").out)
    assert sum(answer["probabilities"].values()) == pytest.approx(1)

    hits = json.loads(command("search", "A red circle on a white background .", "--json").out)
    in_test = {Picture(i).name for i in range(IMAGES) if Picture(i).split == "test"}
    assert {Path(hit["found"]).name for hit in hits} == in_test
    hits = json.loads(command("search", picture, "-k", 3, "--json").out)
    captions = {text for i in range(IMAGES) for text in Picture(i).captions}
    assert {hit["found"] for hit in hits} <= captions


@pytest.mark.slow
def test_every_copy_of_the_data_gives_the_same_model(tiny, copies, command, tmp_path):
    models = set()
    for form, chosen in copies.items():
        folder = tmp_path / form
        ended = command(
            *("train", CLIP / "clip.yaml", *tiny, *chosen),
            *("data.max_bad=0.1", "training.epochs=1", "--output", folder),
        )
        assert ended.code == 0, ended.err
        assert f"{Picture(0).name}: Truncated File Read" in ended.err
        assert len(re.findall(r"caption(?: 0)? is empty", ended.err)) == 1
        assert "62 pairs, 3 steps an epoch" in ended.err
        models.add((folder / "model" / "model.safetensors").read_bytes())
    assert len(models) == 1


@pytest.mark.slow
def test_the_hubs_copy_is_measured_and_searched_as_the_folder_is(tiny, copies, command, tmp_path):
    pytest.importorskip("datasets")
    run, anew = tmp_path / "run", ["data.max_bad=0.1", "training.epochs=1"]
    ended = command("train", CLIP / "clip.yaml", *tiny, *copies["hub"], *anew, "--output", run)
    assert ended.code == 0, ended.err
    assert f"one pair: image: {Picture(1).name}" in ended.err
    report = json.loads(command("evaluate", "--model", run, "--json").out)
    assert report["retrieval"]["image_to_text"]["queries"] == 8
    hits = json.loads(command("search", "A red circle .", "--model", run, "--json").out)
    in_test = {Picture(i).name for i in range(IMAGES) if Picture(i).split == "test"}
    assert {hit["found"] for hit in hits} == in_test


@pytest.fixture
def script(monkeypatch, capsys):
    """Run ``train.py`` in this process: ``script("training.lr=1e-3") -> Outcome``."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        capsys.readouterr()
        try:
            runpy.run_path(str(CLIP / "train.py"), run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_the_script_trains_what_the_spec_says(tiny, command, script, tmp_path):
    one, whole = tmp_path / "script", tmp_path / "command"
    ended = script(*tiny, f"output={one}")
    assert ended.code == 0, ended.err
    assert re.fullmatch(r"image to text R@1 .*; text to image R@1 .*%\n", ended.out)
    assert command("train", CLIP / "clip.yaml", *tiny, "--output", whole).code == 0
    left, right = (folder / "model" / "model.safetensors" for folder in (one, whole))
    assert left.read_bytes() == right.read_bytes()


def test_the_script_says_a_mistake_in_one_line(script):
    ended = script("training.epoch=1")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "did you mean 'epochs'?" in ended.err


def test_the_script_has_12_lines():
    code = (CLIP / "train.py").read_text(encoding="utf-8")
    assert sum(bool(line) for line in code.splitlines()) == 12


@pytest.mark.slow
def test_the_python_of_the_readme_is_the_spec_in_13_lines(
    data, distilbert, tmp_path, monkeypatch, capsys, record_property
):
    block = stood_in()["examples/flickr30k_clip/README.md 2"]
    code = block.text
    assert sum(bool(line) for line in code.splitlines()) == 13
    described, trained = code.split("if __name__")
    names: dict = {}
    exec(described, names)
    assert names["run"] == load_spec(RunSpec, CLIP / "clip.yaml")

    monkeypatch.chdir(tmp_path)
    local = (f"local-dir:{tiny_resnet(tmp_path)}", str(distilbert), str(data))
    for published, ours in zip(NAMES, local, strict=True):
        assert described.count(f'"{published}"') == 1
        described = described.replace(f'"{published}"', repr(ours))
    exec(f"{described}if __name__{trained}", {"__name__": "__main__"})
    assert capsys.readouterr().out.startswith("image to text R@1 ")
    record_property("stand-in", f"{block.where} ({block.reason})")


TRAININGS = [words for words in commands() if words[0] == "train"]


@pytest.mark.parametrize("arguments", TRAININGS, ids=" ".join)
def test_every_training_in_the_readme_is_valid(arguments, command, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    spec, *rest = arguments[1:]
    overrides = [word for word in rest if "=" in word]
    ended = command("validate", spec, *overrides)
    assert ended.code == 0, ended.err


VARIANTS = {
    words[2].removeprefix("output="): words for words in commands() if words[0] == "validate"
}
SMALLER = {  # networks of the published ones' classes
    "vit_small_patch16_224.augreg_in21k_ft_in1k": "test_vit",
    "{type: vit, width: 192, heads: 3}": "{type: vit, width: 24, heads: 3, depth: 1}",
    "layer.4.*, model.transformer.layer.5.*": "layer.1.*",
}


class Made(NamedTuple):
    """What came out of a training."""

    image: str
    """The class of the image encoder's network."""
    trained: bool
    """Whether that network was."""
    loss: str
    steps: int


@pytest.fixture
def made(data, distilbert, command, tmp_path):
    """Train a variant of the README for an epoch with small networks, and look at what it is."""

    def train(variant: str) -> Made:
        spec, _, *overrides = VARIANTS[variant][1:]
        for published, ours in SMALLER.items():
            overrides = [word.replace(published, ours) for word in overrides]
        timms = "test_vit" if any("test_vit" in word for word in overrides) else "test_resnet"
        small = [
            f"data.folder={data}",
            f"model.towers.image.encoder.name={timms}",
            f"model.towers.image.encoder.weights={network(timms)}",
            f"model.towers.text.encoder.name={distilbert}",
            "training.epochs=1",
            "training.batch_size=32",
            "training.workers=0",
            "evaluation.split=null",
        ]
        folder = tmp_path / "run"
        path = EXAMPLES.parent / spec
        ended = command("train", path, *small, *overrides, "--output", folder)
        assert ended.code == 0, ended.err
        model = load_model(folder)
        assert type(model.tower("text").encoder.model).__name__ == "DistilBertModel"
        with safe_open(folder / "model" / "model.safetensors", framework="pt") as file:
            saved = [key for key in file.offset_keys() if key.startswith("towers.image.encoder.")]
        steps = max(line["step"] for line in read_log(folder / "log.jsonl") if "loss" in line)
        return Made(
            type(model.tower("image").encoder.net).__name__,
            bool(saved),  # what is frozen is saved by its fingerprint
            type(model.loss).__name__,
            steps,
        )

    return train


EXPECTED = {
    "runs/siglip": Made("ResNet", trained=False, loss="SigmoidLoss", steps=2),
    "runs/vit": Made("VisionTransformer", trained=False, loss="InfoNCELoss", steps=2),
    "runs/last-blocks": Made("ResNet", trained=True, loss="InfoNCELoss", steps=2),
    "runs/lora": Made("ResNet", trained=False, loss="InfoNCELoss", steps=2),
    "runs/unfrozen": Made("ResNet", trained=True, loss="InfoNCELoss", steps=2),
    "runs/five": Made("ResNet", trained=False, loss="InfoNCELoss", steps=5),
    "runs/scratch": Made("VisionTransformer", trained=True, loss="InfoNCELoss", steps=2),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [
        # nightly: what is another field of the spec alone, which is validated by day
        pytest.param(one, marks=[pytest.mark.nightly] if one in ("runs/siglip", "runs/vit") else [])
        for one in VARIANTS
    ],
)
def test_every_variant_of_the_readme_trains_what_it_says(made, variant):
    assert made(variant) == EXPECTED[variant]


def tiny_resnet(folder: Path) -> Path:
    """Return a folder as timm's models have on the Hub, with the weights of ``network()``."""
    resnet = folder / "resnet"
    resnet.mkdir()
    (resnet / "config.json").write_text('{"architecture": "test_resnet", "num_classes": 0}')
    shutil.copy(network(), resnet / "model.safetensors")
    return resnet


EMOJI = EXAMPLES / "emoji"


@pytest.mark.slow
@pytest.mark.nightly
def test_a_clip_from_scratch_finds_emoji_it_has_never_seen(tmp_path):
    """A smaller network on fewer pairs, a few seconds long; chance is outside of the interval."""
    spec = load_spec(
        RunSpec,
        EMOJI / "scratch.yaml",
        [
            "model.towers.image.encoder={type: resnet, width: 8, image_size: 24}",
            "data={type: emoji, captions_per_image: 1, vendors: [google]}",
            "training={epochs: 4, batch_size: 128, lr: 2e-3, workers: 0}",
            "evaluation.split=null",
        ],
    )
    assert all(tower.frozen == "none" for tower in spec.model.towers.values())
    model = train(spec, tmp_path / "run")
    report = evaluate(model, spec.data.build("test"), split="test")
    for direction in report.retrieval.values():
        found = direction.recall[10]
        assert found.chance == pytest.approx(0.02)
        assert found.low > found.chance


def test_every_training_in_the_readme_of_the_emoji_is_valid(command, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    trainings = [words for words in commands(EMOJI / "README.md") if words[0] == "train"]
    assert len(trainings) == 1
    for _, spec, *rest in trainings:
        ended = command("validate", spec, *(word for word in rest if "=" in word))
        assert ended.code == 0, ended.err
