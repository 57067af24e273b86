"""Which folders an encoder was loaded from, and where a saved model has copies of them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

Named = tuple[str, str | None]
"""A local folder or a repository as a spec names it, and the revision."""


@dataclass(frozen=True)
class WeightFolder:
    """A folder that an encoder was loaded from."""

    name: str
    """As the encoder asked for it: a path, or a repository on the Hub."""
    revision: str | None
    files: tuple[str, ...]
    """Patterns of what is used of it."""
    folder: Path


_noted: ContextVar[list[WeightFolder] | None] = ContextVar("noted", default=None)
_copies: ContextVar[Mapping[Named, Path] | None] = ContextVar("copies", default=None)


@contextmanager
def noted_folders() -> Generator[list[WeightFolder]]:
    """Give a list that gets the folders that are found within a block.

    Example:
        >>> with noted_folders() as found:
        ...     note_folder(WeightFolder("photos", None, ("*.json",), Path("photos")))
        >>> found[0].name
        'photos'
    """
    found: list[WeightFolder] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def note_folder(found: WeightFolder) -> None:
    """Note a folder for whoever asked to know."""
    if (noted := _noted.get()) is not None:
        noted.append(found)


@contextmanager
def copies_at(places: Mapping[Named, Path]) -> Generator[None]:
    """Within a block, take these folders for what encoders ask for by name.

    Example:
        >>> with copies_at({("owner/tiny", None): Path("photos")}):
        ...     copy_of("owner/tiny", None).name
        'photos'
    """
    token = _copies.set(places)
    try:
        yield
    finally:
        _copies.reset(token)


def copy_of(name: str, revision: str | None) -> Path | None:
    """Return the copy of a folder, if there is one."""
    return (_copies.get() or {}).get((name, revision))
