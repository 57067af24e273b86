"""The passes as custom operators of torch, so that ``torch.compile`` takes each as a whole.

Their arguments are plain: tensors, numbers and strings. ``labels`` are the counts of ``PairLabels``
and maybe the ids, of rows and of columns; ``kind`` (see ``order.Ordered``) and ``offset`` are
theirs, too; ``how`` are the numbers of a ``How``. Nothing here waits for the GPU, so a CUDA graph
can hold it.

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

from contrastive.losses.backends.row_stats import RowStats, row_stats
from contrastive.losses.backends.triton import launch_rows, passes, tiles
from contrastive.losses.backends.triton.blocks import How, Pairs, padded, slices
from contrastive.losses.backends.triton.launch_pairs import Kernels
from contrastive.losses.backends.triton.order import Ordered, back, there

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
    labels: Sequence[Tensor],
    kind: str,
    offset: int,
    keep: bool,
    how: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of ``SoftmaxSums`` in order, then the shift.

    Unless ``keep``, no exps are kept for ``infonce_gradients`` and that field is empty.
    """
    with torch.cuda.device_of(a):
        known = _ordered(a, b, labels, kind, offset)
        pairs = known.pairs
        kernels = Kernels(scale, How.of(how))
        n, m = pairs.shape
        kept = pairs.buffer((n, padded(m)) if keep else (0, 0), exps_type(a))
        shift = launch_rows.shift(a, b, scale)
        exact = torch.zeros((), dtype=torch.uint8, device=a.device)
        exps = kept if keep else None
        found = passes.first_sweep(pairs, kernels, shift=shift, exact=exact, exps=exps)
        if found.row_positive is None or found.column_positive is None:
            row_positive, column_positive = launch_rows.matched_logits(a, b, scale, offset)
        else:
            row_positive = back(found.row_positive, known.rows)
            column_positive = back(found.column_positive, known.columns)
        row_log, column_log = back(found.row_log, known.rows), back(found.column_log, known.columns)
        exact = exact.view(torch.bool)
        return row_log, column_log, row_positive, column_positive, exact, kept, shift


@infonce_sums.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    keep = rest[4]
    n, m = a.shape[0], b.shape[0]  # len would make them constants
    row, column = (a.new_empty(x, dtype=torch.float32) for x in (n, m))
    exact = a.new_empty((), dtype=torch.bool)
    kept = a.new_empty((n, padded(m)) if keep else (0, 0), dtype=exps_type(a))
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
    labels: Sequence[Tensor],
    kind: str,
    offset: int,
    how: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return ``s G b`` and ``s G^T a``; the sides are the fields of ``RowStats`` in order."""
    with torch.cuda.device_of(a):
        known = _ordered(a, b, labels, kind, offset)
        pairs = known.pairs
        kernels = Kernels(scale, How.of(how))
        grads = passes.second_sweep(
            pairs,
            kernels,
            rows=[there(x, known.rows) for x in row_side],
            columns=[there(x, known.columns) for x in column_side],
            shift=shift,
            exact=exact.view(torch.uint8),
            exps=kept,
        )
        a_grad, b_grad = passes.unlift(grads, pairs, kernels)
        return back(a_grad, known.rows), back(b_grad, known.columns)


@infonce_gradients.operator.register_fake
def _(a: Tensor, b: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return _like(a), _like(b)


@operator
def infonce_one_sided(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    labels: Sequence[Tensor],
    kind: str,
    offset: int,
    gradients: bool,
    how: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum of the rows' losses, ``s G b`` and ``s G^T a``, or two empty tensors."""
    with torch.cuda.device_of(a):
        known = _ordered(a, b, labels, kind, offset)
        pairs = known.pairs
        kernels = Kernels(scale, How.of(how))
        shift = launch_rows.shift(a, b, scale)
        loss_N = pairs.buffer(len(a))
        positive_N, _ = (
            (None, None) if kind == "groups" else launch_rows.matched_logits(a, b, scale, offset)
        )
        positive_N = None if positive_N is None else there(positive_N, known.rows)
        count_N = there(labels[0], known.rows)
        none = torch.full_like(labels[1], torch.inf)
        column_side = none, none, torch.zeros_like(none)
        exact = torch.empty((), dtype=torch.uint8, device=a.device)
        of_rows: list[Tensor] = []

        def look(here: slice, exps: Tensor | None) -> None:
            sums = passes.first_sweep(
                pairs.block(here),
                kernels,
                shift=shift,
                exact=exact.zero_(),
                exps=exps,
                columns=False,
            )
            positive = sums.row_positive if positive_N is None else positive_N[here]
            assert positive is not None
            loss_N[here], found = row_stats(
                sums.row_log, positive, count_N[here], loss_N.new_ones(())
            )
            of_rows[:] = _fields(found)

        def write(g: Tensor, here: slice, across: slice) -> None:
            # g holds the exps until rescale writes over them: a program writes what it read
            in_place = whole and kind != "groups" and g.dtype == exps_type(a)
            if across.start == 0:
                look(here, g if in_place else None)
            block = pairs.block(here, across)
            sides = {"rows": of_rows, "columns": [x[across] for x in column_side]}
            if in_place:
                kernels.rescale(block, g, g, shift=shift, **sides)
            else:
                kernels.weigh(block, g, shift=shift, **sides)
            kernels.complete(block, g, exact=exact, **sides)

        whole = not 0 < kernels.how.columns < len(b)
        if gradients:
            grads = passes.unlift(passes.gradients(pairs, kernels, write), pairs, kernels)
        else:
            grads = pairs.buffer(0), pairs.buffer(0)
            for here in slices(len(a), kernels.how.rows or tiles.PARTIAL_ROWS):
                look(here, None)
            return loss_N.sum(dtype=torch.float64).float(), *grads
        a_grad, b_grad = (back(*x) for x in zip(grads, (known.rows, known.columns), strict=True))
        return loss_N.sum(dtype=torch.float64).float(), a_grad, b_grad


