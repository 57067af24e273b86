"""Types of models of transformers: of texts, and dual ones."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers as t
from transformers.models.auto import modeling_auto

from contrastive.encoders import HFDualImage, HFDualText, HFText
from tests import duals
from tests.sweep.judge import Candidate
from tests.sweep.tiny_models import TEXT, config_of, save, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEVERAL = ("vision", "audio", "image", "video", "speech", "omni", "tokenizer", "_vl")


def texts() -> dict[str, Callable[[Path], Candidate]]:
    """Return a candidate for each type of AutoModel that reads texts alone."""
    tasks = ("TEXT_ENCODING", "MASKED_LM", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM")
    tables = [getattr(modeling_auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {}) for task in tasks]
    types = {name for table in tables for name in table} & {*modeling_auto.MODEL_MAPPING_NAMES}
    return {f"hf-text {name}": partial(text, name) for name in sorted(types) if _is_text(name)}


def _is_text(model_type: str) -> bool:
    kind: Any = t.CONFIG_MAPPING[model_type]
    parts = [*getattr(kind, "sub_configs", {})]
    return not any(word in name for word in SEVERAL for name in [model_type, *parts])


def text(model_type: str, folder: Path) -> Candidate:
    """Make a text model, its hidden states averaged."""
    model = save(config_of(model_type, TEXT), folder)
    tokenizer().save_pretrained(folder)
    words = t.AutoTokenizer.from_pretrained(folder)  # of some types it is another class
    if model.config.is_encoder_decoder:
        model = model.get_encoder()

    def theirs(sample: str) -> torch.Tensor:
        taken = encoder.preprocess.max_length
        tokens = words(sample, truncation=True, max_length=taken, return_tensors="pt")
        return model(**tokens).last_hidden_state.mean(1)

    with torch.no_grad():
        model(**words("red", return_tensors="pt"))
    spec = HFText(name=str(folder))
    encoder: Any = spec.build()
    return Candidate(spec, theirs)


def both() -> dict[str, Callable[[Path], Candidate]]:
    """Return two candidates for each dual model, its halves."""
    families = duals.FAMILIES | duals.OTHERS
    return {
        f"hf-dual-{modality} {name}": partial(half, name, modality)
        for name in families
        for modality in ("image", "text")
    }


def half(family: str, modality: str, folder: Path) -> Candidate:
    """Make a half of a dual model."""
    (duals.FAMILIES | duals.OTHERS)[family](folder / "model")
    name = str(folder / "model")
    # by another implementation of attention, AIMv2 looks ahead in a text
    attention = {"attn_implementation": "eager"} if family == "aimv2" else {}
    model = t.AutoModel.from_pretrained(name, **attention).eval()
    processor = t.AutoProcessor.from_pretrained(name)
    spec = HFDualImage(name=name) if modality == "image" else HFDualText(name=name)
    encoder: Any = spec.build()

    def theirs(sample: Any) -> torch.Tensor:
        if modality == "image":
            inputs = processor.image_processor(sample, return_tensors="pt")
            rows = model.get_image_features(**inputs).pooler_output
        else:
            length = encoder.preprocess.max_length
            cut = {"padding": "max_length", "truncation": True, "max_length": length}
            tokens = processor.tokenizer([sample], **cut, return_tensors="pt")
            taken = {name: tokens[name] for name in tokens if name in encoder.takes}
            rows = model.get_text_features(**taken).pooler_output
        return rows[:, 0] if rows.ndim == 3 else rows

    return Candidate(spec, theirs, texts=[*duals.CAPTIONS[:4], "red " * 100])
