"""A model as a saved folder that is whole: this package loads it anywhere, without other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.encoders.given_module import GivenModule
from contrastive.errors import SpecError
from contrastive.exporters.targets import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel


def check(model: ContrastiveModel, towers: Sequence[str]) -> None:
    """Insist on all towers, and on encoders that a spec describes.

    Raises:
        SpecError: one is missing, or was given as a module.
    """
    if {*towers} != {*model.towers}:
        msg = f"towers: {towers[0]} alone: a saved model has all of its towers"
        raise SpecError(msg)
    for modality in towers:
        if isinstance(model.tower(modality).encoder, GivenModule):
            msg = f"towers.{modality}: was given as a module, which no spec builds again"
            raise SpecError(msg)


def write(model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
    """Write the saved model, with copies of what its encoders were loaded from."""
    del towers
    model.save(folder, whole=True)
    return []


def usage(folder: Path, towers: Sequence[str]) -> str:
    """Return how the folder is loaded."""
    del towers
    return f"from contrastive import load_model\nmodel = load_model({quoted(folder)})"
