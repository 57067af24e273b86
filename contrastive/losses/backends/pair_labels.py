"""What the rows of a batch are to each other, without a mask of all pairs.

Shapes: N rows of a, M rows of b, P positive pairs of a block of rows, Q other pairs of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Positives


@dataclass(frozen=True)
class PairLabels:
    """Who is whose positive, and who does not take part.

    The rows of a may be a block of a larger batch: row i is then its row ``i + offset``.
    """

    kind: Literal["diagonal", "masked", "groups"]
    """diagonal: row i and column i + offset are positive. masked: likewise, but other pairs with
    equal ids are masked. groups: every pair with equal ids."""
    offset: int
    a_ids_N: Tensor | None
    b_ids_M: Tensor | None
    row_count_N: Tensor
    """How many positives a row has, fp32."""
    column_count_M: Tensor
    """How many positives a column has among all rows of the batch, fp32."""
    rows_with_positive: Tensor
    """How many rows of the whole batch have a positive, scalar fp32."""
    matched_pairs: Tensor
    """How many matched pairs the global batch has, scalar fp32."""
    without_self: bool = False
    """In groups: row i and column i + offset are one sample, which takes no part."""

    @property
    def columns_with_positive(self) -> Tensor:
        """How many columns have a positive, scalar fp32."""
        return (self.column_count_M > 0).sum().float()

    @property
    def negative_count(self) -> Tensor:
        """``[N]``, how many negatives a row has, fp32; of a whole batch only."""
        if self.without_self and self.kind == "diagonal":
            return torch.full_like(self.row_count_N, self._m - 1)
        if self.a_ids_N is None or self.b_ids_M is None:
            return self._m - self.row_count_N
        equal_N = _equal(self.a_ids_N, self.b_ids_M)
        if self.kind == "masked":  # a matched row counts once, whatever its id
            k = min(len(self.a_ids_N), self._m)
            apart_K = self.a_ids_N[:k] != self.b_ids_M[:k]
            equal_N = equal_N.index_add(0, torch.arange(k, device=equal_N.device), apart_K.float())
        return self._m - equal_N

    @classmethod
    def of(
        cls,
        n: int,
        m: int,
        a_ids: Tensor | None = None,
        b_ids: Tensor | None = None,
        *,
        positives: Positives,
        device: torch.device,
    ) -> PairLabels:
        """Read the roles of a whole batch from its ids.

        Raises:
            ValueError: the ids do not fit the embeddings.
        """
        check_pair_counts(n, m)
        a_ids, b_ids = matched_ids(n, m, a_ids, b_ids)
        k = min(n, m)
        matched_pairs = torch.full((), float(k), device=device)  # a copy from the host would wait
        if positives == "multi" and a_ids is not None and b_ids is not None:
            rows_N, columns_M = _equal(a_ids, b_ids), _equal(b_ids, a_ids)
            return cls(
                "groups",
                0,
                a_ids,
                b_ids,
                rows_N,
                columns_M,
                (rows_N > 0).sum().float(),
                matched_pairs,
            )
        rows_N = (torch.arange(n, device=device) < k).float()
        columns_M = (torch.arange(m, device=device) < k).float()
        if positives == "mask" and a_ids is not None:
            return cls("masked", 0, a_ids, b_ids, rows_N, columns_M, matched_pairs, matched_pairs)
        return cls("diagonal", 0, None, None, rows_N, columns_M, matched_pairs, matched_pairs)

    def block(self, start: int, stop: int) -> PairLabels:
        """Return the roles of the rows ``start`` to ``stop`` of a."""
        ids = None if self.a_ids_N is None else self.a_ids_N[start:stop]
        counts = self.row_count_N[start:stop]
        return replace(self, offset=self.offset + start, a_ids_N=ids, row_count_N=counts)

    def transposed(self) -> PairLabels:
        """Return the roles with a and b exchanged; of a whole batch only."""
        assert self.offset == 0
        return PairLabels(
            self.kind,
            0,
            self.b_ids_M,
            self.a_ids_N,
            self.column_count_M,
            self.row_count_N,
            self.columns_with_positive,
            self.matched_pairs,
            self.without_self,
        )

    def pairs(
        self, start: int, stop: int, *, first: int = 0
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]:
        """Return the positive pairs of some rows of a, and the pairs that take no part.

        Args:
            start: the first row.
            stop: the row after the last.
            first: the first column; those before it are left away, and columns counted from it.

        Returns:
            ``[P]`` rows, counted from ``start``, and ``[P]`` columns; then ``[Q]`` rows and columns
            of pairs that are neither positive nor negative, or None.
        """
        if first:
            rows_P, columns_P, neither = self.pairs(start, stop)
            neither = None if neither is None else _from_column(first, *neither)
            return *_from_column(first, rows_P, columns_P), neither
        if self.kind == "groups":
            rows_P, columns_P = self._equal_ids(start, stop)
            if not self.without_self:
                return rows_P, columns_P, None
            other = columns_P != rows_P + (start + self.offset)
            return rows_P[other], columns_P[other], (rows_P[~other], columns_P[~other])
        first, last = (max(0, min(x + self.offset, self._m)) for x in (start, stop))
        columns_P = torch.arange(first, last, device=self.column_count_M.device)
        rows_P = columns_P - self.offset - start
        if self.kind == "diagonal":
            return rows_P, columns_P, None
        rows_Q, columns_Q = self._equal_ids(start, stop)
        other = columns_Q != rows_Q + (start + self.offset)
        return rows_P, columns_P, (rows_Q[other], columns_Q[other])

    @property
    def _m(self) -> int:
        return len(self.column_count_M)

    @cached_property
    def _columns_by_id(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``[M]`` columns in the order of their ids; where those of a row start; how many.

        The columns with the id of a row are next to each other there.
        """
        assert self.a_ids_N is not None
        assert self.b_ids_M is not None
        ordered_M, columns_M = self.b_ids_M.sort()
        first_N = torch.searchsorted(ordered_M, self.a_ids_N)
        return columns_M, first_N, torch.searchsorted(ordered_M, self.a_ids_N, right=True) - first_N

    def _equal_ids(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return the rows, counted from ``start``, and the columns of all pairs with equal ids."""
        columns_M, first_N, count_N = self._columns_by_id
        first_R, count_R = first_N[start:stop], count_N[start:stop]
        rows_P = torch.repeat_interleave(count_R)
        before_R = count_R.cumsum(0) - count_R
        within_P = torch.arange(len(rows_P), device=rows_P.device) - before_R[rows_P]
        return rows_P, columns_M[first_R[rows_P] + within_P]


def _from_column(first: int, rows_P: Tensor, columns_P: Tensor) -> tuple[Tensor, Tensor]:
    there = columns_P >= first
    return rows_P[there], columns_P[there] - first


def matched_ids(
    n: int, m: int, a_ids: Tensor | None, b_ids: Tensor | None
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Return the ids ``[N]`` and ``[M]`` of both sides, or None for both.

    Raises:
        ValueError: the ids do not fit ``n`` rows of a and ``m`` rows of b.

    Example:
        >>> matched_ids(2, 2, torch.tensor([7, 9]), None)
        (tensor([7, 9]), tensor([7, 9]))
    """
    if a_ids is None:
        if b_ids is None:
            return None, None
        msg = "b_ids without a_ids"
        raise ValueError(msg)
    b_ids = a_ids if b_ids is None else b_ids
    if (*a_ids.shape, *b_ids.shape) != (n, m):
        msg = f"a_ids and b_ids have {(*a_ids.shape, *b_ids.shape)} entries for {(n, m)} embeddings"
        raise ValueError(msg)
    if a_ids is b_ids:
        a_ids = b_ids = _sortable(a_ids)
    return _sortable(a_ids), _sortable(b_ids)


def _sortable(ids: Tensor) -> Tensor:
    """Return ids of a type that torch sorts and searches; equal ones stay equal."""
    wider = ids.dtype in {torch.bool, torch.uint16, torch.uint32, torch.uint64}
    return (ids.long() if wider else ids).contiguous()


def check_pair_counts(n: int, m: int) -> None:
    """Refuse a batch without pairs, whose loss is a mean of nothing.

    Raises:
        ValueError: there are no rows of a, or none of b.

    Example:
        >>> check_pair_counts(4, 2)  # silent: there are two pairs
    """
    if not (n and m):
        msg = f"a loss needs pairs, but a has {n} rows and b has {m}"
        raise ValueError(msg)


def _equal(ids: Tensor, others: Tensor) -> Tensor:
    """Return how many of ``others`` equal each of ``ids``, fp32, without waiting for a device."""
    ordered = others.sort().values
    return (torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)).float()
