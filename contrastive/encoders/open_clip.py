"""Halves of the models of open_clip, projection included; only safetensors are ever loaded.

Shapes: B samples, D the model's shared width, L tokens.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from contrastive.encoders.huggingface import check_whole, measure, quietly
from contrastive.encoders.image import ImageTransform
from contrastive.encoders.module import EncoderModule
from contrastive.encoders.text import as_text, content_hash
from contrastive.encoders.weights import find, loading
from contrastive.errors import SpecError, WeightsError, require

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import Tensor

    from contrastive.encoders import OpenCLIPImage, OpenCLIPText

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
VOCABULARY = ("tokenizer_config.json", "*.json", "*.txt", "*.model")

# of a tokenizer, beside its vocabulary
OPTIONS = ("context_length", "clean_fn", "reduction_fn", "strip_sep_token", "tokenizer_mode")


class OpenCLIPImageModule(EncoderModule):
    """Pixels ``[B, 3, H, W]`` to embeddings ``[B, D]`` before normalisation."""

    modality = "image"

    def __init__(self, spec: OpenCLIPImage) -> None:
        """Load the half and its transform."""
        super().__init__()
        who = f"open-clip-image {spec.name!r}"
        self.model = build_whole(spec, who)
        keep_only(self.model, "visual")
        transforms = require("open_clip.transform", extra="open-clip")
        config = self.model.visual.preprocess_cfg
        transform = transforms.image_transform_v2(
            transforms.PreprocessCfg(**config), is_train=False
        )
        self.preprocess = ImageTransform(transform, f"open_clip {config}")
        self.reproducible = spec.pretrained
        self.out_dim = measure(self, Image.new("RGB", (64, 64)), who)

    def forward(self, image: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.model.encode_image(image)


class OpenCLIPTextModule(EncoderModule):
    """Tokens ``[B, L]`` to embeddings ``[B, D]`` before normalisation."""

    modality = "text"

    def __init__(self, spec: OpenCLIPText) -> None:
        """Load the half and its tokenizer."""
        super().__init__()
        who = f"open-clip-text {spec.name!r}"
        self.model = build_whole(spec, who)
        leave_out(self.model, "visual", "text_decoder", "logit_scale", "logit_bias")
        tokenizer = load_tokenizer(spec, who)
        self.preprocess = TokenizeWhole(tokenizer, _digest(tokenizer))
        self.reproducible = spec.pretrained
        self.out_dim = measure(self, "a picture", who)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return features ``[B, D]``."""
        return self.model.encode_text(tokens)


@dataclass(frozen=True)
class TokenizeWhole:
    """A tokenizer of open_clip, which pads every text to the length that the model takes."""

    tokenizer: Any = field(repr=False)
    digest: str
    """SHA-256 of what the tokenizer does, for the ``repr``."""

    def __call__(self, samples: Sequence[str]) -> dict[str, Tensor]:
        """Return ``{"tokens": [B, L]}``.

        Raises:
            BadSample: a sample is not a text.
        """
        return {"tokens": self.tokenizer([as_text(sample) for sample in samples])}


def load_tokenizer(spec: OpenCLIPText, who: str) -> Any:
    """Return the tokenizer of a model.

    Raises:
        WeightsError: its vocabulary is missing or damaged.
    """
    open_clip = require("open_clip", extra="open-clip")
    place = _place(spec, who)
    texts = model_config(place, who)["text_cfg"]
    if (vocabulary := texts.get("hf_tokenizer_name")) and place == spec.name:
        find(who, vocabulary, files=VOCABULARY)  # else the loader looks for each file, for minutes
    with quietly(), without_log(), loading(who, "the tokenizer"):
        return open_clip.get_tokenizer(place)


def build_whole(spec: OpenCLIPImage | OpenCLIPText, who: str) -> Any:
    """Return a model of open_clip in fp32.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: a file is missing, damaged, a pickle or of another model.
    """
    open_clip = require("open_clip", extra="open-clip")
    file = weights_file(spec, who) if spec.pretrained else None
    place = _place(spec, who)
    config = model_config(place, who)
    tagged: dict[str, Any] = open_clip.get_pretrained_cfg(place, spec.tag) if spec.tag else {}
    if config.get("quick_gelu") and tagged and not tagged.get("quick_gelu"):
        msg = f"{who}: the weights {spec.tag} were trained without the quick GELU of {place}"
        raise SpecError(msg)
    if backbone := config["text_cfg"].get("hf_model_name"):
        find(who, backbone, files=["config.json"])  # else the loader asks the Hub for minutes
    with quietly(), without_log(), loading(who, "the model"):
        model = open_clip.create_model(
            place,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=tagged.get("quick_gelu", False),
            force_preprocess_cfg={step: how for step, how in tagged.items() if step != "size"},
        )
    if file:
        with loading(who, file.name, file.parent):
            missing, unknown = open_clip.load_checkpoint(model, str(file), strict=False)
        check_whole(sorted(missing), file, who)
        if unknown:
            msg = f"{who}: {file} is of another model: it has {unknown[0]} ({len(unknown)} in all)"
            raise WeightsError(msg)
    return model


