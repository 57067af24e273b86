"""Dual models of transformers: a repository or a folder to the spec of the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.config.stored import export_in
from contrastive.encoders import HFDualImage, HFDualText
from contrastive.encoders.hf_dual import load_dual_config
from contrastive.encoders.huggingface import dual_class
from contrastive.encoders.weights import find_weights, weight_files
from contrastive.errors import WeightsError
from contrastive.pretrained.duals import dual_spec, local_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.spec import ModelSpec


def spec_of(name: str) -> ModelSpec:
    """Return the spec of ``OWNER/NAME``, ``OWNER/NAME@REVISION`` or a folder.

    Raises:
        MissingExtra: transformers is not installed.
        SpecError: it is not a dual model, or was never trained.
        WeightsError: a file is missing; says which and how to supply it.
    """
    who = f"hf:{name}"
    require("transformers", extra="transformers")  # before anything is downloaded for it
    if local := local_folder(name):
        name, revision = local, None
    else:
        name, _, revision = name.partition("@")
    folder = find_weights(
        who, name, revision := revision or None, otherwise="give a local folder: hf:FOLDER"
    )
    if not (folder / "config.json").exists():
        msg = f"{who}: has no config.json, so it is no dual model of transformers"
        raise WeightsError("; ".join(filter(None, (msg, export_in(folder)))))
    config = load_dual_config(folder, who)
    return dual_spec(
        HFDualImage(name=name, revision=revision),
        HFDualText(name=name, revision=revision),
        # a SigLIP has no projection: the halves are equally wide
        embed_dim=getattr(config, "projection_dim", None) or config.vision_config.hidden_size,
        files=weight_files(folder, who),
        who=who,
        temperature=_own_temperature(config),
    )


def _own_temperature(config: Any) -> float | None:
    """Return the temperature of a model whose published files have none, by what its class says."""
    forgiven: Sequence[str] = dual_class(config)._keys_to_ignore_on_load_missing or ()
    return config.temperature_init_value if "temperature" in forgiven else None
