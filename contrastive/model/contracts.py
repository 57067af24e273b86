"""What parts owe each other, checked at each call where looking costs nothing.

Shapes: B rows, F features, D the shared width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from contrastive.config.provenance import described
from contrastive.errors import SpecError, TrainingError, a_type

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.losses.module import LossModule
    from contrastive.spec import ModelSpec


def checked_module(module: Any, part: Config, *needed: str) -> Any:
    """Return what a component's ``build`` returned, if it is a module with what is needed.

    Raises:
        SpecError: it is something else; names the component.
    """
    who = described(type(part))
    if not isinstance(module, nn.Module):
        msg = f"{who}: build returned {a_type(module)}; it has to return a module"
        raise SpecError(msg)
    if missing := [name for name in needed if not hasattr(module, name)]:
        msg = f"{who}: its {type(module).__qualname__} has no {' or '.join(missing)}; set it"
        raise SpecError(f"{msg} in __init__")
    return module


def checked_rows(rows: Any, width: int, part: Config, what: str) -> Tensor:
    """Return what an encoder or a head gave, if it is ``[B, width]``.

    Raises:
        SpecError: it is something else; names the component.
    """
    if isinstance(rows, Tensor) and rows.ndim == 2 and rows.shape[1] == width:
        return rows
    given = f"the shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else a_type(rows)
    msg = f"{described(type(part))}: forward gave {what} of {given}; it has to give [B, {width}]"
    raise SpecError(msg)


def loss_and_metrics(
    loss: LossModule, spec: ModelSpec, a: Tensor, b: Tensor, ids: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a loss gives for ``[B, D]`` embeddings, if it is a scalar and a dict of metrics.

    Raises:
        SpecError: it is something else; names the component.
    """
    found: Any = loss(a, b, ids, ids)
    pair: tuple[Any, ...] = cast("Any", found) if isinstance(found, tuple) else (found,)
    scalar = isinstance(pair[0], Tensor) and pair[0].ndim == 0
    if len(pair) == 2 and scalar and isinstance(pair[1], Mapping):
        return pair[0], cast("dict[str, Tensor]", pair[1])
    kinds = [f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else a_type(x) for x in pair]
    msg = (
        f"{described(type(spec.loss))}: forward gave {' and '.join(kinds)}; it has to give a "
        "scalar tensor and a dict of metrics"
    )
    raise SpecError(msg)


def check_views_differ(modality: str, first: Tensor, second: Tensor) -> None:
    """Refuse identical views: each row would match itself, and nothing would be learned.

    Raises:
        TrainingError: they are the same.
    """
    if torch.equal(first.detach(), second.detach()):
        msg = (
            f"the two views of each {modality} are the same; give towers.{modality} an augment "
            "or dropout, in a part that trains"
        )
        raise TrainingError(msg)
