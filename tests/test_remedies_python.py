"""What is told of an argument in Python is given instead, and then it is taken."""

from __future__ import annotations

from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import normalize

from contrastive import (
    ContrastiveModel,
    RunSpec,
    answer,
    build_model,
    caption,
    classify,
    compare,
    diagnose,
    embed,
    evaluate,
    load_model,
    search,
)
from contrastive.datasets import ImageFolder
from contrastive.evaluation.retrieval import recall
from contrastive.features.cache import FeatureCache
from contrastive.nn.device import pick_device
from contrastive.prompts import templates
from tests import remedies
from tests.remedies import TEXTS, told
from tests.toys import tiny_model

here, model = remedies.here, remedies.model

PAIR = normalize(torch.randn(3, 8), dim=1), normalize(torch.randn(3, 8), dim=1)
A, B = PAIR


def new() -> Path:
    """Return a folder that is not there yet."""
    return Path(mkdtemp(dir=".")) / "new"


def saved(model) -> Path:
    model.save(folder := new())
    return folder


def run_of(model):
    return RunSpec(model=model.spec, data={"type": "image-folder", "folder": "."})


def line(**fields):
    return {"step": 1, "loss": 2.0} | fields


def rows(*ids):
    return [
        {"image": f"{i}.png", "text": text, "id": ids[i] if ids else i}
        for i, text in enumerate(TEXTS)
    ]


