"""Where the files are that an encoder's spec names relative to the working folder.

A saved model is loaded from any folder, so it keeps their whole paths.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from contrastive.encoders import Encoder

LOCAL = "local-dir:"  # of timm and open_clip, before the path


def whole_paths(encoder: Encoder) -> dict[str, str]:
    """Return, by field, the whole paths of what an encoder names relative to this folder."""
    paths = {field: Path(path) for field, _, path in _relative(encoder)}
    return {field: str(path.resolve()) for field, path in paths.items() if path.exists()}


def found_again(encoder: Encoder, known: Mapping[str, str]) -> Encoder:
    """Return an encoder that names by whole paths what is there, or is not here.

    Another folder of the name may lie in the working folder.

    Args:
        encoder: its spec.
        known: what ``whole_paths`` returned where the encoder was built.
    """
    changes = {
        field: f"{prefix}{known[field]}"
        for field, prefix, path in _relative(encoder)
        if field in known and (Path(known[field]).exists() or not Path(path).exists())
    }
    return encoder.model_copy(update=changes) if changes else encoder


def _relative(encoder: Encoder) -> Iterator[tuple[str, str, str]]:
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
