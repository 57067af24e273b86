"""InfoNCE of both directions as a whole: as few launches as its two sweeps can do with.

Small batches take as long as their launches do. So what is of O(N + M) is here in a few kernels
over both sides at once, where ``backends.base`` has it in many operations of torch, for all
backends and for several ranks: 15 launches forward and backward, 4 more for each further chunk of
G and 2 for each further block of rows.

Shapes: N rows of a, M rows of b, D wide.
"""

# pyright: reportUnusedFunction=false
# ruff: noqa: PLR0917 - operators have no keyword-only arguments

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - operators read annotations
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from contrastive.losses.backends.triton import launch_pairs, launch_rows, passes
from contrastive.losses.backends.triton.blocks import How, Pairs, padded
from contrastive.losses.backends.triton.launch_pairs import Kernels
from contrastive.losses.backends.triton.operators import exps_type, operator

if TYPE_CHECKING:
    from contrastive.losses.backends.triton.fused import FusedBackend


@operator
def infonce_forward(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    dtype: torch.dtype,
    normalize: bool,
    keep: bool,
    tile: Sequence[int],
    rows: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, and what ``infonce_backward`` takes, in order.

    That is, the rows of both sides as they are multiplied, empty where those are the arguments;
    their lengths, or empty; the scale; ``launch_rows.scalars``; both sides of ``row_stats``; and
    the exps of the first sweep, empty unless ``keep``.
    """
    with torch.cuda.device_of(a):
        scale = log_scale.exp().float()
        units, lengths, x, longest = launch_rows.prepare(
            a, b, scale, dtype=dtype, normalize=normalize
        )
        scalars, exact = launch_rows.scalars(longest, scale, len(a), len(b))
        if len(units[0]):
            a, b = units
        pairs = Pairs.diagonal(a, b)
        kernels = Kernels(scale, How.of(tile, rows, 0, precision))
        n, m = pairs.shape
        kept = pairs.buffer((n, padded(m)) if keep else (0, 0), exps_type(a))
        found = passes.first_sweep(
            pairs, kernels, shift=scalars, exact=exact, exps=kept if keep else None
        )
        positive = x[:n], x[:m]
        logs = found.row_log, found.column_log
        loss, row_side, column_side = launch_rows.stats(logs, positive, scalars)
        return loss, *units, *lengths, scale, scalars, exact, row_side, column_side, kept


@infonce_forward.operator.register_fake
def _(
    a: Tensor,
    b: Tensor,
    _: Tensor,
    dtype: torch.dtype,
    normalize: bool,
    keep: bool,
    *choices: Any,
) -> tuple[Tensor, ...]:
    del choices
    n, m = a.shape[0], b.shape[0]  # len would make them constants
    write = normalize or a.dtype != dtype or b.dtype != dtype

    def single(*shape: int) -> Tensor:
        return a.new_empty(shape, dtype=torch.float32)

    return (
        single(),
        *(x.new_empty(x.shape if write else (0, 0), dtype=dtype) for x in (a, b)),
        *(single(x if normalize else 0) for x in (n, m)),
        single(),
        single(6),
        a.new_empty((), dtype=torch.uint8),
        *(single(3, x) for x in (n, m)),
        a.new_empty(
            (n, padded(m)) if keep else (0, 0), dtype=exps_type(a.new_empty(0, dtype=dtype))
        ),
    )


@operator
def infonce_backward(
    outer: Tensor,
    a: Tensor,
    b: Tensor,
    lengths: Sequence[Tensor],
    scale: Tensor,
    scalars: Tensor,
    exact: Tensor,
    row_side: Tensor,
    column_side: Tensor,
    kept: Tensor,
    a_dtype: torch.dtype,
    b_dtype: torch.dtype,
    tile: Sequence[int],
    rows: int,
    columns: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, of b, in their types, and of the log scale."""
    with torch.cuda.device_of(a):
        pairs = Pairs.diagonal(a, b)
        kernels = Kernels(scale, How.of(tile, rows, columns, precision))
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
            (lengths[0], lengths[1]) if len(lengths[0]) else None,
            (a_dtype, b_dtype),
            scale=scale,
            scalars=scalars,
            outer=outer,
            lift=launch_pairs.lift_of(a.dtype),
        )


@infonce_backward.operator.register_fake
def _(outer: Tensor, a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    a_dtype, b_dtype = rest[7:9]
    return (
        torch.empty_like(a, dtype=a_dtype),
        torch.empty_like(b, dtype=b_dtype),
        outer.new_empty((), dtype=torch.float32),
    )


def infonce(
    a: Tensor, b: Tensor, log_scale: Tensor, *, backend: FusedBackend, normalize: bool
) -> Tensor:
    """Return the symmetric ``functional.infonce``."""
    with torch.autocast(a.device.type, enabled=False):
        return cast("Tensor", _InfoNCE.apply(a, b, log_scale, backend, normalize))


class _InfoNCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, log_scale: Tensor, backend: FusedBackend, normalize: bool
    ) -> Tensor:
        ctx.dtypes = a.dtype, b.dtype
        a, b = a.contiguous(), b.contiguous()
        dtype = backend.multiplied_in(a, b)
        keep = any(ctx.needs_input_grad) and backend.keeps(len(a), len(b), dtype, a.device)
        loss, *units, a_length, b_length, scale, scalars, exact, row_side, column_side, kept = (
            infonce_forward(
                a,
                b,
                log_scale,
                dtype,
                normalize,
                keep,
                backend.tile,
                backend.rows,
                backend.precision,
            )
        )
        if len(units[0]):
            a, b = units
        ctx.save_for_backward(
            a, b, a_length, b_length, scale, scalars, exact, row_side, column_side, kept
        )
        ctx.backend = backend
        return loss

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        a, b, a_length, b_length, *rest = ctx.saved_tensors
        choices = ctx.backend.choices(a, len(b))
        with torch.autocast(a.device.type, enabled=False):
            a_grad, b_grad, scale_grad = infonce_backward(
                outer[0], a, b, [a_length, b_length], *rest, *ctx.dtypes, **choices
            )
        return a_grad, b_grad, scale_grad, None, None