NO_ID = [{"image": "0.png", "text": "a"}]
WRAPPED = SimpleNamespace(module=build_model(tiny_model("infonce")))
CALLS = [  # each a function of a model
    (
        lambda m: classify(WRAPPED, "0.png", TEXTS),
        "give model.module",
        lambda m: classify(WRAPPED.module, "0.png", TEXTS),
    ),
    (
        lambda m: classify(m.spec, "0.png", TEXTS),
        "build_model(spec)",
        lambda m: classify(build_model(m.spec), "0.png", TEXTS),
    ),
    (lambda m: load_model(m.spec), "build_model(spec) builds", lambda m: build_model(m.spec)),
    (
        lambda m: m.embed("text", TEXTS, cache="c"),
        "give FeatureCache(folder)",
        lambda m: m.embed("text", TEXTS, cache=FeatureCache("c")),
    ),
    (
        lambda m: classify(m, "0.png", []),
        "give at least one class, in a list",
        lambda m: classify(m, "0.png", ["a"]),
    ),
    (
        lambda m: classify(m, "0.png", ["a", ""]),
        "leave it out",
        lambda m: classify(m, "0.png", ["a"]),
    ),
    (
        lambda m: classify(m, "0.png", ["a", "a"]),
        "give each once",
        lambda m: classify(m, "0.png", ["a"]),
    ),
    (
        lambda m: classify(m, "0.png", TEXTS, templates="a {}"),
        "give a list, such as ['a {}']",
        lambda m: classify(m, "0.png", TEXTS, templates=["a {}"]),
    ),
    (
        lambda m: templates("a {}"),
        "sentences of your own go in a list",
        lambda m: classify(m, "0.png", TEXTS, templates=["a {}"]),
    ),
    (lambda m: templates("imagenett"), "did you mean 'imagenet'", lambda m: templates("imagenet")),
    (
        lambda m: answer(m, "0.png", 7, ["a"]),
        "give a string",
        lambda m: answer(m, "0.png", "7 {}", ["a"]),
    ),
    (
        lambda m: caption(m, "0.png", TEXTS, top=0),
        "give a whole number of at least 1",
        lambda m: caption(m, "0.png", TEXTS, top=1),
    ),
    (
        lambda m: caption(m, "0.png", TEXTS, diversity=2),
        "give a number",
        lambda m: caption(m, "0.png", TEXTS, diversity=1),
    ),
    (
        lambda m: compare([m, m], "0.png", TEXTS),
        "{'one': model, 'two': other}",
        lambda m: compare({"one": m, "two": m}, "0.png", TEXTS),
    ),
    (
        lambda m: compare({"one": m}, "0.png", TEXTS),
        "at least two models",
        lambda m: compare({"one": m, "two": m}, "0.png", TEXTS),
    ),
    (
        lambda m: search(m, "a dog"),
        "give images, texts or samples",
        lambda m: search(m, "a dog", images="."),
    ),
    (
        lambda m: search(m, ["a dog"], images="."),
        "give words",
        lambda m: search(m, "a dog", images="."),
    ),
    (
        lambda m: search(m, None, images="."),
        "the path of an image",
        lambda m: search(m, "0.png", images=".", find="image"),
    ),
    (
        lambda m: search(m, "a", images=".", texts=TEXTS),
        "search one of them",
        lambda m: search(m, "a", images="."),
    ),
    (
        lambda m: search(m, "0.png", samples=rows(), find="x"),
        "it has: image, text",
        lambda m: search(m, "0.png", samples=rows(), find="text"),
    ),
    (
        lambda m: evaluate(m, NO_ID),
        "give each row one, equal in a group",
        lambda m: evaluate(m, [NO_ID[0] | {"id": 0}]),
    ),
    (
        lambda m: evaluate(m, TEXTS),
        "give dicts, such as {'image': path",
        lambda m: evaluate(m, rows()),
    ),
    (
        lambda m: evaluate(m, ImageFolder),
        "build a split of an object of it: ImageFolder(...).build('test')",
        lambda m: evaluate(m, ImageFolder(folder=".").build("test")),
    ),
    (
        lambda m: evaluate(m, run_of(m)),
        "spec.data.build('test')",
        lambda m: evaluate(m, run_of(m).data.build("test")),
    ),
    (lambda m: evaluate(m, m.spec.loss), "give a built dataset", lambda m: evaluate(m, rows())),
    (
        lambda m: evaluate(m, "."),
        "ImageFolder(folder=...).build('test')",
        lambda m: evaluate(m, ImageFolder(folder=".").build("test")),
    ),
    (
        lambda m: evaluate(m, ImageFolder(folder=".")),
        "data.build('test')",
        lambda m: evaluate(m, ImageFolder(folder=".").build("test")),
    ),
    (
        lambda m: evaluate(m, rows(0.5, 1, 2)),
        "ids are integers or strings, equal in a group",
        lambda m: evaluate(m, rows("a", 1, 2)),
    ),
    (
        lambda m: recall(A, B[:2]),
        "give query_ids and target_ids",
        lambda m: recall(A, B[:2], [0, 1, 1], [0, 1]),
    ),
    (
        lambda m: recall(A, B, [0, 1], [0, 1, 2]),
        "give one for each",
        lambda m: recall(A, B, [0, 1, 2], [0, 1, 2]),
    ),
    (lambda m: recall(A[:0], B), "give some of both", lambda m: recall(A, B)),
    (lambda m: recall(A, B, ks=1), "such as [1, 5]", lambda m: recall(A, B, ks=[1, 5])),
    (
        lambda m: recall(A, B, 3, 3),
        "in a list or a tensor",
        lambda m: recall(A, B, [0, 1, 2], torch.arange(3)),
    ),
    (
        lambda m: m.similarity(A[0], B),
        "give embeddings [N, D], such as model.embed",
        lambda m: m.similarity(m.embed("text", TEXTS), B),
    ),
    (lambda m: m.similarity(TEXTS, B), "give [N, D]", lambda m: m.similarity(A, B)),
    (
        lambda m: m.similarity(np.ma.masked_equal(np.eye(3, 8), 1), B),
        "fill it",
        lambda m: m.similarity(np.ma.masked_equal(np.eye(3, 8), 1).filled(0), B),
    ),
    (lambda m: m.similarity(A[:, :4], B), "give those of one model", lambda m: m.similarity(A, B)),
    (
        lambda m: diagnose([{"loss": 2.0}]),
        "give {'step': 1, ...}",
        lambda m: diagnose([{"step": 1, "loss": 2.0}]),
    ),
    (
        lambda m: diagnose(["step 1"]),
        "give dicts, such as contrastive.reporting.run_log.read_log(",
        lambda m: diagnose([line()]),
    ),
    (
        lambda m: diagnose([line()], batch=0),
        "give a whole number",
        lambda m: diagnose([line()], batch=1),
    ),
    (
        lambda m: pick_device("gpu"),
        "choose auto: a GPU if there is one",
        lambda m: pick_device("auto"),
    ),
    (lambda m: pick_device("meta"), "choose cpu, cuda, ... or auto", lambda m: pick_device("cpu")),
    (lambda m: m.save("captions.csv"), "choose a new or empty folder", lambda m: m.save(new())),
    (
        lambda m: load_model("captions.csv"),
        "give the folder of a run or of a saved model",
        lambda m: load_model(saved(m)),
    ),
    (
        lambda m: embed(m, [], new()),
        "give another split, or other data",
        lambda m: embed(m, rows(), new()),
    ),
    (
        lambda m: embed(m, rows(), new(), dim=9),
        "lower it",
        lambda m: embed(m, rows(), new(), dim=8),
    ),
    (
        lambda m: embed(m, rows(), new(), dim=4, quantize="binary"),
        "give dim=8",
        lambda m: embed(m, rows(), new(), dim=8, quantize="binary"),
    ),
    (lambda m: embed(m, rows(), "."), "give another folder", lambda m: embed(m, rows(), new())),
    (
        lambda m: embed(m, rows(), embed(m, rows(), new()).path, dim=4),
        "give another folder",
        lambda m: embed(m, rows(), new(), dim=4),
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), CALLS)
def test_a_function_is_called_as_is_told(model, wrong, said, right):
    message = told(lambda: wrong(model))
    assert said in message
    right(model)


