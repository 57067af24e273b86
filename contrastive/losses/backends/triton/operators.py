"""The passes as custom operators of torch, so that ``torch.compile`` takes each as a whole.

Their arguments are plain: tensors, numbers and strings. ``kind``, ``offset``, the ids and the
counts are those of ``PairLabels``; ``tile``, ``rows``, ``columns``, ``gemm`` and ``precision`` are
those of ``FusedBackend``. Nothing here waits for the GPU, so a CUDA graph can hold it.

Shapes: N rows of a, M rows of b, D wide, T tiles, K matched pairs.
"""

# pyright: reportUnusedFunction=false
# ruff: noqa: PLR0917 - operators have no keyword-only arguments

from __future__ import annotations

from collections.abc import Callable, Sequence  # noqa: TC003 - operators read annotations
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.library import custom_op
from torch.nn.functional import softplus

from contrastive.losses.backends.row_stats import RowStats, row_stats
from contrastive.losses.backends.triton import launch_rows, passes, tiles
from contrastive.losses.backends.triton.blocks import How, Pairs, padded, slices
from contrastive.losses.backends.triton.launch_pairs import Kernels
from contrastive.losses.backends.triton.passes import first_sweep, put

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Operator(Generic[P, T]):
    """A function that is one operator of torch in a compiled program.

    Elsewhere it is the plain function, since an operator that is made in Python takes long to call.
    """

    function: Callable[P, T]
    operator: Any

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it."""
        if torch.compiler.is_compiling():
            return cast("T", self.operator(*args, **kwargs))
        return self.function(*args, **kwargs)


def operator(function: Callable[P, T]) -> Operator[P, T]:
    """Make a function an operator."""
    name = f"contrastive::{cast('Any', function).__name__}"
    return Operator(function, custom_op(name, mutates_args=())(function))


@operator
def infonce_sums(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    row_count: Tensor,
    column_count: Tensor,
    kind: str,
    offset: int,
    keep: bool,
    tile: Sequence[int],
    rows: int,
    gemm: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of ``SoftmaxSums`` in order, then the shift.

    Unless ``keep``, no exps are kept for ``infonce_gradients`` and that field is empty.
    """
    with torch.cuda.device_of(a):
        pairs = Pairs(a, b, a_ids, b_ids, row_count, column_count, kind, offset)
        kernels = Kernels(scale, How.of(tile, rows, 0, gemm, precision))
        n, m = pairs.shape
        kept = pairs.buffer((n, padded(m)) if keep else (0, 0), _exps_type(a))
        found = first_sweep(pairs, kernels, exps=kept if keep else None)
        return *found[:4], found[4].view(torch.bool), kept, found[5]


@infonce_sums.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    keep = rest[7]
    n, m = a.shape[0], b.shape[0]  # len would make them constants
    row, column = (a.new_empty(x, dtype=torch.float32) for x in (n, m))
    exact = a.new_empty((), dtype=torch.bool)
    kept = a.new_empty((n, padded(m)) if keep else (0, 0), dtype=_exps_type(a))
    return (
        row,
        column,
        torch.empty_like(row),
        torch.empty_like(column),
        exact,
        kept,
        a.new_empty((), dtype=torch.float32),
    )


