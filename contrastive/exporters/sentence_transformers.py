"""Towers as a folder of sentence-transformers: a route each, without code of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.config.extras import require
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel


def check(model: ContrastiveModel, towers: Sequence[str]) -> None:
    """Insist that each tower is made of what sentence-transformers has modules for.

    Raises:
        SpecError: one is not; says what is possible.
    """
    require("sentence_transformers", extra="sentence-transformers")
    raise SpecError(f"{model.spec.embed_dim} {towers}")


def write(model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
    """Write the folder."""
    raise NotImplementedError(model, folder, towers)


def usage(folder: Path, towers: Sequence[str]) -> str:
    """Return how the folder is loaded."""
    raise NotImplementedError(folder, towers)
