"""What a Python user meets: names that Tab finds, a model in any loop, results that show well."""

from __future__ import annotations

import copy
import json
import pickle  # noqa: TID251 - the caller's own
import pydoc
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import normalize

import contrastive
from contrastive import ContrastiveModel, build_model, evaluate
from contrastive.encoders import CBOW, Timm, encoders
from contrastive.errors import DataError, SpecError, WeightsError
from contrastive.evaluation.comparison import compare
from contrastive.losses import InfoNCE, Sigmoid
from contrastive.losses.functional import infonce, sigmoid
from tests.toys import toy_dict

VERBS = ["answer", "caption", "classify", "compare", "evaluate", "generate", "probe", "rerank"]
VERBS += [
    "calibrate",
    "compositional",
    "search",
    "build_index",
    "add_to_index",
    "remove_from_index",
    "update_index",
    "diagnose",
    "export",
    "shard_data",
    "train",
    "build_model",
    "load_model",
    "load_spec",
]


def network(inputs: int, width: int = 8) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, width))


def lengths(texts):
    return torch.tensor([[float(len(text)), float(text.count("a"))] for text in texts])


def vectors(samples):
    return {"input": torch.stack([torch.as_tensor(x, dtype=torch.float32) for x in samples])}


@pytest.fixture
def given():
    torch.manual_seed(0)
    modules = {"text": network(2), "audio": network(3)}
    return ContrastiveModel.from_modules(
        modules, {"text": lengths, "audio": vectors}, embed_dim=8, loss=Sigmoid()
    )


@pytest.fixture
def toy(tmp_path):
    torch.manual_seed(0)
    spec = toy_dict(tmp_path / "data", images=20)
    return build_model(spec), contrastive.RunSpec.model_validate(spec)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_a_function_that_dir_lists_and_help_explains(name):
    function = getattr(contrastive, name)
    assert callable(function)
    assert not isinstance(function, type(contrastive))
    assert name in dir(contrastive)
    assert name in contrastive.__all__
    page = pydoc.plain(pydoc.render_doc(function))
    assert "Args:" in page
    assert f"    {name}(" in pydoc.plain(pydoc.render_doc(contrastive))


def test_modules_of_ones_own_are_a_model(given):
    texts, sounds = ["a dog", "banana"], [np.arange(3.0), np.ones(3)]
    expected = normalize(given.tower("text").encoder.module(lengths(texts)), dim=-1)
    assert torch.allclose(given.embed("text", texts), expected)
    assert given.embed("audio", sounds).shape == (2, 8)
    assert "text: Given 8 -> Identity 8" in repr(given)
    with pytest.raises(WeightsError, match="a module that was given, so no spec can rebuild it"):
        given.save("anywhere")
    state = given.state_dict()
    given.load_state_dict(state)


def test_modules_that_do_not_fit_are_refused():
    with pytest.raises(SpecError, match="text has a module or a preprocess, but not both"):
        ContrastiveModel.from_modules({"text": network(2)}, {"audio": vectors}, embed_dim=8)
    wide = {"text": network(2, 9), "audio": network(3)}
    model = ContrastiveModel.from_modules(wide, {"text": lengths, "audio": vectors}, embed_dim=8)
    with pytest.raises(SpecError, match=r"returns shape \(8, 9\), not \[B, 8\]; set embed_dim"):
        model.embed("text", "a dog")
    with pytest.raises(SpecError, match="text has nothing to be compared with"):
        ContrastiveModel.from_modules({"text": network(2)}, {"text": lengths}, embed_dim=8)


