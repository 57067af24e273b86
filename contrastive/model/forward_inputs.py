"""What ``forward`` of a model is given: inputs of its towers, and group ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from contrastive.data.samples import group_numbers, id_list
from contrastive.errors import SpecError, a_type

if TYPE_CHECKING:
    from collections.abc import Sequence


def input_views(modality: str, given: Any) -> list[Mapping[str, Tensor]]:
    """Return one or two views of the inputs of a tower.

    Raises:
        SpecError: they are something else, such as raw samples; says what to give.
    """
    views = cast("list[Any]", given) if isinstance(given, (list, tuple)) else [given]
    if len(views) in (1, 2) and all(_has_tensors(view) for view in views):
        return views
    what = f"{len(views)} values in a list" if views is given else a_type(views[0])
    msg = (
        f"forward: {modality} takes what model.tower({modality!r}).encoder.preprocess(samples) "
        f"returns, or two of these in a list; it was given {what}"
    )
    raise SpecError(msg)


def _has_tensors(view: Any) -> bool:
    if not isinstance(view, Mapping):
        return False
    return any(isinstance(x, Tensor) for x in cast("Mapping[str, Any]", view).values())


def checked_ids(ids: Any, views: Mapping[str, Sequence[Tensor]]) -> Tensor | None:
    """Return the group ids of a batch as a tensor, where the embeddings are.

    Args:
        ids: ``[B]`` integers or strings in any form; None if each row is a group of its own.
        views: embeddings ``[B, D]`` by modality.

    Raises:
        SpecError: a modality has no embeddings, rows differ in number, or ids are not as many.
        DataError: an id is neither an integer nor a string.
    """
    if lacking := [modality for modality, several in views.items() if not several]:
        msg = f"there are no embeddings of {lacking[0]}; give those of {', '.join(views)}"
        raise SpecError(msg)
    rows = [(modality, len(view)) for modality, several in views.items() for view in several]
    if len({length for _, length in rows}) > 1:
        told = ", ".join(f"{modality} {length}" for modality, length in rows)
        msg = f"rows differ in number ({told}); row i of one modality goes with row i of another"
        raise SpecError(msg)
    if ids is None:
        return None
    first = next(iter(views.values()))[0]
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.dtype == torch.bool:
        ids = torch.tensor(group_numbers(id_list(ids)))
    if ids.shape != (len(first),):
        msg = f"ids have shape {tuple(ids.shape)} for {len(first)} rows; give one for each"
        raise SpecError(msg)
    return ids.to(first.device)