@operator
def infonce_gradients(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    row_side: Sequence[Tensor],
    column_side: Sequence[Tensor],
    shift: Tensor,
    exact: Tensor,
    kept: Tensor | None,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    row_count: Tensor,
    column_count: Tensor,
    kind: str,
    offset: int,
    tile: Sequence[int],
    rows: int,
    columns: int,
    gemm: str,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``; the sides are the fields of ``RowStats`` in order."""
    with torch.cuda.device_of(a):
        pairs = Pairs(a, b, a_ids, b_ids, row_count, column_count, kind, offset)
        kernels = Kernels(scale, How.of(tile, rows, columns, gemm, precision))
        exact = exact.view(torch.uint8)

        def write(g: Tensor, here: slice, there: slice) -> None:
            block = pairs.block(here, there)
            sides = {
                "rows": [x[here] for x in row_side],
                "columns": [x[there] for x in column_side],
            }
            if kept is None:
                kernels.weigh(block, g, shift=shift, **sides)
            else:
                kernels.rescale(block, kept[here, there.start :], g, shift=shift, **sides)
            kernels.weigh_exact(block, g, exact=exact, **sides)
            put(kernels, block, g, **sides)

        return passes.gradients(pairs, kernels, write)


@infonce_gradients.operator.register_fake
def _(a: Tensor, b: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _like(a), _like(b)


@operator
def infonce_one_sided(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    row_count: Tensor,
    column_count: Tensor,
    kind: str,
    offset: int,
    gradients: bool,
    tile: Sequence[int],
    rows: int,
    columns: int,
    gemm: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the rows' losses, ``s G b`` and ``s G^T a``, or two empty tensors."""
    with torch.cuda.device_of(a):
        pairs = Pairs(a, b, a_ids, b_ids, row_count, column_count, kind, offset)
        kernels = Kernels(scale, How.of(tile, rows, columns, gemm, precision))
        shift = launch_rows.shift(a, b, scale)
        loss_N = pairs.buffer(len(a))
        none = torch.full_like(column_count, torch.inf, dtype=torch.float32)
        column_side = none, none, torch.zeros_like(none)
        of_rows: list[Tensor] = []

        def look(here: slice, exps: Tensor | None) -> Tensor:
            block = pairs.block(here)
            log, _, positive, _, exact, _ = first_sweep(
                block, kernels, exps=exps, shift=shift, columns=False
            )
            loss_N[here], found = row_stats(log, positive, block.row_count, loss_N.new_ones(()))
            of_rows[:] = _fields(found)
            return exact

        def write(g: Tensor, here: slice, there: slice) -> None:
            # g holds the exps until rescale writes over them: a program writes what it read
            in_place = whole and kind != "groups" and g.dtype == _exps_type(a)
            if there.start == 0:
                exacts[:] = [look(here, g if in_place else None)]
            block = pairs.block(here, there)
            sides = {"rows": of_rows, "columns": [x[there] for x in column_side]}
            if in_place:
                kernels.rescale(block, g, g, shift=shift, **sides)
            else:
                kernels.weigh(block, g, shift=shift, **sides)
            kernels.weigh_exact(block, g, exact=exacts[0], **sides)
            put(kernels, block, g, **sides)

        whole = columns == 0 or columns >= len(b)
        exacts: list[Tensor] = []
        if gradients:
            grads = passes.gradients(pairs, kernels, write)
        else:
            grads = pairs.buffer(0), pairs.buffer(0)
            for here in slices(len(a), rows or tiles.BLOCK_ROWS):
                look(here, None)
        return loss_N.sum(dtype=torch.float64).float(), *grads


@infonce_one_sided.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gradients = rest[7]
    total = a.new_empty((), dtype=torch.float32)
    return total, *((_like(a), _like(b)) if gradients else (_like(a, 0), _like(b, 0)))


@operator
def sigmoid_sweep(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    row_count: Tensor,
    column_count: Tensor,
    kind: str,
    offset: int,
    gradients: bool,
    tile: Sequence[int],
    rows: int,
    columns: int,
    gemm: str,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum of the pairs' losses, ``s G b``, ``s G^T a`` and the sum of G.

    Without ``gradients`` the two in the middle are empty and the last is 0.
    """
    with torch.cuda.device_of(a):
        pairs = Pairs(a, b, a_ids, b_ids, row_count, column_count, kind, offset)
        kernels = Kernels(scale, How.of(tile, rows, columns, gemm, precision))
        total, g_total = (torch.zeros((), dtype=torch.float64, device=a.device) for _ in range(2))

        def write(g: Tensor | None, here: slice, there: slice) -> None:
            block = pairs.block(here, there)
            loss_T, g_T = kernels.sigmoid(block, g, bias=bias)
            x_K = pairs.buffer(0) if kind == "groups" else kernels.matched_logits(block) + bias
            total.add_(loss_T.sum(dtype=torch.float64)).add_(softplus(-x_K).sum())
            if g is not None and g_T is not None:
                g_K = -torch.sigmoid(-x_K)
                g_total.add_(g_T.sum(dtype=torch.float64)).add_(g_K.sum())
                if kind != "groups":
                    kernels.put(block, g, g_K)

        if gradients:
            grads = passes.gradients(pairs, kernels, write)
        else:
            grads = pairs.buffer(0), pairs.buffer(0)
            for here in slices(len(a), kernels.how.chunk(pairs)):
                write(None, here, slice(0, len(b)))
        return total.float(), *grads, g_total.float()


@sigmoid_sweep.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gradients = rest[8]
    total, g_total = (a.new_empty((), dtype=torch.float32) for _ in range(2))
    grads = (_like(a), _like(b)) if gradients else (_like(a, 0), _like(b, 0))
    return total, *grads, g_total


@operator
def normalize_rows(raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the rows of ``raw`` with length 1, in ``dtype``, and their lengths, fp32."""
    with torch.cuda.device_of(raw):
        return launch_rows.normalize_rows(raw, dtype)


@normalize_rows.operator.register_fake
def _(raw: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.empty_like(raw, dtype=dtype), raw.new_empty(raw.shape[0], dtype=torch.float32)


@operator
def finalize_gradient(
    x: Tensor, grad: Tensor, factor: Tensor, length: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return what ``LossBackend.finish`` does."""
    with torch.cuda.device_of(x):
        out, dot_N = launch_rows.finalize_gradient(x, grad, factor, length, dtype)
        return out, dot_N.sum()


@finalize_gradient.operator.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=rest[-1]), x.new_empty((), dtype=torch.float32)


def _like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape or x.shape, dtype=torch.float32)


def _exps_type(a: Tensor) -> torch.dtype:
    """Return the type in which exps are kept: fp16 does not have the range."""
    return torch.float32 if a.dtype == torch.float32 else torch.bfloat16


def _fields(found: RowStats) -> tuple[Tensor, Tensor, Tensor]:
    return found.log_norm, found.log_norm_positives, found.positive_weight
