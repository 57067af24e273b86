"""InfoNCE of both directions as a whole: as few launches as its two sweeps can do with.

Small batches take as long as their launches do. So what is of O(N + M) is here in a few kernels
over both sides at once, where ``backends.all_pairs`` has it in many operations of torch, for all
backends and for several ranks. Forward and backward take 15 launches, with ids at most 19, of which
a sort is one; 4 more for each further chunk of G, and 2, in groups 3, for each further block of
rows.

Shapes: N rows of a, M rows of b, D wide.
"""

# pyright: reportUnusedFunction=false
# ruff: noqa: PLR0917 - operators have no keyword-only arguments

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - operators read annotations
from typing import Any, cast

import torch
from torch import Tensor

from contrastive.losses.backends.first_derivative_only import first_derivative_only
from contrastive.losses.backends.triton import launch_pairs, launch_rows, order, passes
from contrastive.losses.backends.triton.blocks import How, Pairs, padded
from contrastive.losses.backends.triton.launch_pairs import Kernels
from contrastive.losses.backends.triton.operators import exps_type, operator


@operator
def infonce_forward(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    ids: Sequence[Tensor],
    kind: str,
    dtype: torch.dtype,
    normalize: bool,
    keep: bool,
    how: Sequence[int],
) -> list[Tensor]:
    """Return the loss, and the ``saved`` of ``infonce_backward``.

    ``ids`` are those of a and of b: both, one if they are the same tensor, or none. ``dtype`` is
    that of the products, ``keep`` whether exps are kept, ``how`` the numbers of a ``How``.
    """
    with torch.cuda.device_of(a):
        n, m = len(a), len(b)
        scale = log_scale.exp().float()
        bands = None
        if ids:
            bands = order.sort(ids[0], ids[-1], kind, count=True)
        orders = None if bands is None else (bands.rows, bands.columns)
        counts = None if bands is None else bands.counts
        units, lengths, positive, longest = launch_rows.prepare(
            a, b, scale, orders, kind=kind, dtype=dtype, normalize=normalize
        )
        scalars, exact = launch_rows.scalars(longest, scale, n, m, counts)
        rows = units if len(units[0]) else (a, b)
        pairs = Pairs(*rows, kind, 0) if bands is None else bands.pairs(*rows, kind, counts)
        kernels = Kernels(scale, How.of(how))
        kept = pairs.buffer((n, padded(m)) if keep else (0, 0), exps_type(pairs.a))
        found = passes.first_sweep(
            pairs, kernels, shift=scalars, exact=exact, exps=kept if keep else None
        )
        if found.row_positive is not None and found.column_positive is not None:
            positive = found.row_positive, found.column_positive
        logs = found.row_log, found.column_log
        loss, row_side, column_side = launch_rows.stats(logs, positive, counts, scalars)
        of_ids = [a.new_empty(0, dtype=x) for x in _OF_IDS]
        if bands is not None:
            columns = of_ids[1] if len(ids) == 1 else bands.columns
            of_ids = [bands.rows, columns, bands.first, bands.last, bands.match]
        numbers = [scale, scalars, exact, row_side, column_side, kept]
        return [loss, *units, *lengths, *of_ids, *numbers]


_OF_IDS = torch.int64, torch.int64, torch.int32, torch.int32, torch.int32


@infonce_forward.operator.register_fake
def _(
    a: Tensor,
    b: Tensor,
    _: Tensor,
    ids: Sequence[Tensor],
    kind: str,
    dtype: torch.dtype,
    normalize: bool,
    keep: bool,
    how: Sequence[int],
) -> list[Tensor]:
    del how
    n, m = a.shape[0], b.shape[0]  # len would make them constants
    write = launch_rows.writes(a, b, dtype, kind, normalize=normalize)
    exps = exps_type(a.new_empty(0, dtype=dtype))

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return a.new_empty(shape, dtype=dtype)

    lines = [0, 0, 0, 0, 0]
    if ids:
        lines = [n, 0 if len(ids) == 1 else m, n, n, n if kind == "masked" else 0]
    return [
        new(),
        *(new(*(x.shape if write else (0, 0)), dtype=dtype) for x in (a, b)),
        *(new(x if normalize else 0) for x in (n, m)),
        *(new(x, dtype=y) for x, y in zip(lines, _OF_IDS, strict=True)),
        new(),
        new(6),
        new(dtype=torch.uint8),
        *(new(3, x) for x in (n, m)),
        new(*((n, padded(m)) if keep else (0, 0)), dtype=exps),
    ]


