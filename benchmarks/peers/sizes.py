"""How large the work is: what a GPU, two cores of a CPU, or a first try can do in minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

VARIABLE = "BENCHMARK_SIZES"


@dataclass(frozen=True)
class Sizes:
    """Numbers of all works."""

    device: str
    batch: int
    pairs: int
    """Of the training step's images and captions."""
    epochs: int
    warm_steps: int
    """Not counted in a rate."""
    loaders: int
    """Processes that load data, for arms that do not choose by themselves."""
    layers: int
    width: int
    text_width: int
    embed_dim: int
    frozen_images: int
    encoded_images: int
    encoded_texts: int

    @property
    def gpu(self) -> bool:
        """Whether all is done on a GPU, in bf16."""
        return self.device == "cuda"

    def tower(self, width: int) -> dict[str, Any]:
        """Return the fields of a transformer's config."""
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": width // 64,
        }


_GPU = Sizes("cuda", 256, 4096, 3, 6, 12, 12, 768, 512, 512, 4096, 20_000, 100_000)
_CPU = Sizes("cpu", 64, 640, 2, 4, 2, 6, 192, 128, 128, 64, 2_000, 10_000)
_TINY = Sizes("cpu", 8, 48, 2, 2, 1, 1, 64, 64, 16, 8, 70, 80)
SIZES = {"cuda": _GPU, "cpu": _CPU, "tiny": _TINY}


def sizes() -> Sizes:
    """Return the sizes of this process."""
    return SIZES[os.environ.get(VARIABLE, "cpu")]
