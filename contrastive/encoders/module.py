"""What every built encoder is: an ``nn.Module`` that owns its preprocessing.

Shapes: B samples, F features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from contrastive.errors import SpecError
from contrastive.nn.activation_checkpointing import recompute_
from contrastive.nn.layer_stack import blocks

if TYPE_CHECKING:
    from contrastive.data.samples import Preprocess


class EncoderModule(nn.Module):
    """Raw samples of one modality to pooled features; subclasses define ``forward``.

    ``forward(**inputs)`` takes what ``preprocess`` returns and gives ``[B, F]``, always 2-D.
    """

    modality: str
    out_dim: int
    """F."""
    preprocess: Preprocess
    """Raises ``BadSample`` for a sample that cannot be used."""
    augment: Preprocess | None = None
    """Preprocessing with randomness (torch's generator), used for training if not None."""
    reproducible: bool = False
    """The spec alone brings the same weights back (pretrained), so that a frozen encoder
    need not be saved."""

    def checkpoint_activations(self) -> None:
        """From now on, forget activations in the forward pass and compute them again.

        Raises:
            SpecError: there is no stack of layers; an encoder that has other parts to recompute
                overrides this.
        """
        if not (found := blocks(self)):
            msg = "has no stack of layers whose activations could be computed again"
            raise SpecError(msg)
        recompute_(found)
