"""Models of open_clip by name: their configs, their files and the whole of them, never a pickle."""

from __future__ import annotations

import difflib
import logging
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.interface import (
    SpecError,
    WeightsError,
    check_no_missing_weights,
    find_weights,
    loading_weights,
    quiet_huggingface,
    require,
)

if TYPE_CHECKING:
    from collections.abc import Generator

    from contrastive_openclip import OpenCLIPImage, OpenCLIPText

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
PICKLE = "open_clip_pytorch_model.bin"
PARTS = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
"""What every config has, by kind."""
ATTENTION = (None, "eager", "sdpa")
"""What the config of a text model may ask for: the rest is code, maybe of the Hub."""
VOCABULARY = ("tokenizer_config.json", "*.json", "*.txt", "*.model")
LOCAL = "give local-dir:FOLDER as name"


def build_whole(spec: OpenCLIPImage | OpenCLIPText, who: str) -> Any:
    """Return a model of open_clip in fp32.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: a file is missing, damaged, a pickle or of another model.
    """
    open_clip = require("open_clip", package="contrastive-openclip")
    file = weights_file(spec, who) if spec.pretrained else None
    place = place_of(spec, who)
    config = model_config(place, who)
    tagged: dict[str, Any] = open_clip.get_pretrained_cfg(place, spec.tag) if spec.tag else {}
    if config.get("quick_gelu") and tagged and not tagged.get("quick_gelu"):
        msg = f"{who}: the weights {spec.tag} were trained without the quick GELU of {place}"
        raise SpecError(msg)
    if backbone := config["text_cfg"].get("hf_model_name"):
        _check_backbone(backbone, who)
    with quiet_huggingface(), without_log(), loading_weights(who, "the model"):
        model = open_clip.create_model(
            place,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=tagged.get("quick_gelu", False),
            force_preprocess_cfg={step: how for step, how in tagged.items() if step != "size"},
        )
    if file:
        with loading_weights(who, file.name, file.parent):
            missing, unknown = open_clip.load_checkpoint(model, str(file), strict=False)
        check_no_missing_weights(sorted(missing), file, who)
        if unknown:
            msg = f"{who}: {file} is of another model: it has {unknown[0]} ({len(unknown)} in all)"
            raise WeightsError(msg)
    return model


def _check_backbone(name: str, who: str) -> None:
    """Insist on a text model that is built from its config by code that is installed.

    The loader passes no options on: it would ask on a terminal whether to run code of the Hub.
    """
    transformers = require("transformers", package="contrastive-openclip")
    # otherwise the loader retries the Hub for minutes
    folder = find_weights(who, name, files=["config.json"], otherwise=LOCAL)
    with quiet_huggingface(), loading_weights(who, "config.json", folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    asked = config._attn_implementation
    if asked not in ATTENTION:
        msg = f"{who}: the config of {name} asks for attention by {asked!r}, which is not run"
        raise WeightsError(msg)


def checkpoint_of(spec: OpenCLIPImage, who: str) -> tuple[int, Path]:
    """Return the width of a model's embeddings, and the file with its weights.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: a file is missing or a pickle; says how to supply it.
    """
    return int(model_config(place_of(spec, who), who)["embed_dim"]), weights_file(spec, who)


def model_config(place: str, who: str) -> dict[str, Any]:
    """Return the config of an architecture, or of ``local-dir:FOLDER``.

    Raises:
        SpecError: there is no such architecture.
        WeightsError: the folder's config is missing or damaged.
    """
    open_clip = require("open_clip", package="contrastive-openclip")
    with loading_weights(who, CONFIG):
        config = open_clip.get_model_config(place)
    if config is None:
        names: list[str] = open_clip.list_models()
        close = difflib.get_close_matches(place, names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()"
        msg = f"{who}: open_clip has no architecture {place}; {hint}"
        raise SpecError(msg)
    if not isinstance(config, dict) or PARTS.items() - {
        (part, type(config.get(part))) for part in PARTS
    }:
        msg = f"{who}: {CONFIG} is no config of a model, which has {', '.join(PARTS)}"
        raise WeightsError(msg)
    return config


def weights_file(spec: OpenCLIPImage | OpenCLIPText, who: str) -> Path:
    """Return the safetensors file of a model, downloading it if need be.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: it cannot be found, or is a pickle; says how to supply it.
    """
    if spec.weights:
        file = spec.weights.expanduser()
    elif spec.tag:
        file = _published(spec.name, spec.tag, who)
    else:
        file = Path(place_of(spec, who).partition(":")[2]) / WEIGHTS
    if file.suffix == ".safetensors" and file.is_file():
        return file
    problem = "no such file" if file.suffix == ".safetensors" else "not safetensors"
    source = spec.name if spec.weights or spec.tag else place_of(spec, who)
    pickles = [file] if file.suffix != ".safetensors" else [file.with_name(PICKLE)]
    pickled = next((str(path) for path in pickles if path.is_file()), "FILE.pt")
    msg = (
        f"{who}: {file}: {problem}, and pickles are never loaded; convert one that you trust: "
        f"m = open_clip.create_model({source!r}, load_weights=False); "
        f"open_clip.load_checkpoint(m, {pickled!r}); "  # create_model ignores it beside a folder
        f"safetensors.torch.save_model(m, {str(file.with_suffix('.safetensors'))!r})"
    )
    raise WeightsError(msg)


def _published(name: str, tag: str, who: str) -> Path:
    open_clip = require("open_clip", package="contrastive-openclip")
    model_config(name, who)
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        msg = f"{who}: it has no published weights {tag}; it has: {tags}"
        raise SpecError(msg)
    repository, _, pickled = str(config.get("hf_hub", "")).rpartition("/")
    if not repository:
        msg = (
            f"{who}: {tag} is published as a pickle only; convert one that you trust: "
            f"safetensors.torch.save_model(open_clip.create_model({name!r}, {tag!r}), "
            f"'{name}.safetensors'), and give it as weights, of a whole model as "
            f"open_clip:{name}@{name}.safetensors"
        )
        raise WeightsError(msg)
    file = str(Path(pickled).with_suffix(".safetensors")) if pickled else WEIGHTS
    otherwise = "give its safetensors file as weights, of a whole model as open_clip:NAME@FILE"
    return find_weights(who, repository, files=[file], otherwise=otherwise) / file


def place_of(spec: OpenCLIPImage | OpenCLIPText, who: str) -> str:
    """Return what open_clip should call the model: an architecture or ``local-dir:FOLDER``."""
    source, colon, rest = spec.name.partition(":")
    if not colon:
        return spec.name
    if source not in ("hf-hub", "local-dir"):
        msg = f"{who}: {source!r} is no source of models; there are hf-hub: and local-dir:"
        raise SpecError(msg)
    repository, _, revision = rest.partition("@") if source == "hf-hub" else (rest, "", "")
    folder = find_weights(
        who, repository, revision or None, [CONFIG, WEIGHTS, *VOCABULARY], otherwise=LOCAL
    )
    return f"local-dir:{folder}"


@contextmanager
def without_log() -> Generator[None]:
    """Silence open_clip, which tells the root logger that a model without weights is random."""
    root, nobody = logging.getLogger(), logging.NullHandler()
    root.addHandler(nobody)  # else its first message sets up a handler for good
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
        root.removeHandler(nobody)
