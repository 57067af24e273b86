"""What every source of dual models needs: two halves and a checkpoint's scale to a spec.

The halves become towers, their projections are part of their encoders, and the logit scale (and
bias) of the checkpoint are those of the loss; so the spec alone is the model.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError, safe_open

from contrastive.errors import SpecError, WeightsError
from contrastive.heads import Identity
from contrastive.losses import InfoNCE, Loss, Sigmoid
from contrastive.spec import ModelSpec, Tower

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.encoders import Encoder

SCALARS = ("logit_scale", "logit_bias", "temperature")  # what a loss of theirs has
MOST = 100.0  # of a scalar: e to the power of it is the scale
LARGEST = 100.0  # the bound on the logit scale, unless a checkpoint's own is above it


def dual_spec(
    image: Encoder,
    text: Encoder,
    *,
    embed_dim: int,
    files: Sequence[Path],
    who: str,
    temperature: float | None = None,
) -> ModelSpec:
    """Return the spec of a dual model, both of whose towers are frozen.

    Args:
        image: the image half with its projection.
        text: the text half with its projection.
        embed_dim: width of the embeddings of both.
        files: safetensors files of the checkpoint, with ``logit_scale`` and maybe ``logit_bias``,
            or with ``temperature``.
        who: the model's name, for messages.
        temperature: of the logits, if the files do not say it.

    Raises:
        SpecError: the logit scale is that of a model which was never trained.
        WeightsError: the files cannot be read, or have no logit scale.

    Example:
        >>> from safetensors.torch import save_file
        >>> save_file({"logit_scale": torch.tensor(4.6)}, "model.safetensors")
        >>> image, text = encoders["resnet"](), encoders["cbow"]()
        >>> files = [Path("model.safetensors")]
        >>> spec = dual_spec(image, text, embed_dim=512, files=files, who="clip")
        >>> spec.towers["image"].frozen
        'all'
    """
    towers = {
        encoder.modality: Tower(encoder=encoder, head=Identity(), frozen="all")
        for encoder in (image, text)
    }
    loss = _loss(*read_scalars(files, who, temperature), who)
    return ModelSpec(embed_dim=embed_dim, towers=towers, loss=loss)


def read_scalars(
    files: Sequence[Path], who: str, temperature: float | None = None
) -> tuple[float, float | None]:
    """Return the logit scale of a checkpoint, and its bias if it has one.

    Args:
        files: safetensors files of the checkpoint.
        who: the model's name, for messages.
        temperature: the inverse of the scale, if the files do not say it.

    Raises:
        WeightsError: the files cannot be read, or have no logit scale.
    """
    found: dict[str, float] = {}
    for file in files:
        try:
            with cast("Any", safe_open)(file, "pt") as weights:  # it has no types
                for key in weights.keys():  # noqa: SIM118
                    name = key.rpartition(".")[2]  # a model within another has a prefix
                    if name in SCALARS:
                        found[name] = _number(weights.get_tensor(key), f"{who}: {file}: {key}")
        except (OSError, SafetensorError) as error:
            msg = f"{who}: {file}: not a readable safetensors file: {error}"
            raise WeightsError(msg) from None
    if "logit_scale" in found:
        return math.exp(found["logit_scale"]), found.get("logit_bias")
    if temperature := found.get("temperature", temperature):
        return 1 / temperature, None
    msg = f"{who}: {files[0].parent} has no logit_scale, so it is no contrastive checkpoint"
    raise WeightsError(msg)


def _number(tensor: Tensor, what: str) -> float:
    value = tensor.double().item() if tensor.numel() == 1 else math.nan
    if not abs(value) < MOST:  # NaN neither
        msg = f"{what} is not a number of a trained model; download it again"
        raise WeightsError(msg)
    return value


def _loss(scale: float, bias: float | None, who: str) -> Loss:
    """Return the loss whose logits are those of a checkpoint."""
    if scale < 1:
        msg = f"{who}: its logit scale, {scale:g}, is below 1, so it was never trained"
        raise SpecError(msg)
    temperature, bound = 1 / scale, max(LARGEST, scale)
    if bias is None:
        return InfoNCE(temperature=temperature, max_scale=bound)
    return Sigmoid(temperature=temperature, max_scale=bound, bias=bias)


def local_folder(name: str) -> str:
    """Return the absolute path of a local folder, which a saved model finds from anywhere.

    What only looks like a folder is one, too; that it is not there is said when it is read. Of
    anything else it is an empty string.

    Example:
        >>> local_folder("photos") == str(Path("photos").absolute()), local_folder("openai/clip")
        (True, '')
    """
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_dir() or name.startswith((".", "/", "~")) else ""