class Returns(nn.Module):
    """A module that does something to the output of a good one."""

    def __init__(self, change):
        super().__init__()
        self.network, self.change = network(2), change

    def forward(self, x):
        return self.change(self.network(x))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda y: y.mean(0, keepdim=True), "a batch of 8 samples gives 1 embeddings"),
        (lambda y: y[1:], "a batch of 8 samples gives 7 embeddings"),
        (lambda y: y.long(), "towers.text: the module returns torch.int64, not"),
        (lambda y: y.detach().numpy(), "towers.text: the module returns float32, not"),
    ],
)
def test_a_module_returns_a_row_of_floats_for_each_sample(change, said):
    modules = {"text": Returns(change), "audio": network(3)}
    model = ContrastiveModel.from_modules(modules, {"text": lengths, "audio": vectors}, embed_dim=8)
    with pytest.raises(SpecError, match=said):
        model.embed("text", ["a dog", "a cat", "two birds"])


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_model_of_modules_is_copied_and_pickled(copied, given):
    other = copied(given)
    texts, sounds = ["a dog", "banana"], [np.arange(3.0), np.ones(3)]
    assert other.embed("text", texts).equal(given.embed("text", texts))
    assert other.embed("audio", sounds).equal(given.embed("audio", sounds))
    assert other.spec == given.spec
    assert hash(other.spec) == hash(given.spec)
    with torch.no_grad():
        next(other.tower("text").encoder.parameters()).zero_()
    assert not other.embed("text", texts).equal(given.embed("text", texts))
    with pytest.raises(
        SpecError, match=r"towers.text: this Sequential was given to from_modules, s"
    ):
        build_model(given.spec)


def test_a_model_of_modules_trains_in_ddp(given, tmp_path):
    batch = {"text": {"x": torch.randn(2, 2)}, "audio": {"input": torch.randn(2, 3)}}
    expected = given(**batch)["loss"]
    init = f"file://{tmp_path / 'init'}"
    torch.distributed.init_process_group("gloo", init_method=init, rank=0, world_size=1)
    try:
        loss = nn.parallel.DistributedDataParallel(given)(**batch)["loss"]
        loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    assert torch.allclose(loss, expected)
    assert all(p.grad is not None for p in given.parameters())


@pytest.mark.parametrize("name", ["", "a.b", "keys", "training", "ids", "self", "label"])
def test_a_name_that_no_modality_can_have_is_refused(name):
    with pytest.raises(SpecError, match=re.escape(f"towers: {name!r} cannot name a modality")):
        ContrastiveModel.from_modules(
            {name: network(2), "audio": network(3)}, {name: lengths, "audio": vectors}, embed_dim=8
        )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"modules": [network(2)]}, "from_modules: modules is a list; give a dict by modality"),
        ({"preprocess": lengths}, "from_modules: preprocess is a function; give a dict"),
        ({"text": lambda x: x}, "from_modules: the module of text is a function; give an nn.Modul"),
        ({"text": nn.Linear}, "from_modules: the module of text is the class Linear; give an nn."),
        ({"text": None}, "from_modules: the module of text is None; give an nn.Module"),
        ({"text": CBOW()}, "from_modules: the module of text is a CBOW; give an nn.Module"),
        ({1: network(2)}, "from_modules: 1 names no modality; give a text, such as 'image'"),
        ({"of text": None}, "from_modules: the preprocess of text is None; give a function"),
        ({"of text": CBOW()}, "from_modules: the preprocess of text is a CBOW; give a function"),
        ({"embed_dim": 0}, "ModelSpec: embed_dim: Input should be greater than 0"),
        ({"loss": InfoNCE().build()}, "ModelSpec: loss: needs the kind loss, not an nn.Module (In"),
        (
            {"loss": InfoNCE},
            "ModelSpec: loss: needs the kind loss, not a class; write InfoNCE(...)",
        ),
        ({"pairs": "text"}, "ModelSpec: pairs: Input should be a valid tuple"),
    ],
)
def test_what_is_no_module_or_preprocess_is_refused_in_one_line(wrong, said):
    how = {"modules": {"text": network(2), "audio": network(3)}, "embed_dim": 8}
    how["preprocess"] = {"text": lengths, "audio": vectors}
    for name, value in wrong.items():
        if name in (*how, "loss", "pairs"):
            how[name] = value
        elif name == "of text":
            how["preprocess"]["text"] = value
        else:
            how["modules"][name] = value
    with pytest.raises(SpecError) as error:
        ContrastiveModel.from_modules(**how)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (
            [[1.0, 2.0]],
            "towers.text: preprocess returns list; return a tensor, or a dict of tensors",
        ),
        ({"input": [[1.0, 2.0]]}, "towers.text: preprocess returns list as input; return a tensor"),
        (
            torch.ones(3, 2),
            r"towers.text: preprocess returns the shape \(3, 2\) for 1 samples; ret",
        ),
    ],
)
def test_a_preprocess_that_returns_something_else_is_refused(returned, said):
    model = ContrastiveModel.from_modules(
        {"text": network(2), "audio": network(3)},
        {"text": lambda _: returned, "audio": vectors},
        embed_dim=8,
    )
    with pytest.raises(SpecError, match=said):
        model.embed("text", "a dog")