@infonce_one_sided.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gradients = rest[4]
    total = a.new_empty((), dtype=torch.float32)
    return total, *((_like(a), _like(b)) if gradients else (_like(a, 0), _like(b, 0)))


@operator
def sigmoid_sweep(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    labels: Sequence[Tensor],
    kind: str,
    offset: int,
    gradients: bool,
    how: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum of the pairs' losses, ``s G b``, ``s G^T a`` and the sum of G.

    Without ``gradients`` the two in the middle are empty and the last is 0.
    """
    with torch.cuda.device_of(a):
        known = _ordered(a, b, labels, kind, offset)
        pairs = known.pairs
        kernels = Kernels(scale, How.of(how))
        total, g_total = (torch.zeros((), dtype=torch.float64, device=a.device) for _ in range(2))

        def write(g: Tensor | None, here: slice, across: slice) -> None:
            loss_T, g_T = kernels.sigmoid(pairs.block(here, across), g, bias=bias)
            total.add_(loss_T.sum(dtype=torch.float64))
            if g_T is not None:
                g_total.add_(g_T.sum(dtype=torch.float64))

        if not gradients:
            for here in slices(len(a), kernels.how.chunk(pairs)):
                write(None, here, slice(0, len(b)))
            return total.float(), pairs.buffer(0), pairs.buffer(0), g_total.float()
        a_grad, b_grad = passes.unlift(passes.gradients(pairs, kernels, write), pairs, kernels)
        a_grad, b_grad = back(a_grad, known.rows), back(b_grad, known.columns)
        return total.float(), a_grad, b_grad, g_total.float()


@sigmoid_sweep.operator.register_fake
def _(a: Tensor, b: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    gradients = rest[5]
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
    """Return what ``LossBackend.finalize_gradient`` does."""
    with torch.cuda.device_of(x):
        out, dot_N = launch_rows.finalize_gradient(x, grad, factor, length, dtype)
        return out, dot_N.sum()


@finalize_gradient.operator.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, dtype=rest[-1]), x.new_empty((), dtype=torch.float32)


def _ordered(a: Tensor, b: Tensor, labels: Sequence[Tensor], kind: str, offset: int) -> Ordered:
    row_count, column_count, *ids = labels
    pairs = Pairs(a, b, kind, offset, row_count=row_count, column_count=column_count)
    return Ordered.of(pairs, ids)


def _like(x: Tensor, *shape: int) -> Tensor:
    return x.new_empty(shape or x.shape, dtype=torch.float32)


def exps_type(a: Tensor) -> torch.dtype:
    """Return the type in which exps are kept: fp16 does not have the range."""
    return torch.float32 if a.dtype == torch.float32 else torch.bfloat16


def _fields(found: RowStats) -> tuple[Tensor, Tensor, Tensor]:
    return found.log_norm, found.log_norm_positives, found.positive_weight
