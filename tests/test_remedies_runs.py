"""What is told of a run, a saved model or a measurement is done, and then it goes on."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import nn

from contrastive import RunSpec, build_model, diagnose, evaluate, load_model, probe, train
from contrastive.encoders import CBOW, encoders
from contrastive.errors import ContrastiveError
from contrastive.features.cache import FeatureCache
from contrastive.features.encoder_rows import tell_once
from contrastive.heads import Head, heads
from contrastive.training.run_folder import LOCK
from tests.hostile import seal
from tests.toys import tiny_model, write_noise

pytestmark = pytest.mark.slow

IMAGE = "model.towers.image"
SPLIT = ("train", "train", "train", "train", "val", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder with data and a run of a few steps, which tests copy."""
    made = tmp_path_factory.mktemp("made")
    (made / "images").mkdir()
    write_noise(made / "images", 24)
    lines = (f"{i}.png,a {i % 2} of {i},{SPLIT[i // 4]},{i % 2}" for i in range(24))
    (made / "images" / "captions.csv").write_text("\n".join(["image,text,split,label", *lines]))
    train(spec(made, "training.checkpoint_every=1"), made / "run", cache=None)
    return made


def spec(made: Path, *changes: str) -> RunSpec:
    parts: dict[str, Any] = {"model": tiny_model("infonce")}
    parts["data"] = {"type": "image-folder", "folder": str(made / "images")}
    parts["training"] = {"epochs": 1, "batch_size": 6, "workers": 0, "cache": "off"}
    parts["evaluation"] = {"split": None}
    return RunSpec.model_validate(parts).with_(*changes)


@pytest.fixture
def run(made, tmp_path):
    """Return a copy of the run."""
    return Path(shutil.copytree(made / "run", tmp_path / "run"))


def told(act) -> str:
    with pytest.raises((ContrastiveError, ValueError)) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


MICRO = ("training.micro_batch=3",)
SPECS = [  # overrides, what is told, and overrides after those
    (MICRO, "set batch_norm to eval", ("training.batch_norm=eval",)),
    (MICRO, "freeze it", (f"{IMAGE}.frozen=encoder",)),
    (MICRO, "or do without micro_batch", ("training.micro_batch=null",)),
    (("training.split=dev",), "choose one by training.split", ("training.split=val",)),
    pytest.param(
        ("training.lr=1000", "training.weight_decay=1000", "training.epochs=3"),
        "try a lower training.lr",
        ("training.lr=1e-6",),
        marks=pytest.mark.nightly,
    ),
    (
        ("model.loss={type: distillation, loss: {type: infonce}}",),
        "use it in a training loop of your own",
        ("model.loss={type: infonce}",),
    ),
    (
        ("training.checkpoint_activations=[audio]",),
        "it has: image, text",
        ("training.checkpoint_activations=[]",),
    ),
    (
        ("training.lr_factors={towers.txt.*: 2}",),
        "towers.text",
        ("training.lr_factors={towers.text.*: 2}",),
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), SPECS)
def test_a_run_begins_with_the_fields_that_are_told(made, tmp_path, wrong, said, right):
    message = told(lambda: train(spec(made, *wrong), tmp_path / "run", cache=None))
    assert said in message, message
    names = [change.partition("=")[0] for change in right]
    kept = [change for change in wrong if change.partition("=")[0] not in names]
    train(spec(made, *kept, *right), tmp_path / "new", cache=None)


def test_an_output_is_given_as_is_told(made, run, tmp_path):
    fine, new = spec(made), tmp_path / "new"
    assert told(lambda: train(fine)).endswith("give output")
    assert "spec.with_('training.epochs=2')" in told(lambda: train(fine, "training.epochs=2"))
    assert fine.with_("training.epochs=2").training.epochs == 2
    (tmp_path / "file").touch()
    shutil.copytree(run / "model", tmp_path / "saved")
    (tmp_path / "log" / "model").mkdir(parents=True)
    (tmp_path / "log" / "model" / "mine.txt").touch()
    for output in ("file", "saved", "log", "run"):
        said = told(lambda: train(fine, tmp_path / output, cache=None))  # noqa: B023
        assert said.endswith("choose another output")
    (tmp_path / "busy").mkdir()
    with FileLock(tmp_path / "busy" / LOCK):
        said = told(lambda: train(fine, tmp_path / "busy", cache=None))
    assert said.endswith("another process is training here; choose another output")
    said = told(lambda: train(fine, new, resume=True, cache=None))
    assert said.endswith("to begin, leave out resume=True (--resume)")
    train(fine, new, cache=None)


