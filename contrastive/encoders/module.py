"""What every built encoder is: an ``nn.Module`` that owns its preprocessing.

Shapes: B samples, F features.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from torch import nn

from contrastive.errors import SpecError
from contrastive.nn.activation_checkpointing import recompute_
from contrastive.nn.layer_stack import blocks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from contrastive.data.samples import Preprocess

ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
"""In the ``repr`` of an object that does not say what it does."""


class EncoderModule(nn.Module, ABC):
    """Raw samples of one modality to pooled features.

    Example:
        >>> encoder = encoders["cbow"](width=16).build()
        >>> encoder(**encoder.preprocess(["a red square", "a blue square"])).shape  # [B, F]
        torch.Size([2, 16])
    """

    modality: str
    out_dim: int
    """F."""
    preprocess: Preprocess
    """Raises ``BadSample`` for a sample that cannot be used."""
    augment: Preprocess | None = None
    """Preprocessing with randomness (torch's generator), used for training if not None."""
    reproducible: bool = False
    """The spec alone restores the same weights (pretrained), so that a frozen encoder is not
    saved."""
    folder_config: str = ""
    """What a config beside the weights says of the model, such as its activation: features depend
    on it as on the weights."""

    @abstractmethod
    def forward(self, *args: Any, **inputs: Any) -> Tensor:
        """Return features ``[B, F]``, always 2-D, of what ``preprocess`` returned."""

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing: recompute activations in the backward pass.

        Raises:
            SpecError: there is no stack of layers; an encoder that has other parts to recompute
                overrides this.
        """
        if not (found := blocks(self)):
            msg = "has no stack of layers whose activations could be recomputed"
            raise SpecError(msg)
        recompute_(found)


def configs_hash(module: EncoderModule) -> str:
    """Return the SHA-256 of the ``folder_config`` of an encoder and of those within it."""
    found = [part.folder_config for part in module.modules() if isinstance(part, EncoderModule)]
    return hashlib.sha256("\0".join(found).encode()).hexdigest()


def preprocess_hash(module: EncoderModule) -> str:
    """Return the SHA-256 of what a preprocess says of itself; nothing if that is an address."""
    text = repr(module.preprocess)
    return "" if ADDRESS.search(text) else hashlib.sha256(text.encode()).hexdigest()


def run_forward(module: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """Return what ``forward`` gives for what ``preprocess`` returned.

    Raises:
        SpecError: ``forward`` has parameters of other names.
    """
    try:
        return module(**inputs)
    except TypeError:
        try:
            inspect.signature(module.forward).bind(**inputs)
        except TypeError as error:
            msg = (
                f"{type(module).__qualname__}: forward does not take what preprocess gives "
                f"({', '.join(inputs)}): {error}; use the keys of that dict as its parameters"
            )
            raise SpecError(msg) from error
        raise
