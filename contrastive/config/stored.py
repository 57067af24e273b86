"""Which specs were saved by us, with a model or a run: they may be somebody else's.

In them components go by name, never by import path, unless the user says that they are trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MANIFEST = "manifest.json"
SPECS = ("spec.json", "run.json")
LOG = "log.jsonl"
EXPORT = "export.json"
"""What says of a folder that it is an export, for which program, and which files are of it."""
FORMAT_KEY = "format"
"""A key that only the specs that we save have."""


def is_stored(path: Path, data: Mapping[str, Any]) -> bool:
    """Whether a spec was saved with a model or a run, or lies in such a folder.

    Args:
        path: its file.
        data: its content.
    """
    return (
        path.name in SPECS
        or FORMAT_KEY in data
        or any(saved_folder(place) for place in (path.absolute(), path.resolve()))
    )


def saved_folder(path: Path) -> Path | None:
    """Return the folder of a saved model or a run that a file lies in, at whatever depth."""
    return next((folder for folder in path.parents if _is_model(folder) or _is_run(folder)), None)


def export_in(folder: Path) -> str:
    """Say what to do with an export, for who expects a model in its folder; "" if it is none."""
    if not (folder / EXPORT).is_file():
        return ""
    return f"it is an export ({EXPORT}) for another program; give what it was made of"


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).exists() and any((folder / name).exists() for name in SPECS)


def _is_run(folder: Path) -> bool:
    parts = (folder / "checkpoints", folder / "model" / MANIFEST)
    return (folder / LOG).exists() and any(part.exists() for part in parts)