def test_a_run_that_is_resumed_by_another_spec_gets_the_fields_that_are_told(made, run):
    wrong = spec(made, "training.lr_factors={towers.text.*: 2}")
    said = told(lambda: train(wrong, run, resume=True, cache=None))
    (name,) = re.findall(r"leave (.*) out, or start anew", said)
    assert name == "training.lr_factors.towers.text.*"
    train(spec(made), run, resume=True, cache=None)


def change(file: Path, key: str, act) -> None:
    """Change a tensor of a saved folder, whose manifest fits afterwards."""
    tensors = load_file(file)
    name = next(name for name, x in tensors.items() if key in name and x.is_floating_point())
    tensors[name] = act(tensors[name])
    save_file(tensors, file)
    seal(file.parent)


def checkpoints(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").iterdir())


def test_a_model_that_diverged_is_left_for_an_older_one(run):
    change(run / "model" / "model.safetensors", "head.weight", lambda x: x * torch.nan)
    assert told(lambda: load_model(run)).endswith("take an older model")
    load_model(checkpoints(run)[0])


def test_a_checkpoint_that_is_not_finite_is_removed_as_is_told(made, run):
    shutil.rmtree(run / "model")
    *_, before, last = checkpoints(run)
    change(last / "optimizer.safetensors", "exp_avg", lambda x: x * torch.nan)
    said = told(lambda: train(spec(made), run, resume=True, cache=None))
    assert said.endswith("remove this checkpoint, to go on from the one before")
    assert said.startswith(str(last))
    shutil.rmtree(last)
    assert before.exists()
    train(spec(made), run, resume=True, cache=None)


def write_json(file: Path, fields: object) -> None:
    file.write_text(json.dumps(fields))
    seal(file.parent)


ODD = {"encoders": {"audio": "0" * 64}}
DAMAGE = {
    "cut": (
        lambda file: file.write_bytes(file.read_bytes()[:-9]),
        "model.safetensors",
        "copy it again",
    ),
    "no JSON": (
        lambda file: file.write_text("[]") and seal(file.parent),
        "parts.json",
        "copy it again",
    ),
    "other parts": (
        lambda file: write_json(file, json.loads(file.read_text()) | ODD),
        "parts.json",
        "copy the folder again, or save the model anew",
    ),
    "numbers of another kind": (
        lambda file: change(file, "head.weight", lambda x: x.long()),
        "model.safetensors",
        "copy the folder again, or save the model anew",
    ),
    "a folder": (lambda file: [file.unlink(), file.mkdir()], "spec.json", "copy the folder anew"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_copied_again_or_saved_anew_as_is_told(made, tmp_path, damage):
    act, name, said = DAMAGE[damage]
    for again in (
        lambda to: shutil.copytree(made / "run" / "model", to),
        load_model(made / "run").save,
    ):
        folder = shutil.copytree(made / "run" / "model", tmp_path / "model")
        act(folder / name)
        assert said in told(lambda: load_model(folder))  # noqa: B023
        shutil.rmtree(folder)
        again(folder)
        load_model(folder)
        shutil.rmtree(folder)


def test_features_are_kept_in_the_folder_that_is_named(made, tmp_path, monkeypatch, capsys):
    frozen = build_model(spec(made, f"{IMAGE}.frozen=encoder").model)
    (tmp_path / "file").touch()
    for place, said in (
        ("https://a.org/b", "set CONTRASTIVE_CACHE to a folder"),
        (str(tmp_path / "file"), "set CONTRASTIVE_CACHE to a folder that can be written"),
    ):
        tell_once.cache_clear()
        monkeypatch.setenv("CONTRASTIVE_CACHE", place)
        images = sorted((made / "images").glob("*.png"))[:2]
        frozen.embed("image", images, cache=FeatureCache())
        assert said in capsys.readouterr().err
    tell_once.cache_clear()
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    frozen.embed("image", images, cache=FeatureCache())
    assert "CONTRASTIVE_CACHE" not in capsys.readouterr().err
    assert any((tmp_path / "cache").rglob("keys.bin"))


def test_rows_that_training_has_are_dropped_as_is_told(made, tmp_path, command):
    model = load_model(made / "run")
    data = spec(made).data
    both = data.build("train+val")
    said = told(lambda: evaluate(model, both))
    assert "evaluation.shared: drop (to measure: --shared drop)" in said
    evaluate(model, both, shared="drop")
    where = ("--model", made / "run", "--split", "train+val")
    assert "--shared drop" in command("evaluate", *where).err
    assert command("evaluate", *where, "--shared", "drop").code in (0, 3)
    assert "that it has not seen" in told(lambda: evaluate(model, data.build("train")))
    evaluate(model, data.build("val"))


def test_a_probe_is_given_as_many_shots_as_is_told(made):
    pytest.importorskip("sklearn")
    model = load_model(made / "run")
    train_split, test_split = (spec(made).data.build(name) for name in ("train", "test"))
    measure = partial(probe, model, train_split, test_split, seeds=1)
    assert "give k=16 (-k 16) or less" in told(measure)
    assert told(lambda: measure(k=16, shots=[1000])).endswith("give fewer shots")
    assert measure(k=16, shots=[1]).knn
    assert "features or embeddings" in told(lambda: measure(inputs="feature"))


class Flat(Head):
    """A projection with BatchNorm that keeps no statistics."""

    statistics: bool = False
    """Keep them."""

    def build(self, in_dim: int, out_dim: int) -> nn.Module:
        """Return it."""
        norm = nn.BatchNorm1d(in_dim, track_running_stats=self.statistics)
        return nn.Sequential(norm, nn.Linear(in_dim, out_dim))


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("use another norm", (f"{IMAGE}.head={{type: linear}}",)),
        ("or do without micro_batch", ("training.micro_batch=null",)),
    ],
)
def test_a_batch_norm_without_statistics_is_replaced_as_is_told(made, tmp_path, said, right):
    heads.register("flat")(Flat)
    fields = (
        f"{IMAGE}.head={{type: flat}}",
        f"{IMAGE}.encoder={{type: vit, image_size: 8, patch_size: 4, width: 8, depth: 1, "
        "heads: 2}",
    )
    assert said in told(lambda: train(spec(made, *fields, *MICRO), tmp_path / "run", cache=None))
    train(spec(made, *fields, *MICRO).with_(*right), tmp_path / "new", cache=None)


class Reads:
    """Preprocessing whose repr does not say what it does."""

    def __init__(self, preprocess):
        self.preprocess = preprocess

    def __call__(self, samples):
        return self.preprocess(samples)


class Words(CBOW):
    """Words, read by such preprocessing."""

    def build(self):
        """Return the module."""
        module = super().build()
        module.preprocess = Reads(module.preprocess)
        return module


def test_features_that_cannot_be_cached_are_not_as_is_told(made, tmp_path):
    encoders.register("words")(Words)
    text = "model.towers.text"
    odd = spec(made, f"{text}.encoder={{type: words, width: 8}}", f"{text}.frozen=encoder")
    kept = odd.with_("training.cache=auto")
    cache = FeatureCache(tmp_path / "cache")
    assert told(lambda: train(kept, tmp_path / "run", cache=cache)).endswith("training.cache: off")
    train(kept.with_("training.cache=off"), tmp_path / "new", cache=cache)


LN_100 = 4.60517


def log_of(losses: list[float], run: Any = (), **values: Any) -> list[dict[str, Any]]:
    """Return the lines of a run with a value for each loss."""
    about = {"batch": 6, "loss": {"type": "infonce", "max_scale": 100.0}} | dict(run)
    steps = [{"step": i, "loss": x, "lr": 0.1} | values for i, x in enumerate(losses, 1)]
    return [{"step": 0, "run": about}, *steps]


FOUND = [  # a log, the finding, what is told, and that as an override
    (
        log_of([1.79] * 200, log_scale=0.0),
        "scale-at-one",
        "set model.loss.temperature to 0.07",
        "model.loss.temperature=0.07",
    ),
    (
        log_of([0.5] * 200, log_scale=LN_100),
        "scale-at-bound",
        "raise model.loss.max_scale",
        "model.loss.max_scale=200",
    ),
    (
        log_of([1.79] * 200, log_scale=2.6, lr=1e-9),
        "lr-too-low",
        "raise training.lr",
        "training.lr=0.1",
    ),
    (
        log_of([1.79] * 200, log_scale=2.6),
        "no-learning",
        "try another training.lr",
        "training.lr=0.1",
    ),
    (
        log_of([1.79] * 50 + [0.1] * 200 + [1.7] * 100, log_scale=2.6),
        "diverged",
        "or lengthen training.warmup",
        "training.warmup=0.2",
    ),
    (
        log_of([1.0] * 200, log_scale=2.6, gradients={"image.encoder": 0.0, "text.head": 1.0}),
        "no-gradient",
        "or set model.towers.image.frozen to encoder",
        "model.towers.image.frozen=encoder",
    ),
    (
        log_of([1.0] * 200, log_scale=2.6, gradients={"image.head": 0.0, "text.head": 1.0}),
        "no-gradient",
        "or set model.towers.image.frozen to all",
        "model.towers.image.frozen=all",
    ),
]


@pytest.mark.parametrize(("lines", "code", "said", "override"), FOUND)
def test_fields_that_the_doctor_names_are_set(made, lines, code, said, override):
    (finding,) = (one for one in diagnose(lines) if one.code == code)
    assert said in finding.remedy
    spec(made, override)
