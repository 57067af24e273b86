"""What decides on features is in the key of their cache: code, libraries, nested parts, files."""

import importlib
import json
import shutil
import sys
from decimal import Decimal
from functools import lru_cache

import numpy as np
import pytest
from torchvision.transforms import v2

from contrastive import ModelSpec, build_model, load_model
from contrastive.data.content_hash import sample_key
from contrastive.encoders import CBOW, HFDualImage, HFImage, HFText, Timm
from contrastive.errors import BadSample, WeightsError
from contrastive.features.cache import FeatureCache
from contrastive.features.code_versions import _distribution
from contrastive.features.encoder_key import encoder_key
from contrastive.features.encoder_rows import tell_once

pytestmark = pytest.mark.slow

ENCODER = """
from dataclasses import dataclass
from typing import ClassVar

import torch
from contrastive.interface import Encoder, EncoderModule


class {name}(Encoder):
    modality: ClassVar[str] = "text"
    {field}

    def build(self):
        from {package}.network import Module
        return Module(self)
"""
NETWORK = """
from dataclasses import dataclass
import torch
from contrastive.interface import EncoderModule
from . import helper

WORDS, LATER = "words.txt", ".by_name"  # read and imported while it runs


@dataclass(frozen=True)
class Lengths:
    scale: int = 1

    def __call__(self, samples):
        import {library}
        return {{"x": torch.tensor([[float(len(s))] for s in samples])}}


class Module(EncoderModule):
    modality, out_dim = "text", 1

    def __init__(self, spec):
        super().__init__()
        self.preprocess = Lengths()

    def forward(self, x):
        return x * helper.FACTOR
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages: an encoder, one that holds it, and a library of theirs."""
    folder = tmp_path / "site-packages"
    for package, name, field in (
        ("inner_pkg", "Inner", "size: int = 1"),
        ("outer_pkg", "Outer", "parts: list[Encoder] = []"),
    ):
        root = folder / package
        root.mkdir(parents=True)
        (root / "__init__.py").write_text(ENCODER.format(package=package, name=name, field=field))
        (root / "network.py").write_text(NETWORK.format(library="some_library"))
        (root / "helper.py").write_text("FACTOR = 1\n")
        for file in ("other.py", "by_name.py", "README.md"):
            (root / file).write_text("")
        (root / "data").mkdir()
        (root / "data" / "words.txt").write_text("a dog")
    library(folder, "1.0")
    (folder / "some_library.py").write_text("")
    (tmp_path / "own_helper.py").write_text("FACTOR = 1\n")
    text = ENCODER.format(package="inner_pkg", name="Own", field="size: int = 1")
    (tmp_path / "own_file.py").write_text(f"import own_helper\nWORDS = 'own_words.txt'\n{text}")
    (tmp_path / "own_words.txt").write_text("a dog")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in LOCAL]:
        del sys.modules[name]


LOCAL = {"inner_pkg", "outer_pkg", "own_file", "own_helper", "some_library"}


def library(folder, version):
    """Install a version of a distribution whose name is not that of its module."""
    for info in folder.glob("a_library-*.dist-info"):
        for path in info.iterdir():
            path.unlink()
        info.rmdir()
    info = folder / f"a_library-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: a-library\nVersion: {version}\n")
    (info / "RECORD").write_text("some_library.py,,\n")


def key_of(spec):
    return json.dumps(encoder_key(spec, spec.build()), sort_keys=True)


def specs():
    inner = importlib.import_module("inner_pkg").Inner()
    outer = importlib.import_module("outer_pkg").Outer
    own = importlib.import_module("own_file").Own()
    return {"alone": inner, "nested": outer(parts=[inner]), "own": own}


@pytest.mark.parametrize(
    ("changed", "who"),
    [
        ("inner_pkg/__init__.py", {"alone", "nested", "own"}),
        ("inner_pkg/network.py", {"alone", "nested", "own"}),
        ("inner_pkg/helper.py", {"alone", "nested", "own"}),
        ("inner_pkg/other.py", set()),
        ("outer_pkg/helper.py", {"nested"}),
        ("../own_file.py", {"own"}),
        ("../own_helper.py", {"own"}),
        ("../own_words.txt", {"own"}),
        ("inner_pkg/by_name.py", {"alone", "nested", "own"}),
        ("inner_pkg/data/words.txt", {"alone", "nested", "own"}),
        ("inner_pkg/README.md", set()),
        ("a library", {"alone", "nested", "own"}),
    ],
)
def test_a_change_of_what_an_encoder_runs_changes_its_key(site, changed, who):
    before = {name: key_of(spec) for name, spec in specs().items()}
    assert before == {name: key_of(spec) for name, spec in specs().items()}
    if changed == "a library":
        library(site, "2.0")
        clear()
    else:
        path = site / changed
        path.write_text(path.read_text() + "\nOTHER = 1\n")
    after = {name: key_of(spec) for name, spec in specs().items()}
    assert {name for name in before if before[name] != after[name]} == who


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("FACTOR = 1", "FACTOR = 1  # of nothing"),
        ("FACTOR = 1", '"""Words."""\n\nFACTOR = 1'),
        ("FACTOR = 1", "FACTOR   =   1\n\n"),
        ("FACTOR = 1", "FACTOR = (1)"),
    ],
)
def test_comments_docstrings_and_layout_throw_nothing_away(site, before, after):
    known = {name: key_of(spec) for name, spec in specs().items()}
    for path in (site / "inner_pkg" / "helper.py", site.parent / "own_helper.py"):
        path.write_text(path.read_text().replace(before, after))
    assert {name: key_of(spec) for name, spec in specs().items()} == known