def test_a_forward_pass_is_given_what_is_told(model):
    samples = {"image": ["0.png", "1.png", "2.png"], "text": TEXTS}
    batch = {m: model.tower(m).encoder.preprocess(x) for m, x in samples.items()}
    said = told(lambda: model(**batch | {"text": TEXTS}))
    assert "what model.tower('text').encoder.preprocess(samples) returns, or two of these" in said
    assert told(lambda: model(text=batch["text"])).endswith("no inputs for image; give image, text")
    assert "give one for each" in told(lambda: model(**batch, ids=[1, 2]))
    assert model(**batch, ids=[1, 2, 3])["loss"].isfinite()
    views = {m: [x] for m, x in zip(("image", "text"), PAIR, strict=True)}
    assert "give those of image, text" in told(lambda: model.pair_loss({"image": [A]}, None))
    assert model.pair_loss(views, None)[0].isfinite()


def lengths(texts):
    return torch.tensor([[len(text), text.count("a")] for text in texts]).float()


def of_modules(**changes):
    how = {"modules": {"text": nn.Linear(2, 8), "word": nn.Linear(2, 8)}, "embed_dim": 8}
    how |= {"preprocess": {"text": lengths, "word": lengths}} | changes
    return lambda: ContrastiveModel.from_modules(**how).embed("text", TEXTS)


MODULES = {"text": nn.Linear(2, 8), "word": nn.Linear(2, 8)}
BOTH = {"text": lengths, "word": lengths}
OF_MODULES = [
    (of_modules(modules=[nn.Linear(2, 8)]), "give a dict by modality"),
    (of_modules(modules={1: MODULES["text"]}), "give a text, such as 'image'"),
    (of_modules(preprocess={"text": lengths}), "give both"),
    (of_modules(modules=MODULES | {"text": nn.Linear}), "give an nn.Module"),
    (of_modules(preprocess=BOTH | {"text": None}), "give a function"),
    (
        of_modules(modules=MODULES | {"a.b": nn.Linear(2, 8)}, preprocess=BOTH | {"a.b": lengths}),
        "choose another",
    ),
    (of_modules(embed_dim=4), "set embed_dim to its width"),
    (of_modules(embed_dim=4, modules=MODULES), "or add a projection"),
    (of_modules(preprocess=BOTH | {"text": list}), "return a tensor, or a dict of tensors"),
    (
        of_modules(modules={"text": MODULES["text"]}, preprocess={"text": lengths}),
        "pairs: [[text, text]]",
    ),
]


@pytest.mark.parametrize(("wrong", "said"), OF_MODULES)
def test_a_model_is_made_of_modules_as_is_told(wrong, said):
    assert said in told(wrong)


def test_what_is_told_of_modules_makes_a_model():
    of_modules()()
    of_modules(
        embed_dim=4, modules={m: nn.Sequential(x, nn.Linear(8, 4)) for m, x in MODULES.items()}
    )()
    of_modules(preprocess=BOTH | {"text": lambda x: {"input": lengths(x)}})()
    of_modules(
        modules={"text": MODULES["text"]}, preprocess={"text": lengths}, pairs=[["text", "text"]]
    )()
    model = ContrastiveModel.from_modules(MODULES, BOTH, embed_dim=8)
    assert "save model.state_dict()" in told(lambda: model.save("modules"))
    save_file(model.state_dict(), "modules.safetensors")
    again = ContrastiveModel.from_modules(MODULES, BOTH, embed_dim=8)
    again.load_state_dict(load_file("modules.safetensors"))
    assert "call from_modules again" in told(lambda: build_model(model.spec))
