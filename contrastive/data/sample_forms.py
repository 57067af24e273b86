"""What forms a sample may have: a file, a string, an array, an image, or containers of those."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.data.images import StoredImage
from contrastive.errors import BadSample, a_type

if TYPE_CHECKING:
    from collections.abc import Callable

BINARY = (bytes, bytearray, memoryview, np.ndarray, Tensor, Image.Image, StoredImage)
FORMS = (
    "give a string, a path, bytes, an array, a tensor or a PIL image, or a list, tuple or dict of "
    "those, numbers and None"
)
"""What a sample may be, in docs/data.md too."""


def plain_parts(sample: Any, modality: str, key_of: Callable[[Any, str], bytes]) -> Any:
    """Return a mapping or a sequence of values, such as a table's row, as plain data for JSON.

    Files, arrays and images within it are given by ``key_of``, the hash of their content.

    Raises:
        BadSample: a sample cannot be, or hold, something of its type.
    """
    if not isinstance(sample, (Mapping, list, tuple)):
        msg = f"a sample of {modality} cannot be {a_type(sample)}; {FORMS}"
        raise BadSample(msg)
    return _parts(sample, modality, "", key_of)


def _parts(value: Any, modality: str, place: str, key_of: Callable[[Any, str], bytes]) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        if odd := [key for key, _ in items if not isinstance(key, str)]:
            msg = f"a sample of {modality} has the key {odd[0]!r}{_at(place)}; keys are strings"
            raise BadSample(msg)
        return {key: _parts(part, modality, f"{place}[{key!r}]", key_of) for key, part in items}
    if isinstance(value, (list, tuple)):
        parts = enumerate(cast("list[Any]", value))
        return [_parts(part, modality, f"{place}[{i}]", key_of) for i, part in parts]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str) and (modality == "text" or is_content(value, "")):
        return value
    if not isinstance(value, (str, PathLike, *BINARY)):
        msg = f"a sample of {modality} holds {a_type(value)}{_at(place)}; {FORMS}"
        raise BadSample(msg)
    return {"\0content": key_of(value, modality).hex()}


def _at(place: str) -> str:
    return f" at {place}" if place else ""


def is_content(text: str, modality: str) -> bool:
    """Whether a string is a sample itself, rather than the name of its file."""
    if modality in ("text", "image"):
        return modality == "text"
    try:
        return not Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or not one
        return True
