"""All pairs in tiles that never leave a processor's registers: Triton kernels for a GPU.

InfoNCE takes four units of work and memory for some rows of G (``tiles.chunk_rows``): a kernel
multiplies and adds up exps, one unit; another multiplies again and writes G, the second; the
library's products make the gradients of it, the third and fourth. Exponents, the single shift and
what follows if it is not enough are those of ``chunked``; G is kept in the type of the products,
with positives taken in fp32 before rounding.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.backends.base import LossBackend, SoftmaxSums
from contrastive.losses.backends.pair_labels import check_pair_counts, matched_ids
from contrastive.losses.backends.triton import blocks, launch_rows, operators, tiles
from contrastive.losses.backends.triton import infonce as whole

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses import Positives
    from contrastive.losses.backends.pair_labels import PairLabels
    from contrastive.losses.backends.row_stats import RowStats


CACHE_BYTES = 4 * 2**30
_KINDS: dict[Positives, str] = {"ignore": "diagonal", "mask": "masked", "multi": "groups"}


class FusedBackend(LossBackend):
    """Triton kernels for embeddings of 16 or 32 bits on a GPU.

    ``one_sided`` takes three units, as ``sigmoid`` does, but four in groups, in fp16 and with
    ``low_memory``. In fp16, G loses digits below 1e-9; bf16 does not.
    """

    def __init__(
        self,
        *,
        matmul_dtype: torch.dtype | None = None,
        precision: blocks.Precision = "ieee",
        low_memory: bool = False,
        cache_bytes: int | None = None,
        tile: tiles.Tile | None = None,
        rows: int | None = None,
        columns: int | None = None,
    ) -> None:
        """Choose how to multiply, and in how much memory.

        Args:
            matmul_dtype: type in which fp32 embeddings are multiplied; fp32 if None. Those of half
                precision are multiplied as they are.
            precision: how the kernels multiply fp32; a Triton ``input_precision``.
            low_memory: make G in blocks of 64 MB instead of whole rows, and hold as much of the
                sums of tiles (``tiles.partial_rows``): memory grows with N and M, not with N x M.
            cache_bytes: keep all exps of the first sweep for the second if they fit in so much
                memory; InfoNCE then takes three units. If None, 4 GB on a GPU, and none with
                ``low_memory``. Not for groups, and not in fp16.
            tile: for all kernels; if None, from the table.
            rows: of a block of G; if None, from the table.
            columns: of a block of G; if None, all, or from the table for ``low_memory``.
        """
        self.matmul_dtype = matmul_dtype
        self.low_memory = low_memory
        self.cache_bytes = cache_bytes
        partial_bytes = tiles.LOW_MEMORY_BYTES if low_memory else tiles.PARTIAL_BYTES
        sizes = () if tile is None else astuple(tile)
        self.how = blocks.How(rows or 0, columns or 0, partial_bytes, precision, sizes)

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        a, b = self._multiplied(a, b)
        keep = gradients and self.keeps(a, b, a.dtype, labels.kind)
        *found, kept, shift = operators.infonce_sums(
            a,
            b,
            scale.float(),
            **_plain(labels),
            keep=keep,
            how=self.how.numbers,
        )
        return SoftmaxSums(*found, kept=kept if keep else shift)

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
        a, b = self._multiplied(a, b)
        scale = scale.float()
        exps = None if kept is None or kept.ndim == 0 else kept
        shift = launch_rows.shift(a, b, scale) if kept is None or kept.ndim else kept
        return operators.infonce_gradients(
            a,
            b,
            scale,
            row_side=[rows.log_norm, rows.log_norm_positives, rows.positive_weight],
            column_side=[columns.log_norm, columns.log_norm_positives, columns.positive_weight],
            shift=shift,
            exact=exact,
            kept=exps,
            **_plain(labels),
            how=self.how_of(a, b, a.dtype),
        )

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        a, b = self._multiplied(a, b)
        return operators.infonce_one_sided(
            a,
            b,
            scale.float(),
            **_plain(labels),
            gradients=gradients,
            how=self.how_of(a, b, a.dtype),
        )

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
        a, b = self._multiplied(a, b)
        return operators.sigmoid_sweep(
            a,
            b,
            scale.float(),
            bias.float(),
            **_plain(labels),
            gradients=gradients,
            how=self.how_of(a, b, a.dtype),
        )

    def normalize_rows(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LossBackend``; the rows are rounded to the type of the products."""
        _check(raw)
        return operators.normalize_rows(raw.contiguous(), self.matmul_dtype or raw.dtype)

    def finalize_gradient(
        self, x: Tensor, grad: Tensor, factor: Tensor, length_N: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """See ``LossBackend``."""
        return operators.finalize_gradient(
            x.contiguous(), grad.contiguous(), factor.float(), length_N, dtype
        )

    def infonce(
        self,
        a: Tensor,
        b: Tensor,
        log_scale: Tensor,
        a_ids: Tensor | None = None,
        b_ids: Tensor | None = None,
        *,
        positives: Positives = "multi",
        normalize: bool = False,
    ) -> Tensor:
        """Return the symmetric ``functional.infonce`` of one process.

        It is that of ``backends.all_pairs.infonce``, in a sixth of the launches.
        """
        _check(a)
        _check(b)
        check_pair_counts(len(a), len(b))
        a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
        kind = "diagonal" if a_ids is None else _KINDS[positives]
        if kind == "diagonal":
            a_ids = b_ids = None
        dtype = self.multiplied_in(a, b)
        return whole.infonce(
            a,
            b,
            log_scale,
            [] if a_ids is None or b_ids is None else [a_ids] if a_ids is b_ids else [a_ids, b_ids],
            kind,
            dtype=dtype,
            normalize=normalize,
            keep=self.keeps(a, b, dtype, kind),
            how=self.how_of(a, b, dtype),
        )

    def multiplied_in(self, a: Tensor, b: Tensor) -> torch.dtype:
        """Return the type of the products."""
        dtype = torch.promote_types(a.dtype, b.dtype)
        return self.matmul_dtype or dtype if dtype == torch.float32 else dtype

    def keeps(self, a: Tensor, b: Tensor, dtype: torch.dtype, kind: str) -> bool:
        """Return whether exps of all pairs may be kept for the second sweep, and fit."""
        bound = self.cache_bytes
        if bound is None:
            bound = CACHE_BYTES if a.is_cuda and not self.low_memory else 0
        size = a.shape[0] * blocks.padded(b.shape[0]) * dtype.itemsize
        return kind in {"diagonal", "masked"} and dtype != torch.float16 and size <= bound

    def how_of(self, a: Tensor, b: Tensor, dtype: torch.dtype) -> list[int]:
        """Return how products in ``dtype`` are made, as an operator takes it."""
        how = self.how
        if self.low_memory and not how.columns:
            rows = how.rows or min(tiles.PARTIAL_ROWS, blocks.chunk_rows(a, len(b), dtype))
            columns = tiles.low_memory_columns(rows, blocks.NUMBERS[dtype])
            how = replace(how, rows=rows, columns=columns)
        return how.numbers

    def _multiplied(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings in the type of the products."""
        _check(a)
        _check(b)
        dtype = self.multiplied_in(a, b)
        return a.to(dtype).contiguous(), b.to(dtype).contiguous()


def _plain(labels: PairLabels) -> dict[str, Any]:
    """Return labels as an operator takes them."""
    ids = [] if labels.kind == "diagonal" else [labels.a_ids_N, labels.b_ids_M]
    tensors = [labels.row_count_N, labels.column_count_M, *(x for x in ids if x is not None)]
    others = labels.kind == "groups" and labels.without_self
    return {
        "labels": [x.contiguous() for x in tensors],
        "kind": "others" if others else labels.kind,
        "offset": labels.offset,
    }


def _check(x: Tensor) -> None:
    """Refuse what the kernels cannot do.

    Raises:
        ValueError: says what, and which execution can.
    """
    other = "take execution chunked"
    if x.dtype not in blocks.NUMBERS:
        msg = f"fused losses take embeddings in bf16, fp16 or fp32, not {x.dtype}; {other}"
        raise ValueError(msg)
    if not x.is_cuda and not launch_rows.INTERPRETED:
        msg = f"fused losses need a GPU, the embeddings are on {x.device}; {other}"
        raise ValueError(msg)
    if x.shape[1] > tiles.WIDEST:
        msg = f"fused losses take a width of at most {tiles.WIDEST}, not {x.shape[1]}; {other}"
        raise ValueError(msg)