def clear():
    """Forget what a process may remember of what is installed, as another process does."""
    from contrastive.features import code_versions

    for known in (_distribution, code_versions._distribution_with):
        known.cache_clear()


def test_nothing_is_imported_to_know_the_key(site):
    (spec, *_) = specs().values()
    key_of(spec)
    assert "some_library" not in sys.modules


def test_of_our_encoders_a_number_counts_and_not_the_code(monkeypatch):
    before = encoder_key(CBOW(), module := CBOW().build())
    assert before["code"] == {}
    assert "torch" in before["libraries"]
    monkeypatch.setattr(CBOW, "FEATURES_VERSION", 2)
    assert encoder_key(CBOW(), module) != before


CONFIGS = {
    "hf-text": ("bert", HFText, [], {"hidden_act": "relu"}),
    "hf-dual-image": ("clip", HFDualImage, ["vision_config"], {"hidden_act": "gelu"}),
    "timm": ("timm", Timm, ["model_args"], {"num_heads": 4}),
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("which", CONFIGS)
def test_a_config_beside_the_weights_counts_and_is_told_when_it_changes(
    which, models, tmp_path, capsys
):
    folder, kind, place, changed = CONFIGS[which]
    path = shutil.copytree(models / folder, tmp_path / "of_hub")
    spec = kind(name=f"local-dir:{path}" if which == "timm" else str(path))
    model = build_model(one_tower(spec))
    model.save(tmp_path / "saved")
    before = encoder_key(spec, model.tower(spec.modality).encoder)
    edit(path / "config.json", [], {"transformers_version": "9"})
    assert encoder_key(spec, spec.build()) == before
    edit(path / "config.json", place, changed)
    model = load_model(tmp_path / "saved")
    assert "encoder has changed since the model was saved" in capsys.readouterr().err
    after = encoder_key(spec, model.tower(spec.modality).encoder)
    assert {name for name in before if before[name] != after[name]} == {"configs"}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("which", ["hf-text", "timm"])
def test_a_saved_model_finds_what_it_names_by_a_relative_path_from_any_folder(
    which, models, tmp_path, monkeypatch, capsys
):
    folder, kind, *_ = CONFIGS[which]
    shutil.copytree(models / folder, tmp_path / "models" / folder)
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    name = f"local-dir:../models/{folder}" if which == "timm" else "../models/bert"
    build_model(one_tower(spec := kind(name=name))).save("saved")
    monkeypatch.chdir(tmp_path)
    load_model("a/saved").save("again")
    model = load_model("again")
    assert model.spec.towers[spec.modality].encoder.name == name  # by which features are cached
    edit(
        shutil.copytree(models / folder, tmp_path / "b/models" / folder) / "config.json",
        [],
        {"?": 1},
    )
    (tmp_path / "b/c").mkdir()
    monkeypatch.chdir(tmp_path / "b/c")  # where another one has the name
    load_model(tmp_path / "again")
    assert "has changed" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    moved = (tmp_path / "models").rename(tmp_path / "moved")
    with pytest.raises(WeightsError, match=str(moved.parent / "models" / folder)):
        load_model("again")


PREPROCESSING = {
    "hf-text": ("bert", HFText, "tokenizer.json", '"dogs"', '"hogs"'),
    "hf-image": ("vit", HFImage, "preprocessor_config.json", '"image_mean"', '"was_mean"'),
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("frozen", ["encoder", "none"])
@pytest.mark.parametrize("which", PREPROCESSING)
def test_a_saved_model_says_when_its_tokenizer_or_processor_is_another(
    which, frozen, models, tmp_path, capsys
):
    folder, kind, file, old, new = PREPROCESSING[which]
    path = shutil.copytree(models / folder, tmp_path / "of_hub") / file
    spec = one_tower(kind(name=str(path.parent)), frozen)
    build_model(spec).save(tmp_path / "saved")
    load_model(tmp_path / "saved")
    assert "preprocessing" not in capsys.readouterr().err
    path.write_text(path.read_text().replace(old, new))
    edit(path.with_name("config.json"), [], {"hidden_act": "relu"})
    load_model(tmp_path / "saved")
    (modality,) = [m for m, tower in spec.towers.items() if isinstance(tower.encoder, kind)]
    said = f"saved: the {modality} encoder's preprocessing is not what it was when the model was"
    told = capsys.readouterr().err
    assert said in told
    assert f"saved: the config of the {modality} encoder has changed since the model was" in told


def edit(path, place, changes):
    whole = part = json.loads(path.read_text())
    for name in place:
        part = part.setdefault(name, {})  # timm 1.0.20 writes fewer
    part |= changes
    path.write_text(json.dumps(whole))


def one_tower(encoder, frozen="encoder"):
    tower = {"encoder": encoder, "head": {"type": "linear"}, "frozen": frozen}
    other = "text" if encoder.modality == "image" else "image"
    small = {"type": "cbow", "width": 2} if other == "text" else {"type": "resnet", "width": 4}
    towers = {encoder.modality: tower, other: {"encoder": small, "head": {"type": "linear"}}}
    return ModelSpec.model_validate({"embed_dim": 4, "towers": towers, "loss": {"type": "infonce"}})


TYPED = {
    "its method": "class P(Base):\n    def __call__(self, s): return s * {}",
    "a function": "def f(s): return s * {}\nclass P(Base):\n    def __call__(self, s): return f(s)",
    "a constant": "K = {}\nclass P(Base):\n    def __call__(self, s): return s * K",
    "a set": "K = {{'a', {}}}\nclass P(Base):\n    def __call__(self, s): return s in K",
    "its attribute": "class P(Base):\n    k = {}\n    def __call__(self, s): return s * self.k",
    "its base": "class B(Base):\n    def k(self): return {}\nclass P(B): pass",
    "its property": "class P(Base):\n    @property\n    def k(self): return {}",
    "its static method": "class P(Base):\n    @staticmethod\n    def k(): return {}",
    "what is remembered": "@lru_cache\ndef k(): return {}\nclass P(Base):\n    def f(s): k()",
    "a default": "class P(Base):\n    def __call__(self, s, k={}): return s * k",
    "an outer variable": "def make(k):\n    return lambda: k\nclass P(Base):\n    f = make({})",
    "a step of a transform": (
        "def f(s): return s * {}\nclass P(Base):\n"
        "    def __init__(self): self.steps = {{'train': v2.Compose([v2.Lambda(f)])}}"
    ),
    "a part": (
        "class T:\n    def run(self, s): return s * {}\n"
        "class P(Base):\n    __slots__ = ('t',)\n    def __init__(self): self.t = T()"
    ),
}


class Base:
    """What preprocesses, and says nothing of how."""

    def __repr__(self):
        return "P()"


@pytest.mark.parametrize("what", TYPED)
def test_code_without_a_file_counts_too(what):
    """As in a notebook."""
    module, keys = CBOW(width=2, buckets=2).build(), []
    for line, factor in enumerate((1, 1, 2)):
        space = {"__name__": "typed", "Base": Base, "lru_cache": lru_cache, "v2": v2}
        exec("\n" * line + TYPED[what].format(factor), space)
        module.preprocess = space["P"]()
        keys.append(encoder_key(CBOW(), module)["code"])
    assert keys[0] == keys[1] != keys[2]


def test_features_of_an_earlier_version_are_told_once_and_left_alone(tmp_path, capsys):
    tell_once.cache_clear()
    old = tmp_path / "features" / "0123"
    old.mkdir(parents=True)
    (old / "encoder.json").write_text('{"format": 2}')
    (old / "features.bin").write_bytes(bytes(2_000_000))
    module = CBOW(width=2, buckets=2).build()
    for text in ("a", "b"):
        FeatureCache(tmp_path).table(CBOW(width=2, buckets=2), module, [text])
    said = capsys.readouterr().err
    assert said.count("2.0 MB of features cached by an earlier version are not used") == 1
    assert str(tmp_path / "features") in said
    assert (old / "features.bin").stat().st_size == 2_000_000


@pytest.mark.parametrize("form", ["path", "text"])
@pytest.mark.parametrize("inside", [lambda x: {"a": [x]}, lambda x: [x, 1], lambda x: ({"b": x},)])
def test_a_file_within_a_sample_counts_by_its_content(tmp_path, form, inside):
    path = tmp_path / "a.bin"
    path.write_bytes(b"1")
    sample = inside(path if form == "path" else str(path))
    before = sample_key(sample, "product")
    path.write_bytes(b"22")
    assert sample_key(sample, "product") != before
    path.write_bytes(b"1")
    assert sample_key(sample, "product") == before


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"price": [Decimal(1)]}, r"holds a Decimal at \['price'\]\[0\]; give a string, a path"),
        ({1: 2, "a": 3}, "has the key 1; keys are strings"),
        (7, "cannot be an int; give a string, a path"),
    ],
)
def test_what_no_sample_can_hold_is_named(sample, said):
    with pytest.raises(BadSample, match=said):
        sample_key(sample, "product")


def test_arrays_within_a_sample_are_told_apart():
    keys = {sample_key({"x": np.full(3, i), "y": None}, "product") for i in range(3)}
    assert len(keys) == 3
