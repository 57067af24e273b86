"""Pretrained CLIPs as models of ours: a checkpoint's name to the spec that brings it back.

``hf:NAME`` is a dual model of transformers, ``open_clip:NAME/TAG`` one of open_clip. Its halves
become towers, its projections are part of their encoders, and its logit scale (and bias) those of
the loss; so the spec alone is the model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from contrastive.encoders import Encoder, HFDualImage, HFDualText, OpenCLIPImage, OpenCLIPText
from contrastive.encoders.weights import find
from contrastive.errors import SpecError, WeightsError, require
from contrastive.heads import Identity
from contrastive.losses import InfoNCE, Loss, Sigmoid
from contrastive.spec import ModelSpec, Tower

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST = 100.0  # the bound on the logit scale, unless a checkpoint's own is above it


def is_pretrained(name: str | Path) -> bool:
    """Return whether a model's name is that of a pretrained one, rather than of a folder."""
    return _split(name)[0] in READERS


def pretrained_spec(name: str | Path) -> ModelSpec:
    """Return the spec of a pretrained model; building it gives the model as it was published.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` of the Hugging Face Hub, or
            ``hf:FOLDER``; ``open_clip:ARCHITECTURE/TAG``, ``open_clip:ARCHITECTURE@FILE``,
            ``open_clip:hf-hub:OWNER/NAME`` or ``open_clip:FOLDER``.

    Raises:
        SpecError: the model is not of a kind that can be loaded so.
        WeightsError: a file is missing; says which and how to supply it.
    """
    source, rest = _split(name)
    if source not in READERS:
        msg = f"{name}: a pretrained model's name begins with {' or '.join(READERS)} and a colon"
        raise SpecError(msg)
    return READERS[source](rest)


def _split(name: str | Path) -> tuple[str, str]:
    text = name if isinstance(name, str) else name.as_posix()
    source, _, rest = text.partition(":")
    return source, rest


def _of_transformers(name: str) -> ModelSpec:
    from contrastive.encoders.hf_dual import load_dual_config, weight_files

    who = f"hf:{name}"
    require("transformers", extra="transformers")  # before anything is downloaded for it
    if local := _folder(name):
        name, revision = local, None
    else:
        name, _, revision = name.partition("@")
    folder = find(who, name, revision := revision or None)
    config = load_dual_config(folder, who)
    scale, bias = read_scalars(weight_files(folder, who), who)
    return _spec(
        HFDualImage(name=name, revision=revision),
        HFDualText(name=name, revision=revision),
        # a SigLIP has no projection: the halves are equally wide
        embed_dim=getattr(config, "projection_dim", None) or config.vision_config.hidden_size,
        loss=_loss(scale, bias, who),
    )


def _of_open_clip(name: str) -> ModelSpec:
    from contrastive.encoders.open_clip import checkpoint_of

    who = f"open_clip:{name}"
    source = _open_clip_source(name)
    image, text = OpenCLIPImage.model_validate(source), OpenCLIPText.model_validate(source)
    embed_dim, file = checkpoint_of(image, who)
    scale, bias = read_scalars([file], who)
    return _spec(image, text, embed_dim=embed_dim, loss=_loss(scale, bias, who))


def _open_clip_source(name: str) -> dict[str, Any]:
    """Return the fields of the encoders."""
    architecture, at, file = name.partition("@")
    if local := _folder(name):
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


def _folder(name: str) -> str:
    """Return the absolute path of a local folder, which a saved model finds from anywhere.

    What only looks like a folder is one, too; that it is not there is said when it is read.
    """
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_dir() or name.startswith((".", "/", "~")) else ""


def read_scalars(files: Sequence[Path], who: str) -> tuple[float, float | None]:
    """Return the logit scale of a checkpoint, and its bias if it has one.

    Raises:
        WeightsError: the files cannot be read, or have no logit scale.
    """
    found: dict[str, float] = {}
    for file in files:
        try:
            with cast("Any", safe_open)(file, "pt") as weights:  # it has no types
                names = {"logit_scale", "logit_bias"} & {*weights.keys()}
                found |= {name: weights.get_tensor(name).double().item() for name in names}
        except (OSError, SafetensorError) as error:
            msg = f"{who}: {file}: not a readable safetensors file: {error}"
            raise WeightsError(msg) from None
    if "logit_scale" not in found:
        msg = f"{who}: {files[0].parent} has no logit_scale, so it is no contrastive checkpoint"
        raise WeightsError(msg)
    return math.exp(found["logit_scale"]), found.get("logit_bias")


def _loss(scale: float, bias: float | None, who: str) -> Loss:
    """Return the loss whose logits are those of a checkpoint."""
    if scale < 1:
        msg = f"{who}: its logit scale, {scale:g}, is below 1, so it was never trained"
        raise SpecError(msg)
    temperature, bound = 1 / scale, max(LARGEST, scale)
    if bias is None:
        return InfoNCE(temperature=temperature, max_scale=bound)
    return Sigmoid(temperature=temperature, max_scale=bound, bias=bias)


def _spec(image: Encoder, text: Encoder, *, embed_dim: int, loss: Loss) -> ModelSpec:
    towers = {
        encoder.modality: Tower(encoder=encoder, head=Identity(), frozen="all")
        for encoder in (image, text)
    }
    return ModelSpec(embed_dim=embed_dim, towers=towers, loss=loss)


READERS = {"hf": _of_transformers, "open_clip": _of_open_clip}
