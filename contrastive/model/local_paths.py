"""Where the files are that a spec names relative to the working folder.

A saved model is loaded from any folder, so it keeps their whole paths, and their paths from itself:
a project may move as a whole.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from contrastive.config.base import Config
    from contrastive.encoders import Encoder

LOCAL = "local-dir:"  # of timm and open_clip, before the path


def whole_paths(encoder: Encoder) -> dict[str, str]:
    """Return, by field, the whole paths of what an encoder names relative to this folder."""
    paths = {field: Path(path) for field, _, path in relative_fields(encoder)}
    return {field: str(path.resolve()) for field, path in paths.items() if path.exists()}


def from_folder(folder: Path, paths: Mapping[str, str]) -> dict[str, str]:
    """Return whole paths as seen from a folder; those on another disk of Windows are left out."""
    found: dict[str, str] = {}
    for field, path in paths.items():
        try:
            found[field] = Path(os.path.relpath(path, folder.resolve())).as_posix()
        except ValueError:
            continue
    return found


def places_of(
    folder: Path, whole: Mapping[str, str], beside: Mapping[str, str]
) -> dict[str, list[Path]]:
    """Return, by field, where something may be: where it was, and as seen from a saved folder."""
    own = {field: folder.resolve() / path for field, path in beside.items()}
    return {
        field: [Path(path), *([Path(os.path.normpath(own[field]))] if field in own else [])]
        for field, path in whole.items()
    }


def found_again(encoder: Encoder, known: Mapping[str, list[Path]]) -> Encoder:
    """Return an encoder that names by whole paths what is there, or is not here.

    Another folder of the name may lie in the working folder.

    Args:
        encoder: its spec.
        known: what ``places_of`` returns.
    """
    changes = {
        field: f"{prefix}{place}"
        for field, prefix, path in relative_fields(encoder)
        if field in known and (place := first_place(known[field], path))
    }
    return encoder.model_copy(update=changes) if changes else encoder


def first_place(places: list[Path], relative: str) -> Path | None:
    """Return the first place that is there, unless the relative path leads to it or alone is.

    Another folder of the name may lie in the working folder.
    """
    here = Path(relative).exists()
    if there := next((place for place in places if place.exists()), None):
        return None if here and there.samefile(relative) else there
    return None if here else places[0]


def relative_fields(encoder: Encoder) -> Iterator[tuple[str, str, str]]:
    """Yield the fields that may hold a relative path, what stands before it, and the path."""
    fields = type(encoder).model_fields
    for field in fields:
        value: Any = getattr(encoder, field)
        local = isinstance(value, str) and value.startswith(LOCAL)
        of_hub = field == "name" and "revision" in fields  # a repository, or a folder
        if isinstance(value, Path) or local or (of_hub and value):
            path = str(value).removeprefix(LOCAL)
            if not path.startswith("~") and not Path(path).is_absolute():
                yield field, LOCAL if local else "", path


def data_paths(data: Config) -> dict[str, str]:
    """Return, by dotted field, the whole paths of what a dataset names relative to this folder."""
    return {
        key: str(path.resolve())
        for key, path in _paths_in(data.model_dump())
        if not path.is_absolute() and not str(path).startswith("~") and path.exists()
    }


def data_found_again(data: Any, known: Mapping[str, list[Path]]) -> Any:
    """Return the plain data of a dataset that names by whole paths what is there."""
    data = copy.deepcopy(data)
    for key, places in known.items():
        *parents, field = key.split(".")
        try:
            holder: Any = data
            for parent in parents:
                holder = holder[int(parent) if isinstance(holder, list) else parent]
            if isinstance(given := holder[field], str) and (place := first_place(places, given)):
                holder[field] = str(place)
        except (LookupError, TypeError, ValueError):  # of another spec than these are of
            continue
    return data


def _paths_in(value: Any, key: str = "") -> Generator[tuple[str, Path]]:
    if isinstance(value, Path):
        yield key, value
        return
    items: Any = ()
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("list[Any]", value))
    for name, inner in items:
        yield from _paths_in(inner, f"{key}.{name}" if key else str(name))
