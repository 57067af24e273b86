"""What parts owe each other, checked at each call where looking costs nothing.

Shapes: B rows, F features, D the shared width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from contrastive.config.part_calls import call_part
from contrastive.config.provenance import described
from contrastive.errors import SpecError, TrainingError, a_type

if TYPE_CHECKING:
    from contrastive.config.base import Config
    from contrastive.encoders.module import EncoderModule
    from contrastive.losses.module import LossModule
    from contrastive.spec import ModelSpec


LOGGED = ("step", "epoch", "loss", "lr", "grad_norm", "loss_scale", "skipped_steps")
"""What each line of a log has besides a loss's metrics."""


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
    if torch.get_default_device().type != "meta":  # where memory is estimated, all is
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.is_meta:
                msg = f"{who}: {name} is on the device meta, without numbers; fill it in build"
                raise SpecError(msg)
    return module


def checked_encoder(module: Any, part: Config) -> EncoderModule:
    """Return what an encoder's ``build`` returned, if the rest can rely on what it says.

    Raises:
        SpecError: its width or its preprocessing is something else; names the encoder.
    """
    module = checked_module(module, part, "out_dim", "preprocess")
    width: Any = module.out_dim
    problem = ""
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        problem = f"out_dim is {width!r}; set it to the width of its features, an int"
    elif not callable(module.preprocess):
        problem = f"preprocess is {a_type(module.preprocess)}; set it to a function of samples"
    if problem:
        msg = f"{described(type(part))}: {type(module).__qualname__}.{problem}"
        raise SpecError(msg)
    return module


def checked_rows(
    rows: Any, width: int, part: Config, what: str, *, count: int | None = None
) -> Tensor:
    """Return what an encoder or a head gave, if it is ``[B, width]``; B is ``count`` if given.

    Raises:
        SpecError: it is something else; names the component.
    """
    fits = isinstance(rows, Tensor) and rows.ndim == 2 and rows.shape[1] == width
    if fits and len(rows) == (count or len(rows)) and not rows.is_complex():
        return rows
    given = f"the shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else a_type(rows)
    given = f"complex numbers and {given}" if fits and rows.is_complex() else given
    of = f"[{count or 'B'}, {width}]"
    msg = f"{described(type(part))}: forward gave {what} of {given}; it has to give {of}"
    raise SpecError(f"{msg}, real numbers" if "complex" in given else msg)


def loss_and_metrics(
    loss: LossModule, spec: ModelSpec, a: Tensor, b: Tensor, ids: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a loss gives for ``[B, D]`` embeddings, if it is a scalar and a dict of metrics.

    Raises:
        SpecError: it is something else; names the component.
    """
    found: Any = call_part(spec.loss, loss, a, b, ids, ids)
    pair: tuple[Any, ...] = cast("Any", found) if isinstance(found, tuple) else (found,)
    scalar = isinstance(pair[0], Tensor) and pair[0].ndim == 0
    if len(pair) == 2 and scalar and isinstance(pair[1], Mapping):
        about = cast("dict[str, Tensor]", pair[1])
        trains = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        if flaw := _flaw_of_loss(pair[0], trains=trains) or _flaw_of_metrics(about):
            msg = f"{described(type(spec.loss))}: {flaw}"
            raise SpecError(msg)
        return pair[0], about
    kinds = [f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else a_type(x) for x in pair]
    msg = (
        f"{described(type(spec.loss))}: forward gave {' and '.join(kinds)}; it has to give a "
        "scalar tensor and a dict of metrics"
    )
    raise SpecError(msg)


def _flaw_of_loss(loss: Tensor, *, trains: bool) -> str:
    if not loss.is_floating_point():
        return f"forward gave a loss of {loss.dtype}; it has to give a real floating-point number"
    if trains and not loss.requires_grad:
        return "its loss has no gradient; compute it from the embeddings without detach or item"
    return ""


def _flaw_of_metrics(metrics: Mapping[Any, Any]) -> str:
    for name, value in metrics.items():
        if not isinstance(name, str) or name in LOGGED:
            taken = ", ".join(LOGGED)
            return f"forward gave a metric named {name!r}; name it by another string than {taken}"
        plain = value is None or isinstance(value, (int, float, str))
        if isinstance(value, Tensor):
            plain = value.numel() == 1 and not value.is_complex()
        if not plain:
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else a_type(value)
            return f"forward gave {given} as the metric {name!r}; give a real scalar"
    return ""


def check_views_differ(modality: str, first: Tensor, second: Tensor, *, known: set[str]) -> None:
    """Refuse identical views: each row would match itself, and nothing would be learned.

    Those of a modality that is ``known`` to differ are not looked at: that waits for the device.

    Raises:
        TrainingError: they are the same.
    """
    if modality in known:
        return
    if torch.equal(first.detach(), second.detach()):
        msg = (
            f"the two views of each {modality} are the same; give towers.{modality} an augment "
            "or dropout, in a part that trains"
        )
        raise TrainingError(msg)
    known.add(modality)
