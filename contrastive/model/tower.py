"""One tower: encoder, head and L2 normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from contrastive.config.part_calls import call_part
from contrastive.encoders.module import run_forward
from contrastive.model.contracts import checked_encoder, checked_module, checked_rows
from contrastive.model.freezing import freeze_, set_modes
from contrastive.model.local_paths import whole_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.encoders.module import EncoderModule
    from contrastive.encoders.weight_folders import WeightFolder
    from contrastive.spec import Tower


class TowerModule(nn.Module):
    """Encoder, head and L2 normalisation; what is frozen stays as it is."""

    def __init__(
        self,
        spec: Tower,
        encoder: EncoderModule,
        embed_dim: int,
        folders: Sequence[WeightFolder] = (),
    ) -> None:
        """Put a head on an encoder and freeze what ``spec.frozen`` says.

        ``folders`` are those that the encoder was loaded from.
        """
        super().__init__()
        self.spec = spec
        self.encoder = checked_encoder(encoder, spec.encoder)
        self.embed_dim = embed_dim
        self.paths = whole_paths(spec.encoder)
        self.folders = list(folders)
        head = call_part(spec.head, spec.head.build, self.encoder.out_dim, embed_dim)
        self.head = checked_module(head, spec.head)
        freeze_(self.encoder, self.head, spec)
        self.train()

    def train(self, mode: bool = True) -> TowerModule:
        """Set the mode; frozen parts stay in eval mode, so dropout is off and statistics stay."""
        super().train(mode)
        if mode and self.spec.frozen != "none":
            set_modes(self.encoder)
            self.head.train(self.spec.frozen != "all")
        return self

    def encode(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]``, without gradients if the encoder is frozen.

        Raises:
            SpecError: the encoder gave something else.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_frozen):
            features = run_forward(self.encoder, inputs)
        return checked_rows(features, self.encoder.out_dim, self.spec.encoder, "features")

    def project(self, features_BF: Tensor) -> Tensor:
        """Return embeddings ``[B, D]``, L2-normalised in fp32.

        Raises:
            SpecError: the head gave something else.
        """
        weight = next(self.head.parameters(), features_BF)
        features_BF = features_BF.to(weight.dtype)  # an encoder may be of bf16
        projected = call_part(self.spec.head, self.head, features_BF)
        projected = checked_rows(
            projected, self.embed_dim, self.spec.head, "embeddings", count=len(features_BF)
        )
        with torch.autocast(projected.device.type, enabled=False):
            return normalize(projected.float(), dim=-1)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return embeddings ``[B, D]`` of preprocessed samples."""
        return self.project(self.encode(**inputs))

    @property
    def encoder_frozen(self) -> bool:
        """Whether the whole encoder stays as it is, so that its features can be kept."""
        return self.spec.frozen != "none" and not self.spec.unfrozen and self.spec.lora is None
