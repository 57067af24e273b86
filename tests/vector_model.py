"""A model of two modalities that are vectors."""

from __future__ import annotations

import torch

from contrastive import ContrastiveModel


def _inputs(samples):
    return {"input": torch.stack([torch.as_tensor(each, dtype=torch.float32) for each in samples])}


def vector_model(width):
    """Return a model of sounds and motions, which it takes as they are."""
    modules = {"sound": torch.nn.Identity(), "motion": torch.nn.Identity()}
    both = {"sound": _inputs, "motion": _inputs}
    return ContrastiveModel.from_modules(modules, both, embed_dim=width).eval()
