"""What ruff's TC rules make of a config when they do not know its base class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from contrastive.encoders import Encoder

if TYPE_CHECKING:
    from pydantic import PositiveInt  # noqa: TC004


class Dino(Encoder):
    modality: ClassVar[str] = "image"
    size: PositiveInt = 1

    def build(self) -> Any:
        raise NotImplementedError