@operator
def infonce_backward(
    outer: Tensor,
    saved: Sequence[Tensor],
    kind: str,
    a_dtype: torch.dtype,
    b_dtype: torch.dtype,
    how: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, of b, in their types, and of the log scale.

    Args:
        outer: the gradient of the loss.
        saved: the rows of both sides as they are multiplied; their lengths, or empty; the order of
            both sides, that of b empty if it is that of a; ``first``, ``last`` and ``match`` of
            ``Pairs``, or empty; the scale; ``launch_rows.scalars``; both sides of ``row_stats``;
            the exps of the first sweep, or empty.
        kind: see ``Pairs``.
        a_dtype: of the gradient.
        b_dtype: likewise.
        how: the numbers of a ``How``.
    """
    a, b, a_length, b_length, of_rows, of_columns, first, last, match, scale, *rest = saved
    scalars, exact, row_side, column_side, kept = rest
    with torch.cuda.device_of(a):
        bands = None
        if kind != "diagonal":
            of_columns = of_columns if len(of_columns) else of_rows
            bands = order.Bands(of_rows, of_columns, first, last, match)
        pairs = Pairs(a, b, kind, 0) if bands is None else bands.pairs(a, b, kind)
        kernels = Kernels(scale, How.of(how))
        grads = passes.second_sweep(
            pairs,
            kernels,
            rows=row_side.unbind(),
            columns=column_side.unbind(),
            shift=scalars,
            exact=exact,
            exps=kept if len(kept) else None,
        )
        return launch_rows.finalize_gradients(
            (a, b),
            grads,
            (a_length, b_length) if len(a_length) else None,
            None if bands is None else (bands.rows, bands.columns),
            (a_dtype, b_dtype),
            scale=scale,
            scalars=scalars,
            outer=outer,
            lift=launch_pairs.lift_of(a.dtype),
        )


@infonce_backward.operator.register_fake
def _(
    outer: Tensor,
    saved: Sequence[Tensor],
    _: str,
    a_dtype: torch.dtype,
    b_dtype: torch.dtype,
    how: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    del how
    a_grad, b_grad = (
        torch.empty_like(x, dtype=y) for x, y in zip(saved, (a_dtype, b_dtype), strict=False)
    )
    return a_grad, b_grad, outer.new_empty((), dtype=torch.float32)


def infonce(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    ids: Sequence[Tensor],
    kind: str,
    *,
    dtype: torch.dtype,
    normalize: bool,
    keep: bool,
    how: Sequence[int],
) -> Tensor:
    """Return the symmetric ``functional.infonce``; arguments as in ``infonce_forward``."""
    with torch.autocast(a.device.type, enabled=False):
        out = _InfoNCE.apply(a, b, log_scale, ids, kind, dtype, normalize, keep, how)
        return cast("Tensor", out)


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        ids: Sequence[Tensor],
        kind: str,
        dtype: torch.dtype,
        normalize: bool,
        keep: bool,
        how: Sequence[int],
    ) -> Tensor:
        ctx.rest = kind, a.dtype, b.dtype, how
        a, b = a.contiguous(), b.contiguous()
        keep = keep and any(ctx.needs_input_grad)
        found = infonce_forward(a, b, log_scale, ids, kind, dtype, normalize, keep, how)
        loss, *units_and_rest = found
        written = launch_rows.writes(a, b, dtype, kind, normalize=normalize)
        units = units_and_rest[:2] if written else (a, b)
        ctx.save_for_backward(*units, *units_and_rest[2:])
        return loss

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        with torch.autocast(saved[0].device.type, enabled=False):
            grads = infonce_backward(outer[0], list(saved), *ctx.rest)
        return *grads, None, None, None, None, None, None