def checkpoint_of(spec: OpenCLIPImage, who: str) -> tuple[int, Path]:
    """Return the width of a model's embeddings, and the file with its weights.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: a file is missing or a pickle; says how to supply it.
    """
    return int(model_config(_place(spec, who), who)["embed_dim"]), weights_file(spec, who)


def model_config(place: str, who: str) -> dict[str, Any]:
    """Return the config of an architecture, or of ``local-dir:FOLDER``.

    Raises:
        SpecError: there is no such architecture.
        WeightsError: the folder's config is missing or damaged.
    """
    open_clip = require("open_clip", extra="open-clip")
    with loading(who, CONFIG):
        config = open_clip.get_model_config(place)
    if config is None:
        names: list[str] = open_clip.list_models()
        close = difflib.get_close_matches(place, names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see open_clip.list_models()"
        msg = f"{who}: open_clip has no architecture {place}; {hint}"
        raise SpecError(msg)
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
        file = Path(_place(spec, who).partition(":")[2]) / WEIGHTS
    if file.suffix == ".safetensors" and file.is_file():
        return file
    problem = "no such file" if file.suffix == ".safetensors" else "not safetensors"
    source = spec.name if spec.weights or spec.tag else _place(spec, who)
    msg = (
        f"{who}: {file}: {problem}, and pickles are never loaded; convert one that you trust: "
        f"safetensors.torch.save_model(open_clip.create_model({source!r}, 'FILE.pt'), "
        f"{file.with_suffix('.safetensors').name!r})"
    )
    raise WeightsError(msg)


def _published(name: str, tag: str, who: str) -> Path:
    open_clip = require("open_clip", extra="open-clip")
    model_config(name, who)
    config: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        msg = f"{who}: it has no published weights {tag}; it has: {tags}"
        raise SpecError(msg)
    repository, _, pickled = str(config.get("hf_hub", "")).rpartition("/")
    if not repository:
        msg = f"{who}: {tag} is published as a pickle only; convert it and give it as weights"
        raise WeightsError(msg)
    file = str(Path(pickled).with_suffix(".safetensors")) if pickled else WEIGHTS
    return find(who, repository, files=[file]) / file


def _place(spec: OpenCLIPImage | OpenCLIPText, who: str) -> str:
    """Return what open_clip should call the model: an architecture or ``local-dir:FOLDER``."""
    source, colon, rest = spec.name.partition(":")
    if not colon:
        return spec.name
    if source not in ("hf-hub", "local-dir"):
        msg = f"{who}: {source!r} is no source of models; there are hf-hub: and local-dir:"
        raise SpecError(msg)
    repository, _, revision = rest.partition("@") if source == "hf-hub" else (rest, "", "")
    folder = find(who, repository, revision or None, [CONFIG, WEIGHTS, *VOCABULARY])
    return f"local-dir:{folder}"


def keep_only(model: Any, name: str) -> None:
    """Take every part but one out of a model."""
    parts = {path.partition(".")[0] for path, _ in model.named_parameters()}
    parts |= {path.partition(".")[0] for path, _ in model.named_buffers()}
    leave_out(model, *(parts - {name}))


def leave_out(model: Any, *names: str) -> None:
    """Take parts out of a model."""
    for name in names:
        if hasattr(model, name):
            delattr(model, name)


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


def _digest(tokenizer: Any) -> str:
    """Hash everything that a tokenizer does to a text."""
    inner = getattr(tokenizer, "tokenizer", None)
    known = content_hash(inner) if inner else sorted(tokenizer.encoder.items())
    options = {name: getattr(tokenizer, name, None) for name in OPTIONS}
    plain = {name: getattr(option, "__qualname__", option) for name, option in options.items()}
    text = json.dumps([type(tokenizer).__name__, known, plain], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
