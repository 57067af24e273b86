"""What is searched for: words, an image, a file, or several of them with weights and signs.

Shapes: D wide.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.arguments import is_path
from contrastive.data.images import SUFFIXES
from contrastive.errors import DataError, a_type

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.model.model import ContrastiveModel


def embedded_query(
    model: ContrastiveModel, query: Any, modality: str | None = None
) -> tuple[str, Tensor]:
    """Return the modality of a query and its embedding ``[1, D]``.

    Raises:
        BadSample: it cannot be read.
        DataError: it is none, or an image that is not there.
    """
    query = checked_query(query) if modality is None else query
    by = modality or modality_of(query, list(model.towers))
    if by == "image" and isinstance(query, (str, Path)) and not Path(query).is_file():
        msg = f"{query}: no such image"
        raise DataError(msg)
    return by, model.embed(by, [query], batch_size=1)  # asked for once, so that no cache keeps it


def checked_query(query: Any) -> Any:
    """Return one query.

    Raises:
        DataError: there is none, or there are several.
    """
    several = isinstance(query, (list, tuple, set, frozenset))
    if query is None or several or (isinstance(query, str) and not query.strip()):
        given = a_type(cast("Any", query)) if several else repr(query)
        msg = f"{given} is no query; give words, the path of an image or another file, or a sample"
        raise DataError(msg)
    return Path(query) if is_path(query) and not isinstance(query, str) else query


def modality_of(query: Any, modalities: Sequence[str]) -> str:
    """Guess what a query is: an image by its suffix, another file if there is one, else words."""
    if not isinstance(query, (str, Path)):  # pixels, unless the model sees none
        return "image"
    files = [modality for modality in modalities if modality not in ("image", "text")]
    if Path(query).suffix.lower() in SUFFIXES:
        return "image"
    return files[0] if files and Path(query).is_file() else "text"


def found_by(by: str, there: Sequence[str], modalities: Sequence[str]) -> str:
    """Return the modality that a query finds, of those that are there if there is a choice.

    Words find images and an image finds texts; else what else there is.
    """
    usual = "text" if by == "image" else "image"
    others = [modality for modality in modalities if modality != by]
    order = [usual, *others, *modalities]
    return next((modality for modality in order if modality in there), order[0])
