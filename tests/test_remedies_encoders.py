"""What is told of an encoder is done, and then it encodes."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
import transformers
from safetensors.torch import load_file

from contrastive import load_model
from contrastive.encoders import HFImage, HFText, SentenceTransformers, Timm, encoders
from contrastive.errors import ContrastiveError
from tests import duals
from tests.tiny_encoders import bert_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_seed", "offline")]


def told(act) -> str:
    with pytest.raises((ContrastiveError, ValueError)) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def built(fields):
    return lambda: encoders[fields["type"]](
        **{k: v for k, v in fields.items() if k != "type"}
    ).build()


FIELDS = [  # an encoder in MODELS, what is told, and the fields that it names
    (
        {"type": "hf-text", "name": "MODELS/distilbert", "pooling": "pooler"},
        "set pooling to mean",
        {"pooling": "mean"},
    ),
    (
        {"type": "hf-text", "name": "MODELS/distilbert", "pooling": "pooler"},
        "or cls",
        {"pooling": "cls"},
    ),
    (
        {"type": "hf-image", "name": "MODELS/resnet", "pooling": "cls"},
        "set pooling to mean",
        {"pooling": "mean"},
    ),
    (
        {"type": "hf-text", "name": "MODELS/gpt2", "pooling": "cls"},
        "choose another pooling (mean)",
        {"pooling": "mean"},
    ),
    (
        {"type": "hf-text", "name": "MODELS/bert", "prompt": "a dog and a cat ", "max_length": 5},
        "or a larger max_length",
        {"max_length": 20},
    ),
    (
        {"type": "hf-text", "name": "MODELS/bert", "max_length": 25},
        "25 is more than the 24",
        {"max_length": 24},
    ),
    (
        {"type": "timm", "name": "test_vt", "pretrained": False},
        "did you mean test_vit",
        {"name": "test_vit"},
    ),
    ({"type": "timm", "name": "test_vit4"}, "or pretrained to false", {"pretrained": False}),
    (
        {"type": "timm", "name": "MODELS/timm"},
        "set name to local-dir:MODELS/timm",
        {"name": "local-dir:MODELS/timm"},
    ),
    (
        {"type": "timm", "name": "MODELS/vit"},
        "set name to local-dir:MODELS/vit",
        {"name": "local-dir:MODELS/timm"},
    ),
    (
        {"type": "timm", "name": "local-dir:MODELS/vit"},
        "set type to hf-image, name to it",
        {"type": "hf-image", "name": "MODELS/vit"},
    ),
    (
        {"type": "timm", "name": "owner/name.pt"},
        "see timm.list_models()",
        {"name": "test_vit", "pretrained": False},
    ),
    (
        {"type": "timm", "name": "test_vit.r160_in1k"},
        "or name to local-dir:FOLDER",
        {"name": "local-dir:MODELS/timm"},
    ),
    (
        {"type": "timm", "name": "test_vit.r160_in1k"},
        "set weights to its safetensors file",
        {"name": "test_vit", "weights": "MODELS/timm/model.safetensors"},
    ),
    (
        {"type": "hf-text", "name": "MODELS/../none"},
        "or name another folder",
        {"name": "MODELS/bert"},
    ),
    ({"type": "hf-text", "name": "a/b"}, "or give a local folder as name", {"name": "MODELS/bert"}),
    (
        {
            "type": "sentence-transformers",
            "name": "MODELS/sentences",
            "prompt": "x",
            "prompt_name": "cap",
        },
        "give one of them",
        {"prompt": None},
    ),
    (
        {"type": "sentence-transformers", "name": "MODELS/sentences", "prompt_name": "c"},
        "it has: query, document, cap",
        {"prompt_name": "cap"},
    ),
]


@pytest.mark.parametrize(("wrong", "said", "right"), FIELDS)
def test_fields_of_an_encoder_are_those_that_are_told(models, wrong, said, right):
    first, then = (
        {k: v.replace("MODELS", str(models)) if isinstance(v, str) else v for k, v in x.items()}
        for x in (wrong, wrong | right)
    )
    message = told(built(first))
    assert said.replace("MODELS", str(models)) in message, message
    built({k: v for k, v in then.items() if v is not None})()


def downloaded(source: Path, folder: Path, name: str, revision: str = "main") -> None:
    """Lay a model out as ``hf download`` does."""
    place = folder / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, place / "snapshots" / "0123")
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text("0123")


HUB = [
    (HFText, "bert", "", lambda name: HFText(name=name).build()),
    (HFText, "bert", "v1", lambda name: HFText(name=name, revision="v1").build()),
    (HFImage, "vit", "", lambda name: HFImage(name=name).build()),
    (SentenceTransformers, "sentences", "", lambda name: SentenceTransformers(name=name).build()),
    (Timm, "timm", "", lambda name: Timm(name=f"hf-hub:{name}").build()),
    (load_model, "clip", "", lambda name: load_model(f"hf:{name}")),
]


@pytest.mark.parametrize(("kind", "model", "revision", "load"), HUB)
def test_what_is_not_there_is_downloaded_by_the_command_that_is_told(
    models, tmp_path, kind, model, revision, load
):
    said = told(lambda: load("owner/name"))
    command = re.search("run `hf download (.*)` on a connected machine", said)[1].split(
        " --revision "
    )
    assert command == ["owner/name", *([revision] if revision else [])]
    downloaded(models / model, tmp_path / "hub", *command)
    load("owner/name")


def test_a_local_folder_is_a_pretrained_model_as_is_told(models):
    assert told(lambda: load_model("hf:owner/name")).endswith("or give a local folder: hf:FOLDER")
    load_model(f"hf:{models / 'clip'}")


def test_a_model_with_a_pickle_on_the_hub_is_converted_as_is_told(models, tmp_path):
    source = shutil.copytree(models / "bert", tmp_path / "source")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    shutil.copytree(source, tmp_path / "folder")  # as hf download NAME --local-dir FOLDER does
    (source / "pytorch_model.bin").unlink()  # which is not asked for
    said = told(HFText(name=str(source)).build)
    first = "convert a model that you trust: hf download NAME --local-dir FOLDER, and in Python "
    code, last = said.partition(first)[2].split(", then ")
    assert last == "give FOLDER as name"
    exec(code, {"transformers": transformers, "FOLDER": str(tmp_path / "folder")})
    HFText(name=str(tmp_path / "folder")).build()


@pytest.mark.parametrize("remedy", ["resize all to one height and width", "crop them"])
def test_a_processor_gives_images_of_one_size_as_is_told(models, tmp_path, remedy):
    folder = shutil.copytree(models / "clip", tmp_path / "clip")

    def save(**how):
        transformers.CLIPImageProcessor(**how).save_pretrained(folder)
        return HFImage(name=str(folder), pooling="pooler").build

    assert remedy in told(save(size={"shortest_edge": 32}, do_center_crop=False))
    if remedy == "crop them":
        save(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})()
    else:
        save(size={"height": 32, "width": 32}, do_center_crop=False)()


def test_the_text_part_of_a_siglip_is_read_by_the_encoder_that_is_told(tmp_path):
    duals.FAMILIES["siglip"](tmp_path / "siglip")
    kind = told(HFText(name=str(tmp_path / "siglip")).build).rpartition("use ")[2]
    encoders[kind](name=str(tmp_path / "siglip")).build()


@pytest.mark.parametrize("task", ["query", "document"])
def test_a_model_with_routes_is_given_a_task_as_is_told(tmp_path, task):
    library = pytest.importorskip("sentence_transformers")
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    words = bert_tokenizer().backend_tokenizer
    parts = {
        name: [modules.StaticEmbedding(words, embedding_dim=8)] for name in ("query", "document")
    }
    model = library.SentenceTransformer(
        modules=[modules.Router(parts, allow_empty_key=False)], device="cpu"
    )
    model.save_pretrained(str(tmp_path), create_model_card=False)
    said = told(SentenceTransformers(name=str(tmp_path)).build)
    assert "; set task to query or document" in said
    SentenceTransformers(name=str(tmp_path), task=task).build()
