"""A transformer over log-mel spectrograms, from scratch.

Shapes: B clips, T frames, M mel bands, L tokens, F features.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from contrastive.interface import EncoderModule, masked_mean
from contrastive_audio.scale import HOP
from contrastive_audio.spectrogram import LogMelSpectrogram, SpecAugment

if TYPE_CHECKING:
    from contrastive_audio import LogMel


class LogMelModule(EncoderModule):
    """Patches of frames to the mean of pre-norm transformer states."""

    modality = "audio"

    def __init__(self, spec: LogMel) -> None:
        """Draw random weights."""
        super().__init__()
        self.out_dim = spec.width
        self.patch = spec.patch
        length = math.ceil(spec.seconds / HOP / spec.patch)
        spectrogram = LogMelSpectrogram(
            spec.sample_rate, spec.seconds, spec.mels, length * spec.patch
        )
        self.preprocess = spectrogram
        self.augment = SpecAugment(spectrogram) if spec.augment == "spec" else None
        self.tokens = nn.Linear(spec.patch * spec.mels, spec.width)
        self.places = nn.Embedding(length, spec.width)
        nn.init.normal_(self.places.weight, std=0.02)  # as BERT and GPT
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                spec.width,
                spec.heads,
                dim_feedforward=4 * spec.width,
                dropout=spec.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(spec.depth)
        )
        self.norm = nn.LayerNorm(spec.width)

    def forward(self, mel: Tensor, frames: Tensor) -> Tensor:
        """Return features ``[B, F]`` of ``[B, T, M]``, each with its first ``frames`` ones real."""
        patches_BLP = mel.unflatten(1, (-1, self.patch)).flatten(2)
        starts_L = torch.arange(0, mel.shape[1], self.patch, device=mel.device)
        real_BL = starts_L < frames[:, None]
        states_BLF = self.tokens(patches_BLP) + self.places.weight
        for block in self.blocks:
            states_BLF = block(states_BLF, src_key_padding_mask=~real_BL)
        return masked_mean(self.norm(states_BLF), real_BL)
