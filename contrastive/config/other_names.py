"""What a thing is called elsewhere: papers, open_clip, transformers, timm, Lightning."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIELDS: Mapping[str, tuple[str, ...]] = {
    "lr": ("learning_rate", "base_lr", "max_lr", "peak_lr"),
    "epochs": ("num_train_epochs", "n_epochs"),
    "batch_size": ("bs", "per_device_train_batch_size"),
    "weight_decay": ("wd", "decay"),
    "warmup": ("warmup_ratio", "warmup_steps"),
    "clip_norm": ("grad_clip", "max_grad_norm", "grad_clip_norm", "gradient_clip_val"),
    "precision": ("amp", "fp16", "bf16", "mixed_precision", "dtype"),
    "micro_batch": ("accum_freq",),
    "accumulate": ("gradient_accumulation_steps", "accumulate_grad_batches"),
    "checkpoint_activations": ("grad_checkpointing", "gradient_checkpointing"),
    "embed_dim": ("dim", "projection_dim", "embedding_dim", "output_dim"),
    "encoder": ("model", "backbone"),
    "head": ("projection", "projector"),
    "frozen": ("lock", "locked", "requires_grad", "trainable"),
    "temperature": ("tau", "logit_scale", "scale"),
    "label_smoothing": ("smoothing",),
    "folder": ("path", "root", "data_dir", "dir"),
    "final_split": ("test_split",),
}
"""Other names of a field. They need not mean the same: the field's documentation is what counts."""

NO_FIELDS: Mapping[str, str] = {
    "optimizer": "it is AdamW, which cannot be chosen; its fields are lr and weight_decay",
    "betas": "those of AdamW cannot be chosen; its fields are lr and weight_decay",
    "scheduler": "the learning rate rises over warmup and falls by a cosine to 0, always",
    "gpus": "start one process a GPU: torchrun --nproc-per-node N -m contrastive train SPEC",
}
"""What a field cannot say, where there is ``lr``: the remedy."""
ALIASES = {
    "optim": "optimizer",
    "lr_scheduler": "scheduler",
    "schedule": "scheduler",
    "num_gpus": "gpus",
    "devices": "gpus",
}

VISION = (
    r"(?:[\w]*resne|vit|efficientnet|convnext|mobilenet|swin|deit|regnet|densenet|beit|eva|maxvit)"
)
TEXT = r"(?:\w*bert|gpt|t5|mpnet|bge|e5|gte|xlm|deberta)"
CLIP = "openai/clip-vit-base-patch32"
ENCODERS: Mapping[str, str] = {
    r"(?:openai-?)?clip": f"{{type: hf-image, name: {CLIP}}} or {{type: hf-text, name: {CLIP}}}",
    r".+/.+": "{type: hf-text, name: NAME} or {type: hf-image, name: NAME}",
    r"bert": "{type: hf-text, name: google-bert/bert-base-uncased}",
    rf"{TEXT}.+": "{type: hf-text, name: NAME}",
    rf"{VISION}.+": "{type: timm, name: NAME}",
}
"""Patterns of names of models, and the component that takes such; NAME is what was given."""

LOSSES: Mapping[str, str] = {
    r"clip|open-?clip|simclr|nt-?xent|contrastive|cross-?entropy|multiple-?negatives.*": "infonce",
    r"sig-?lip\d?": "sigmoid",
    r"moco": "{type: queue, size: 4096, loss: {type: infonce}}",
    r"mrl": "{type: matryoshka, widths: [64, 128], loss: {type: infonce}}",
    r"triplet.*": "pml-triplet-margin",
}
"""Patterns of losses' names elsewhere."""


def other_name(name: str, fields: Iterable[str]) -> str:
    """Return the field that is called so elsewhere; or nothing."""
    known, asked = set(fields), name.lower()
    found = (field for field, others in FIELDS.items() if field in known and asked in others)
    return next(found, "")


def no_field(name: str, fields: Iterable[str]) -> str:
    """Return what to do instead of setting a field that training does not have; or nothing."""
    asked = ALIASES.get(name.lower(), name.lower())
    return NO_FIELDS.get(asked, "") if "lr" in fields else ""


def component_meant(name: str, patterns: Mapping[str, str], known: Iterable[str]) -> str:
    """Return what to say of a component that is called otherwise here; or nothing."""
    asked = name.lower().replace("_", "-").removesuffix("loss").rstrip("-")
    for pattern, meant in patterns.items():
        if re.fullmatch(pattern, asked) and (meant[0] == "{" or meant in known):
            return meant.replace("NAME", name) if meant[0] == "{" else repr(meant)
    return ""