def test_forward_gives_the_loss_of_a_loop_of_ones_own(given):
    texts, sounds, ids = (
        ["a", "bb", "aab"],
        list(np.random.default_rng(0).random((3, 3))),
        [1, 1, 2],
    )
    batch = {
        "text": given.tower("text").encoder.preprocess(texts),
        "audio": given.tower("audio").encoder.preprocess(sounds),
    }
    out = given(**batch, ids=torch.tensor(ids))
    a, b = (given.tower(m)(**inputs) for m, inputs in batch.items())
    expected = sigmoid(
        a, b, torch.tensor(ids), log_scale=given.loss.log_scale, bias=given.loss.bias
    )
    assert torch.allclose(out["loss"], expected)
    assert torch.allclose(out["embeddings"]["text"], a)
    out["loss"].backward()
    assert all(p.grad is not None for p in given.parameters())
    with torch.no_grad():
        given.loss.log_scale.fill_(50.0)
    given.train()(**batch)
    assert given.scale == pytest.approx(given.spec.loss.max_scale)
    with pytest.raises(SpecError, match="forward: no inputs for audio; give text, audio"):
        given(text=batch["text"])
    with pytest.raises(SpecError, match="no image tower"):
        given(**batch, image=batch["text"])


def test_two_views_are_two_inputs():
    torch.manual_seed(0)
    model = ContrastiveModel.from_modules(
        {"text": network(2)}, {"text": lengths}, embed_dim=8, pairs=[("text", "text")]
    )
    one, two = ({"x": torch.randn(4, 2)} for _ in range(2))
    loss = model(text=[one, two])["loss"]
    expected = infonce(model.tower("text")(**one), model.tower("text")(**two), temperature=0.07)
    assert torch.allclose(loss, expected)


@pytest.mark.parametrize("temperature", [0.07, torch.tensor(0.07), np.float64(0.07)])
def test_a_loss_takes_a_temperature(temperature):
    torch.manual_seed(0)
    a, b = (normalize(torch.randn(6, 5, dtype=torch.float64), dim=1) for _ in range(2))
    log_scale = -torch.tensor(0.07, dtype=torch.float64).log()
    expected = infonce(a, b, log_scale=log_scale)
    assert torch.allclose(infonce(a, b, temperature=temperature), expected, rtol=1e-6)
    assert torch.allclose(infonce(a, b, log_scale=float(log_scale)), expected)
    expected = sigmoid(a, b, log_scale=log_scale, bias=torch.tensor(-10.0))
    assert torch.allclose(sigmoid(a, b, temperature=temperature, bias=-10.0), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "give one of log_scale and temperature"),
        ({"log_scale": 2.0, "temperature": 0.1}, "give one of log_scale and temperature"),
        ({"temperature": 0.0}, "temperature is 0.0; it has to be above 0"),
        ({"temperature": float("inf")}, "temperature is inf; give one number"),
        ({"temperature": "0.07"}, "temperature is '0.07'; give one number"),
        (
            {"temperature": torch.ones(2)},
            r"temperature has shape \(2,\) and type torch.float32; give one real number",
        ),
        ({"log_scale": [2.0]}, r"log_scale is \[2.0\]; give one number"),
    ],
)
def test_a_temperature_is_given_once(how, said):
    with pytest.raises(ValueError, match=said):
        infonce(torch.eye(3), torch.eye(3), **how)


def test_objects_show_in_a_few_lines(toy):
    model, spec = toy
    shown = repr(model)
    assert len(shown.splitlines()) == 4
    assert "372,688 are frozen, on cpu" in shown
    assert "image: Timm " in shown
    assert "(frozen: encoder)" in shown
    assert repr(spec.training) == "TrainingSpec(epochs=2, batch_size=16, lr=0.01, workers=0)"
    assert repr(CBOW()) == "CBOW()"
    assert len(repr(spec)) < 700
    assert repr(encoders).startswith("<registry of encoders: timm, hf-image, ")


