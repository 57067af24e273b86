"""``ChunkedBackend`` under ``torch.compile``: its passes as one operator, taken as a whole.

They look at numbers on their way (is one shift enough; how many pairs have equal ids), which a
compiled graph cannot.

Shapes: N rows of a, M rows of b, D wide, K powers.
"""

# ruff: noqa: PLR0917 - operators have no keyword-only arguments

from __future__ import annotations

from collections.abc import Sequence  # noqa: TC003 - an operator reads its annotations
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from contrastive.losses.backends.base import (
    LossBackend,
    SoftmaxSums,
    accumulation_dtype,
)
from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.chunked_powers import PowerWeights
from contrastive.losses.backends.pair_labels import PairLabels
from contrastive.losses.backends.row_stats import RowStats


class ChunkedOperators(LossBackend):
    """The passes of a ``ChunkedBackend``, each a call of ``by_chunks``."""

    def __init__(self, backend: ChunkedBackend) -> None:
        """Take the choices of a backend."""
        self.backend = backend

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        return SoftmaxSums(*self._call("sums", labels, a, b, scale, gradients=gradients))

    def gradients(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        *,
        rows: RowStats,
        columns: RowStats,
        exact: Tensor,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See ``LossBackend``."""
        assert kept is not None
        given = (*_fields(rows), *_fields(columns), exact, kept)
        a_grad, b_grad = self._call("gradients", labels, a, b, scale, *given)
        return a_grad, b_grad

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        found = self._call("one_sided", labels, a, b, scale, gradients=gradients)
        total, a_grad, b_grad = found
        return total, a_grad, b_grad

    def sigmoid(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        labels: PairLabels,
        *,
        gradients: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        found = self._call("sigmoid", labels, a, b, scale, bias, gradients=gradients)
        total, a_grad, b_grad, g_total = found
        return total, a_grad, b_grad, g_total

    def own_sums(self, a: Tensor, all_a: Tensor, scale: Tensor, labels: PairLabels) -> SoftmaxSums:
        """See ``LossBackend``."""
        found = self._call("own_sums", labels, a, all_a, scale, whole=a is all_a)
        row_log, row_positive, exact = found
        return SoftmaxSums(row_log, row_log, row_positive, row_positive, exact)

    def own_gradient(
        self,
        a: Tensor,
        all_a: Tensor,
        scale: Tensor,
        labels: PairLabels,
        *,
        rows: RowStats,
        columns: RowStats,
        exact: Tensor,
    ) -> Tensor:
        """See ``LossBackend``."""
        given = (*_fields(rows), *_fields(columns), exact)
        (grad,) = self._call("own_gradient", labels, a, all_a, scale, *given, whole=a is all_a)
        return grad

    def power_sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, powers: Sequence[float]
    ) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """See ``chunked_powers``."""
        *found, exact = self._call("power_sums", labels, a, b, scale, powers=powers)
        return found[:3], found[3:], exact

    def power_gradients(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        powers: Sequence[float],
        rows: PowerWeights,
        columns: PowerWeights,
        *,
        exact: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See ``chunked_powers``."""
        given = (a, b, scale, *_fields(rows), *_fields(columns), exact)
        a_grad, b_grad = self._call("power_gradients", labels, *given, powers=powers)
        return a_grad, b_grad

    def _call(
        self,
        name: str,
        labels: PairLabels,
        *tensors: Tensor,
        gradients: bool = False,
        whole: bool = False,
        powers: Sequence[float] = (),
    ) -> list[Tensor]:
        bounds = self.backend.cache_bytes
        counts = labels.row_count_N, labels.column_count_M
        return by_chunks(
            name,
            [*tensors],
            [*counts, labels.rows_with_positive, labels.matched_pairs],
            labels.a_ids_N,
            labels.b_ids_M,
            labels.kind,
            labels.offset,
            labels.without_self,
            self.backend.sweep.rows or 0,
            self.backend.sweep.matmul_dtype,
            -1 if bounds is None else bounds,
            gradients,
            whole,
            [*powers],
        )


@custom_op("contrastive::by_chunks", mutates_args=())
def by_chunks(
    name: str,
    tensors: Sequence[Tensor],
    counts: Sequence[Tensor],
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    kind: str,
    offset: int,
    without_self: bool,
    rows: int,
    matmul_dtype: torch.dtype | None,
    cache_bytes: int,
    gradients: bool,
    whole: bool,
    powers: Sequence[float],
) -> list[Tensor]:
    """Return what the pass ``name`` of the backend gives for its tensors, in order.

    ``counts`` and what follows are the fields of ``PairLabels``, then those of ``ChunkedBackend``,
    then arguments of some passes; ``whole`` says that the second tensor is the first.
    """
    backend = ChunkedBackend(
        rows=rows or None,
        matmul_dtype=matmul_dtype,
        cache_bytes=None if cache_bytes < 0 else cache_bytes,
    )
    labels: Any = PairLabels(kind, offset, a_ids, b_ids, *counts, without_self)  # pyright: ignore
    a, b, scale, *rest = tensors
    b = a if whole else b
    given = a, b, scale
    match name:
        case "sums":
            found = _fields(backend.sums(*given, labels, gradients=gradients))
        case "gradients":
            found = backend.gradients(*given, labels, **_sides(rest), exact=rest[6], kept=rest[7])
        case "one_sided":
            found = backend.one_sided(*given, labels, gradients=gradients)
        case "sigmoid":
            found = backend.sigmoid(*given, rest[0], labels, gradients=gradients)
        case "own_sums":
            own = backend.own_sums(*given, labels)
            found = own.row_log_N, own.row_positive_N, own.exact
        case "own_gradient":
            found = (backend.own_gradient(*given, labels, **_sides(rest), exact=rest[6]),)
        case "power_sums":
            of_rows, of_columns, exact = backend.power_sums(*given, labels, powers)
            found = *(x.clone() for x in (*of_rows, *of_columns)), exact  # parts of one tensor
        case _:
            weights = PowerWeights(*rest[:5]), PowerWeights(*rest[5:10])
            found = backend.power_gradients(*given, labels, powers, *weights, exact=rest[10])
    return [*found]


@by_chunks.register_fake
def _(
    name: str,
    tensors: Sequence[Tensor],
    counts: Sequence[Tensor],
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    kind: str,
    offset: int,
    without_self: bool,
    rows: int,
    matmul_dtype: torch.dtype | None,
    cache_bytes: int,
    gradients: bool,
    whole: bool,
    powers: Sequence[float],
) -> list[Tensor]:
    del counts, a_ids, b_ids, kind, offset, without_self, whole
    a, b = tensors[:2]
    n, m, k, dtype = a.shape[0], b.shape[0], len(powers), accumulation_dtype(a, b)

    def new(*shape: int) -> Tensor:
        return a.new_empty(shape, dtype=dtype)

    exact = torch.empty((), dtype=torch.bool)
    grads = [new(*a.shape), new(*b.shape)]
    if not gradients and name in {"one_sided", "sigmoid"}:
        grads = [new(0), new(0)]
    if name == "sums":
        bound = None if cache_bytes < 0 else cache_bytes
        backend = ChunkedBackend(rows=rows or None, matmul_dtype=matmul_dtype, cache_bytes=bound)
        kept = backend.kept_rows(n, m, dtype) if gradients else 0
        return [new(n), new(m), new(n), new(m), exact, new(kept, m)]
    return {
        "gradients": grads,
        "one_sided": [new(), *grads],
        "sigmoid": [new(), *grads, new()],
        "own_sums": [new(n), new(n), exact],
        "own_gradient": grads[:1],
        "power_sums": [new(k, n), new(k, n), new(n), new(k, m), new(k, m), new(m), exact],
        "power_gradients": grads,
    }[name]


def _sides(rest: Sequence[Tensor]) -> dict[str, RowStats]:
    return {"rows": RowStats(*rest[:3]), "columns": RowStats(*rest[3:6])}


def _fields(of: Any) -> list[Tensor]:
    return [getattr(of, field.name) for field in fields(of)]
