"""What is told of a spec is done to it, and then it is a spec."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from contrastive import ModelSpec, RunSpec, build_model, load_spec
from contrastive.config.arguments import path_of, strings
from contrastive.config.other_names import FIELDS
from contrastive.errors import ContrastiveError
from contrastive.losses import InfoNCE
from tests.toys import tiny_model


def told(act) -> str:
    with pytest.raises((ContrastiveError, ValueError)) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


RUN = """\
model:
  embed_dim: 8
  towers:
    image: {encoder: {type: resnet}, head: {type: linear}}
    text: {encoder: {type: cbow}, head: {type: linear}}
  loss: {type: infonce}
data: {type: lines, file: a}
training:
  epochs: 1
  lr_factors: {}
evaluation:
  templates: ["{} b"]
"""
DATA = "data: {type: lines, file: a}"
TEXTS = [  # a part of the spec, how it is written wrongly, what is told, how that is put right
    ("embed_dim: 8\n", "embed_dim: 8\n ", "indent it as the line above", "embed_dim: 8\n"),
    ("model:\n", "model\n", "write a ':' after its name", "model:\n"),
    ("epochs: 1\n", "epochs:1\n", "write a space after its ':'", "epochs: 1\n"),
    ("  epochs: 1\n", "  lr 1\n", "write a ':' after its name", "  lr: 1\n"),
    ("evaluation:", "  lr 1\nevaluation:", "write name: value", "  lr: 1\nevaluation:"),
    (
        "training:\n  epochs: 1\n  lr_factors: {}",
        "training: {epochs:1}",
        "put a space after its ':'",
        "training: {epochs: 1}",
    ),
    ("file: a", "file: a: b", "a text with ': ' in quotes", "file: 'a: b'"),
    (DATA, "output: a: b\n" + DATA, "put a text with ': ' in quotes", "output: 'a: b'\n" + DATA),
    (
        "evaluation:",
        "output: a\n  b: c\nevaluation:",
        "or put a text of several lines in quotes",
        "output: 'a\n  b: c'\nevaluation:",
    ),
    ("  epochs: 1", "\tepochs: 1", "indent with spaces", "  epochs: 1"),
    ("file: a", "file: @a", "put the text in quotes", "file: '@a'"),
    ("file: a", "file: 'a' b", "put a comma between entries", "file: 'a', holdout: 0.1"),
    ("file: a", "file: {a} b", "a whole text that begins with {, [ or a", "file: '{a} b'"),
    ('"{} b"', "{} b", "or a whole text that begins with {", "'{} b'"),
    ('["{} b"]', "{} b", "put a whole text that begins with {", "['{} b']"),
    ('"{} b"', "b {}", "put a text with {} in quotes", "'b {}'"),
    ("lines, file", "lines file", "put a comma between entries", "lines, file"),
    ("file: a}", "file: a", "close the bracket or quote of line 7", "file: a}"),
    ("  embed_dim", "    embed_dim", "indent it as the lines that it belongs to", "  embed_dim"),
    (
        "lr_factors: {}",
        "lr_factors: {*.bias: 2}",
        "begins with * in quotes",
        "lr_factors: {'*.bias': 2}",
    ),
    ("file: a", 'file: "a\\pb"', "put the text in single quotes", "file: 'a\\pb'"),
    ("file: a}", 'file: "a}', "close the bracket or quote of line 7", 'file: "a"}'),
    ('"{} b"', '"{} b', "close the bracket or quote of line 12", '"{} b"'),
    (
        'templates: ["{} b"]',
        'templates: - "{} b"',
        "on a line of its own",
        'templates:\n  - "{} b"',
    ),
    ("data:", "---\ndata:", "remove the '---'", "data:"),
    ("epochs: 1", "epochs: 1\n  epochs: 2", "given twice, first on line 9", "epochs: 2"),
    (
        "{type: linear}}\n    text",
        "linear}\n    text",
        "write {type: linear}",
        "{type: linear}}\n    text",
    ),
    (
        "  loss:",
        "  pairs: [[image, txt]]\n  loss:",
        "mean 'text'?",
        "  pairs: [[image, text]]\n  loss:",
    ),
    (
        "  loss:",
        "  pairs: [[image, image]]\n  loss:",
        "list one, or leave the tower out",
        "  pairs: [[image, image], [text, image]]\n  loss:",
    ),
    (
        "    text: {encoder: {type: cbow}, head: {type: linear}}\n",
        "",
        "pairs: [[image, image]]",
        "  pairs: [[image, image]]\n",
    ),
    (
        "  loss:",
        "  pairs: [[image, text], [text, image]]\n  loss:",
        "list it once",
        "  pairs: [[image, text]]\n  loss:",
    ),
    (
        "head: {type: linear}}\n    text",
        "head: {type: linear}, lora: {}}\n    text",
        "set frozen: encoder",
        "head: {type: linear}, lora: {}, frozen: encoder}\n    text",
    ),
    ("file: a", "file: https://a.org/b", "give a local path", "file: b"),
    ("file: a", "file: ''", "is empty; give a path", "file: a"),
    ("file: a", "file: ~nobody-of-here/a", "write the whole path", "file: /home/nobody/a"),
]


@pytest.mark.parametrize(("part", "wrong", "said", "right"), TEXTS)
def test_a_spec_is_read_once_it_is_written_as_is_told(tmp_path, part, wrong, said, right):
    assert RUN.count(part) == 1
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace(part, wrong))
    message = told(lambda: load_spec(path))
    assert message.startswith(f"{path}:")
    assert said in message
    path.write_text(RUN.replace(part, right))
    load_spec(path)


SPEC = ModelSpec(**tiny_model("infonce"))
MODEL: Any = tiny_model("infonce")
QUEUE = {"type": "queue", "size": 8}
MRL = {"type": "matryoshka", "widths": [4]}
THREE = {f"t{i}": MODEL["towers"]["text"] for i in range(2)}


def model_with(**changes):
    return lambda: ModelSpec.model_validate(MODEL | changes)


def loss_of(**fields):
    return lambda: build_model(MODEL | {"loss": fields})


def override(text):
    return lambda: SPEC.with_(text)


def in_place(spec):
    spec.embed_dim = 4


def towers_in_place(spec):
    spec.towers["image"] = None


TOWERS = {**SPEC.towers}
IN_PYTHON = [  # what is tried, what is told, and what is done instead
    (model_with(loss=InfoNCE), "write InfoNCE(...)", model_with(loss=InfoNCE())),
    (lambda: InfoNCE()(1, 2), "InfoNCE(...).build()", lambda: InfoNCE().build()),
    (
        lambda: in_place(SPEC),
        "model_copy(update={'embed_dim': ...})",
        lambda: SPEC.model_copy(update={"embed_dim": 4}),
    ),
    (
        lambda: towers_in_place(SPEC),
        "make another spec with another dict: model_copy(update={...})",
        lambda: SPEC.model_copy(update={"towers": {**SPEC.towers}}),
    ),
    (lambda: SPEC.with_("loss"), "write it as a.b=value", override("loss.temperature=0.1")),
    (override("loss.tau=0.1"), "did you mean 'temperature'?", override("loss.temperature=0.1")),
    (lambda: strings("overrides", "a=1"), "in a list", lambda: strings("overrides", ["a=1"])),
    (
        lambda: RunSpec(**MODEL),
        "put it below model:, add data:",
        lambda: RunSpec(model=MODEL, data={"type": "lines", "file": "a"}),
    ),
    (
        lambda: ModelSpec(model=MODEL),
        "give what is below its model:",
        lambda: ModelSpec(**{"model": MODEL}["model"]),
    ),
    (lambda: path_of("x", "~nobody-of-here/a"), "write the whole path", lambda: path_of("x", "/a")),
    (lambda: path_of("x", "a\nb"), "give a path without", lambda: path_of("x", "ab")),
    (lambda: path_of("x", ["a"]), "give a path", lambda: path_of("x", "a")),
    (
        loss_of(**MRL, weights=[1, 2], loss={"type": "infonce"}),
        "give one for each",
        loss_of(**MRL, weights=[1], loss={"type": "infonce"}),
    ),
    (
        loss_of(type="matryoshka", widths=[4, 4], loss={"type": "infonce"}),
        "list each once",
        loss_of(**MRL, loss={"type": "infonce"}),
    ),
    (
        loss_of(**QUEUE, loss={"type": "supcon"}),
        "it has no direction; use infonce",
        loss_of(**QUEUE, loss={"type": "infonce"}),
    ),
    (
        loss_of(**QUEUE, loss=QUEUE | {"loss": {"type": "infonce"}}),
        "one queue is enough",
        loss_of(**QUEUE, loss={"type": "infonce"}),
    ),
    (
        loss_of(**QUEUE, loss={"type": "distillation", "loss": {"type": "infonce"}}),
        "put distillation around queue",
        loss_of(type="distillation", loss=QUEUE | {"loss": {"type": "infonce"}}),
    ),
    (
        loss_of(**MRL, loss={"type": "distillation", "loss": {"type": "infonce"}}),
        "put distillation around matryoshka",
        loss_of(type="distillation", loss=MRL | {"loss": {"type": "infonce"}}),
    ),
    (
        loss_of(type="infonce", exchange="ring", execution="eager"),
        "take execution auto",
        loss_of(type="infonce", exchange="ring", execution="auto"),
    ),
    (
        loss_of(type="infonce", exchange="ring", label_smoothing=0.1),
        "take exchange gather",
        loss_of(type="infonce", exchange="gather", label_smoothing=0.1),
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), IN_PYTHON)
def test_what_is_told_in_python_is_done_next(wrong, said, right):
    assert said in told(wrong)
    right()


def test_a_queue_for_several_pairs_of_modalities_is_its_inner_loss():
    three = MODEL | {"pairs": [["image", "text"], ["text", "text"]]}
    queued = three | {"loss": QUEUE | {"loss": {"type": "infonce"}}}
    assert told(lambda: ModelSpec(**queued)).endswith("take its inner loss")
    ModelSpec(**three | {"loss": queued["loss"]["loss"]})


def test_a_spec_is_loaded_by_its_path_or_by_class_and_path_as_is_told(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(MODEL))
    path = tmp_path / "m.json"
    said = told(lambda: load_spec(path, ModelSpec))
    assert "write load_spec(path) or load_spec(RunSpec, path), with overrides=[...] by name" in said
    assert load_spec(path, overrides=["embed_dim=4"]) == load_spec(ModelSpec, path, ["embed_dim=4"])


def fields_of(kind: Any, place: str = "") -> dict[str, str]:
    """Return where each field of a spec is, by its name."""
    found = {name: f"{place}{name}" for name in kind.model_fields}
    for name in ("model", "training", "evaluation"):
        if name in found:
            found |= fields_of(kind.model_fields[name].annotation, f"{name}.")
    return found


PLACES = fields_of(RunSpec) | {"temperature": "model.loss.temperature"}
PLACES |= {name: f"model.towers.text.{name}" for name in ("encoder", "head", "frozen")}
PLACES |= {"label_smoothing": "model.loss.label_smoothing", "folder": "data.folder"}


def test_a_name_of_another_library_leads_to_a_field_that_is_there(tmp_path):
    data = {"type": "image-folder", "folder": "a"}
    run = RunSpec.model_validate({"model": MODEL, "data": data})
    plain = run.model_dump(mode="json")
    for field, others in FIELDS.items():
        above, _, last = PLACES[field].rpartition(".")
        value = plain
        for key in PLACES[field].split("."):
            value = value[key]
        for other in others:
            wrong = f"{above}.{other}=1"
            assert f"did you mean {last!r}?" in told(lambda: run.with_(wrong))  # noqa: B023
        run.with_(f"{above}.{last}={json.dumps(value)}")


LOSS, IMAGE, TEXT = "model.loss", "model.towers.image.encoder", "model.towers.text.encoder"
NAMES = [(LOSS, name) for name in ("clip", "NTXentLoss", "SigLIP", "siglip2", "moco", "mrl")]
NAMES += [(LOSS, "MultipleNegativesRankingLoss"), (LOSS, "cross_entropy"), (LOSS, "infonec")]
NAMES += [(place, name) for place in (IMAGE, TEXT) for name in ("clip", "openai/clip", "a/b")]
NAMES += [(TEXT, name) for name in ("bert", "roberta-base", "gpt2", "t5-small")]
NAMES += [(IMAGE, name) for name in ("resnet18", "vit_base_patch16_224", "convnext_tiny")]


@pytest.mark.parametrize(("place", "name"), NAMES)
def test_a_component_of_another_library_is_the_one_that_is_told(place, name):
    model = {**MODEL, "embed_dim": 128}
    run = RunSpec.model_validate({"model": model, "data": {"type": "lines", "file": "a"}})
    message = told(lambda: run.with_(f"{place}={{type: {name}}}"))
    meant = re.search(r"did you mean (.*)\?$", message)[1].split(" or ")
    texts = [one if one[0] == "{" else f"{{type: {one}}}" for one in meant]
    fit = [one for one in texts if ("hf-image" if place == TEXT else "hf-text") not in one]
    assert fit
    run.with_(f"{place}={fit[0]}")
