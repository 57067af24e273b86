"""Whole models of open_clip: what follows ``open_clip:`` to the spec of both halves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.interface import SpecError, dual_spec, local_folder
from contrastive_openclip import OpenCLIPImage, OpenCLIPText
from contrastive_openclip.checkpoints import checkpoint_of

if TYPE_CHECKING:
    from contrastive.interface import ModelSpec


def spec_of(name: str) -> ModelSpec:
    """Return the spec of a model.

    Raises:
        SpecError: there is no such architecture or tag.
        WeightsError: a file is missing or a pickle; says how to supply it.
    """
    who = f"open_clip:{name}"
    fields = _fields(name)
    image, text = OpenCLIPImage.model_validate(fields), OpenCLIPText.model_validate(fields)
    embed_dim, file = checkpoint_of(image, who)
    return dual_spec(image, text, embed_dim=embed_dim, files=[file], who=who)


def _fields(name: str) -> dict[str, Any]:
    """Return the fields of both halves."""
    architecture, at, file = name.partition("@")
    if local := local_folder(name):
        return {"name": f"local-dir:{local}"}
    if ":" in name:
        return {"name": name}
    if at:
        return {"name": architecture, "weights": Path(file).expanduser().absolute()}
    architecture, slash, tag = name.rpartition("/")
    if not slash:
        msg = f"open_clip:{name}: name its weights, too: {name}/TAG or {name}@FILE"
        raise SpecError(msg)
    return {"name": architecture, "tag": tag}
