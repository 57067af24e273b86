"""Rewrite saved models and runs of an older release in this one's form; weights stay."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, NamedTuple

from contrastive.config.entry_points import CORE
from contrastive.errors import RenamedWarning, WeightsError
from contrastive.model.loading import stored_spec
from contrastive.model.run_checkpoints import checkpoints_of
from contrastive.model.saved_folder import (
    FORMAT,
    MANIFEST,
    Content,
    format_of,
    open_folder,
    write_folder,
)
from contrastive.spec import ModelSpec, RunSpec

if TYPE_CHECKING:
    from pathlib import Path

    from contrastive.config.base import Config


class Upgraded(NamedTuple):
    """A folder that was rewritten."""

    folder: Path
    release: str
    """That saved it, as its files say."""
    files: list[str]
    """Those that changed."""


SPECS: dict[str, type[Config]] = {"spec.json": ModelSpec, "run.json": RunSpec}


def upgrade_folder(folder: Path, *, trusted: bool = False) -> list[Upgraded]:
    """Rewrite the specs of a saved model, or of a run's model and checkpoints.

    Args:
        folder: a saved model, a checkpoint or a run.
        trusted: follow import paths (``module:Class``) in its specs.

    Raises:
        SpecError: a spec does not fit.
        WeightsError: there is no saved model, or one is damaged or cannot be written; it is then
            as it was.
    """
    saved = saved_folders(folder)
    return [done for path in saved if (done := _upgrade(path, trusted=trusted))]


def saved_folders(folder: Path) -> list[Path]:
    """Return the folders with a saved model: this one, or those of a run.

    Raises:
        WeightsError: there is none.
    """
    places = [folder, folder / "model", *checkpoints_of(folder)]
    if found := [path for path in places if (path / MANIFEST).exists()]:
        return found
    msg = f"{folder}: neither a spec nor a saved model or run"
    raise WeightsError(msg)


def _upgrade(folder: Path, *, trusted: bool) -> Upgraded | None:
    saved = open_folder(folder)
    changed: dict[str, Content] = {}
    for name in SPECS.keys() & saved.files:
        with warnings.catch_warnings(action="ignore", category=RenamedWarning):
            spec = stored_spec(SPECS[name], saved, name, trusted=trusted)
        content = {"format": FORMAT} | spec.model_dump(mode="json")
        if content != saved.json(name):
            changed[name] = content
    if not changed and format_of(folder) == FORMAT:
        return None
    release = saved.json("parts.json")["packages"].get(CORE, "unknown")
    write_folder(folder, changed, keep=saved.files - changed.keys())
    return Upgraded(folder, release, sorted(changed))
