"""The logits of all pairs, in plain torch, some rows at a time.

A chunk of logits is one matrix product into a buffer that is used again. What follows, element by
element, runs in pieces of a few rows that stay in a core's cache.

Shapes: N rows of a, M rows of b, D wide, C rows of a chunk, R rows of a piece, P positive pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch

from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.products import multiply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels

CHUNK_BYTES = 128 * 2**20
CHUNK_ROWS = 256, 1024  # fewer make the product slow, more make it no faster
PIECE_NUMBERS = 2**18  # 1 MB of fp32, half of a usual L2 cache
LOST = 2**-17  # share of a sum that may be lost in terms below the smallest number
MAX_TERMS = 2**20  # so many terms of the largest size add up without overflow


@dataclass(frozen=True)
class Piece:
    """Some rows of logits, and which pairs of them are positives, or take no part."""

    x_RM: Tensor
    """Logits, or exps that were kept; they may be overwritten."""
    here: slice
    """Which rows of a."""
    i_P: Tensor
    """Rows of the positives, counted from the first of the piece."""
    j_P: Tensor
    positive_P: Tensor
    """Logits of the positives."""
    neither: tuple[Tensor, Tensor] | None
    first: int = 0
    """The column of all that is the first here."""
    stop: int = 0
    """The row after the last of the chunk."""
    kept: bool = False
    """Whether ``x_RM`` holds exps, less the shift, of negatives and 0 of what takes no part."""

    def leave_out(self, value: float = -torch.inf, *, of: Tensor | None = None) -> None:
        """Take positives, and what takes no part, out of what is summed: ``x_RM`` unless given."""
        of = self.x_RM if of is None else of
        of[self.i_P, self.j_P] = value
        if self.neither is not None:
            of[self.neither] = value


@dataclass(frozen=True)
class Sweep:
    """How the logits are made, and how many at a time."""

    rows: int | None = None
    """Of a chunk; as many as fit ``CHUNK_BYTES`` if None."""
    matmul_dtype: torch.dtype | None = None
    """In which embeddings are multiplied; see ``ChunkedBackend``."""

    def over(
        self,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        labels: PairLabels,
        visit_: Callable[[Piece], None],
        *,
        gradients: bool,
        kept: Tensor | None = None,
        known: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Show ``visit_`` the logits of all pairs, some rows at a time.

        Args:
            a: ``[N, D]``.
            b: ``[M, D]``.
            scale: scalar.
            labels: who is whose positive.
            visit_: may overwrite the logits of a piece.
            gradients: what ``visit_`` leaves is G.
            kept: of the last rows, where ``visit_`` leaves what is to be kept.
            known: ``kept`` holds that already, so these rows are not multiplied again; what
                ``visit_`` gets of them is a copy.

        Returns:
            ``s G b`` ``[N, D]`` and ``s G^T a`` ``[M, D]``, or two empty tensors.
        """
        dtype, logit_dtype, gradient_dtype = self._dtypes(a, b)
        scale = scale.to(dtype)
        matched_N = _matched_logits(a, b, scale, labels) if logit_dtype.itemsize < 4 else None
        a_grad, b_grad = (a.new_empty(x.shape if gradients else 0, dtype=dtype) for x in (a, b))
        left, right = a.to(logit_dtype), b.to(logit_dtype).T
        # scaled before the product, which is larger, unless that would round it once more
        factor = scale if logit_dtype.itemsize < 4 else None
        a, b = a.to(gradient_dtype), b.to(gradient_dtype)
        chunks = self.chunks(len(a), len(b))
        buffer = a.new_empty(chunks[0].stop, len(b), dtype=dtype)
        first_kept = len(a) - (0 if kept is None else len(kept))
        for chunk in chunks:
            stored_CM = None
            if kept is not None and chunk.start >= first_kept:
                stored_CM = kept[chunk.start - first_kept : chunk.stop - first_kept]
            exps_CM = stored_CM if known else None
            x_CM = buffer[: chunk.stop - chunk.start]
            if exps_CM is None:
                x_CM = x_CM if stored_CM is None else stored_CM
                multiply(
                    left[chunk] if factor is not None else left[chunk] * scale, right, out=x_CM
                )
            for here in _pieces(chunk, x_CM):
                part = slice(here.start - chunk.start, here.stop - chunk.start)
                x_RM = x_CM[part]
                if exps_CM is not None:
                    x_RM.copy_(exps_CM[part])
                elif factor is not None:
                    x_RM.mul_(factor)
                i, j, neither = labels.pairs(here.start, here.stop)
                positive_P = x_RM[i, j] if matched_N is None else matched_N[here][i]
                visit_(Piece(x_RM, here, i, j, positive_P, neither, kept=exps_CM is not None))
            if gradients:
                g_CM = x_CM.to(gradient_dtype)
                multiply(g_CM, b, out=a_grad[chunk])
                multiply(g_CM.T, a[chunk], out=b_grad, add=chunk.start > 0)
        return a_grad.mul_(scale), b_grad.mul_(scale)

    def half(
        self,
        a: Tensor,
        scale: Tensor,
        labels: PairLabels,
        visit_: Callable[[Piece], None],
        *,
        gradients: bool,
    ) -> Tensor:
        """Show ``visit_`` the logits of rows of a with rows of a, from the first of their chunk on.

        So a pair of one chunk is met twice, as row and column and the other way round, any other
        once. Returns ``s G a`` ``[N, D]`` for a symmetric G, or an empty tensor.
        """
        dtype, logit_dtype, gradient_dtype = self._dtypes(a, a)
        scale = scale.to(dtype)
        grad = a.new_zeros(a.shape if gradients else 0, dtype=dtype)
        left, a = a.to(logit_dtype), a.to(gradient_dtype)
        n = len(a)
        chunks = self.chunks(n, n)
        buffer = a.new_empty(chunks[0].stop * n, dtype=dtype)
        for chunk in chunks:
            first, stop = chunk.start, chunk.stop
            x_CM = buffer[: (stop - first) * (n - first)].view(stop - first, n - first)
            multiply(left[chunk], left[first:].T, out=x_CM)
            for here in _pieces(chunk, x_CM):
                x_RM = x_CM[here.start - first : here.stop - first].mul_(scale)
                i, j, neither = labels.pairs(here.start, here.stop, first=first)
                visit_(Piece(x_RM, here, i, j, x_RM[i, j], neither, first, stop))
            if gradients:
                g_CM = x_CM.to(gradient_dtype)
                multiply(g_CM, a[first:], out=grad[chunk], add=True)
                multiply(g_CM[:, stop - first :].T, a[chunk], out=grad[stop:], add=True)
        return grad.mul_(scale)

    def chunks(self, n: int, m: int) -> list[slice]:
        """Return which rows come at a time: as many each as fit, and about equally many."""
        most = self.rows or min(max(CHUNK_BYTES // (4 * m), CHUNK_ROWS[0]), CHUNK_ROWS[1])
        rows = max(1, -(-n // max(1, -(-n // most))))
        return [slice(start, min(start + rows, n)) for start in range(0, max(1, n), rows)]

    def _dtypes(self, a: Tensor, b: Tensor) -> tuple[torch.dtype, torch.dtype, torch.dtype]:
        """Return the types of sums, and of the products for logits and for gradients."""
        dtype = accumulation_dtype(a, b)
        if self.matmul_dtype is None and a.is_cuda and a.dtype == b.dtype:
            return dtype, a.dtype, a.dtype
        multiplied = self.matmul_dtype or dtype
        return dtype, multiplied if a.is_cuda else dtype, multiplied


def _pieces(chunk: slice, x_CM: Tensor) -> Iterator[slice]:
    # on a GPU a launch costs more than a cache miss
    step = len(x_CM) if x_CM.is_cuda else max(1, PIECE_NUMBERS // x_CM.shape[1])
    for start in range(chunk.start, chunk.stop, max(1, step)):
        yield slice(start, min(start + step, chunk.stop))


def _matched_logits(a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels) -> Tensor | None:
    """Return ``[N]`` logits of the matched pairs, 0 for a row without; None in groups.

    A GPU adds up products in half precision with fewer digits than fp32 has; the loss is as exact
    as these logits.
    """
    if labels.kind == "groups":
        return None
    matched_N = a.new_zeros(len(a), dtype=scale.dtype)
    i, j, _ = replace(labels, kind="diagonal").pairs(0, len(a))
    matched_N[i] = (a[i].to(scale.dtype) * b[j].to(scale.dtype)).sum(1) * scale
    return matched_N


def shift_of(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Return the number to subtract from every logit so that no sum of exps overflows."""
    dtype = accumulation_dtype(a, b)
    if not len(a):  # a rank without rows
        return scale.new_zeros((), dtype=dtype)
    longest = _longest(a.to(dtype)) * _longest(b.to(dtype))
    room = math.log(torch.finfo(dtype).max / MAX_TERMS)
    return (scale * longest - room).clamp_(min=0)


def _longest(x: Tensor) -> Tensor:
    return cast("Tensor", torch.linalg.vector_norm(x, dim=1)).max()


def shift_(x: Tensor, shift: Tensor) -> Tensor:
    """Subtract the shift from logits; on a CPU it is known to be 0 most of the time."""
    return x.sub_(shift) if x.is_cuda or shift else x
