"""Raw samples for encoders: ordinary, odd and invalid ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from contrastive.testing.checks import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ENOUGH = 3  # samples, the fewest whose order and number can be varied

TEXTS = (
    "a dog",
    "two brown dogs run over wet grass towards a red ball that somebody has thrown for them",
    "cat",
    "a cat on a mat",
)
EDGE_TEXTS = ("", " ", "\n", "Ünïcödé, 犬 и собака", "🐕‍🦺 🎉", "word " * 300, "\ud800")
IMAGE_SIZES = ((40, 60), (90, 50), (64, 64), (200, 70))


@dataclass(frozen=True)
class Examples:
    """Samples of one modality."""

    typical: Sequence[Any]
    """Any encoder has to take them."""
    edge: Sequence[Any] = ()
    """An encoder takes them, or raises ``BadSample``."""
    invalid: dict[str, Any] = field(default_factory=dict[str, Any])
    """By what they are: an encoder raises ``BadSample``."""
    equivalent: Sequence[Any] = ()
    """Forms of one sample, which have to give the same inputs."""


def examples_of(modality: str, given: Sequence[Any] | None, folder: Path) -> Examples:
    """Return samples of a modality, the given ones or our own; images are written to a folder.

    Raises:
        Fault: we have no samples of that modality, or too few are given.
    """
    if given is not None and len(given) < ENOUGH:
        raise Fault(f"samples has {len(given)}", f"give {ENOUGH} or more, all different")
    match modality:
        case "text":
            invalid = {"None": None, "a number": 7, "bytes": b"a dog"}
            return Examples(given or TEXTS, EDGE_TEXTS, invalid)
        case "image":
            return _images(given, folder)
        case _ if given is None:
            problem = f"there are no ready samples of the modality {modality!r}"
            raise Fault(problem, f"give {ENOUGH} or more that its preprocess takes, as samples=")
        case _:
            return Examples(given, invalid={"None": None, "an object()": object()})


def _images(given: Sequence[Any] | None, folder: Path) -> Examples:
    noise = np.random.default_rng(0)
    images = [
        Image.fromarray(noise.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in IMAGE_SIZES
    ]
    path = folder / "image.png"
    images[0].save(path)
    encoded = path.read_bytes()
    edge = [images[1].convert(mode) for mode in ("L", "P", "CMYK", "RGBA", "1")]
    edge += [images[0].resize(size) for size in ((1, 1), (60, 3))]
    invalid = {
        "None": None,
        "a number": 7,
        "bytes that are no image": b"not an image",
        "an image that is cut off": encoded[: len(encoded) // 2],
        "a path without a file": folder / "missing.png",
    }
    equivalent = [images[0], encoded, path, str(path)]
    return Examples(given or images, edge, invalid, equivalent)