def test_a_report_shows_its_metrics_and_is_a_frame(toy):
    model, spec = toy
    report = evaluate(model, spec.data.build("test"), split="test")
    assert repr(report).startswith("EvaluationReport(test: image to text R@1 ")
    assert "\n" not in repr(report)
    frame = report.to_pandas()
    assert list(frame.columns) == ["split", "metric", "value", "low", "high", "chance"]
    recall = report.retrieval["text_to_image"].recall[5]
    row = frame[frame["metric"] == "text_to_image R@5"].iloc[0]
    assert (row["value"], row["low"], row["chance"]) == (recall.value, recall.low, recall.chance)
    html = report._repr_html_()
    assert html.count("<tr>") == len(frame) + 1
    assert "<td>text_to_image R@5</td>" in html


def test_a_comparison_is_a_frame_and_its_names_are_escaped(toy, tmp_path):
    model, _ = toy
    image = next((tmp_path / "data").rglob("*.jpg"))
    found = compare({"a<b": model, "two": model}, image, ["model", "image"])
    assert repr(found) == "Comparison(a<b, two: agree on 1 of 1 images)"
    frame = found.to_pandas()
    assert list(frame.columns) == ["image", "model", "class", "probability"]
    assert list(frame["model"]) == ["a<b", "a<b", "two", "two"]
    assert list(frame["class"]) == ["model", "image"] * 2
    assert list(frame["probability"])[:2] == found.by_image("a<b")[0]
    assert set(frame["image"]) == {str(image)}
    assert "<td>a&lt;b</td>" in found._repr_html_()
    again = pickle.loads(pickle.dumps(found))
    assert again.as_dict() == found.as_dict()
    assert len({found, found, again}) == 2


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Timm("resnet18"), "Timm: fields are given by name, such as name='resnet18'"),
        (lambda: InfoNCE()(1, 2), r"InfoNCE describes a component and is none; build it first"),
    ],
)
def test_a_config_says_how_it_is_used(make, said):
    with pytest.raises(SpecError, match=said):
        make()


def test_a_spec_is_loaded_by_its_path_alone(tmp_path):
    fields = toy_dict(tmp_path / "data", images=4)
    (tmp_path / "run.yaml").write_text(json.dumps(fields))
    (tmp_path / "model.yaml").write_text(json.dumps(fields["model"]))
    run = contrastive.load_spec(tmp_path / "run.yaml", overrides=["training.epochs=9"])
    assert run == contrastive.load_spec(
        contrastive.RunSpec, tmp_path / "run.yaml", ["training.epochs=9"]
    )
    assert run.training.epochs == 9
    assert contrastive.load_spec(str(tmp_path / "model.yaml")) == run.model


def test_search_takes_samples_in_memory(toy):
    model, spec = toy
    samples = spec.data.build("test")
    rows = [samples[i] for i in range(len(samples))]
    words = ["a cat", "a red circle", "a dog"]
    found = contrastive.search(model, "a red circle", texts=words, find="text", k=2)
    assert found[0].found == found[0].sample == "a red circle"
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert len(found) == 2
    images = list(dict.fromkeys(row["image"] for row in rows))
    by_words = contrastive.search(model, "a red circle", images=images)
    expected = model.embed("text", "a red circle") @ model.embed("image", images).T
    assert [hit.similarity for hit in by_words] == pytest.approx(
        expected.sort(descending=True).values[0].tolist(), abs=1e-5
    )
    assert {hit.sample for hit in by_words} == set(images)
    assert contrastive.search(model, "a red circle", samples=samples)[0].found == by_words[0].found
    with Image.open(images[0]) as image:
        by_image = contrastive.search(model, image, texts=words)
    assert by_image == contrastive.search(model, images[0], texts=words)
    with pytest.raises(DataError, match="nothing to search: give images, texts or samples"):
        contrastive.search(model, "a dog")
    with pytest.raises(DataError, match="a dog: text finds image; to search a list"):
        contrastive.search(model, "a dog", texts=words)


def test_rows_that_are_not_normalised_are_told_of_once():
    a, b = torch.full((4, 3), 2.0), normalize(torch.ones(4, 3), dim=-1)
    loss = InfoNCE().build()
    with pytest.warns(UserWarning, match=r"rows of a are not L2-normalised \(one has length 3.464"):
        loss(a, b)
    loss(a, b)
    fine = InfoNCE().build()
    fine(b.bfloat16(), b.bfloat16())
    with pytest.warns(UserWarning, match="rows of b .* length nan"):
        InfoNCE().build()(b, b * torch.nan)
