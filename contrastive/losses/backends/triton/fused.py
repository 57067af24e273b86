"""All pairs in tiles that never leave a processor's registers: Triton kernels for a GPU.

InfoNCE takes four units of work and memory for some rows of G (``tiles.chunk_rows``): a kernel
multiplies and adds up exps, one unit; another multiplies again and writes G, the second; the
library's products make the gradients of it, the third and fourth. Exponents, the single shift and
what follows if it is not enough are those of ``chunked``; G is kept in the type of the products,
with positives taken in fp32 before rounding.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any, Literal

import torch

from contrastive.losses.backends.base import LossBackend, SoftmaxSums
from contrastive.losses.backends.triton import blocks, launch_rows, operators, tiles

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.losses.backends.pair_labels import PairLabels
    from contrastive.losses.backends.row_stats import RowStats


CACHE_BYTES = 4 * 2**30


class FusedBackend(LossBackend):
    """Triton kernels for embeddings of 16 or 32 bits on a GPU.

    ``one_sided`` takes three units, as ``sigmoid`` does, but four in groups, in fp16 and with
    ``low_memory``. In fp16, G loses digits below 1e-9; bf16 does not.
    """

    def __init__(
        self,
        *,
        matmul_dtype: torch.dtype | None = None,
        gemm: Literal["triton", "cublas"] = "triton",
        precision: Literal["ieee", "tf32x3", "tf32"] = "ieee",
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
            gemm: who makes the logits: the kernels, or the library, which writes some rows of them
                to memory.
            precision: how the kernels multiply fp32; a Triton ``input_precision``.
            low_memory: make G in blocks of 64 MB instead of whole rows.
            cache_bytes: keep all exps of the first sweep for the second if they fit in so much
                memory; InfoNCE then takes three units. If None, 4 GB on a GPU, and none with
                ``low_memory``. Not for groups, and not in fp16.
            tile: for all kernels; if None, from the table.
            rows: of a block of G; if None, from the table.
            columns: of a block of G; if None, all, or from the table for ``low_memory``.
        """
        self.matmul_dtype = matmul_dtype
        self.gemm = gemm
        self.precision = precision
        self.low_memory = low_memory
        self.cache_bytes = cache_bytes
        self.tile = () if tile is None else astuple(tile)
        self.rows = rows or 0
        self.columns = columns or 0

    def sums(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> SoftmaxSums:
        """See ``LossBackend``."""
        a, b = self._multiplied(a, b)
        size = a.shape[0] * blocks.padded(b.shape[0]) * a.element_size()
        possible = labels.kind != "groups" and a.dtype != torch.float16
        bound = self.cache_bytes
        if bound is None:
            bound = CACHE_BYTES if a.is_cuda and not self.low_memory else 0
        keep = gradients and possible and size <= bound
        *found, kept, shift = operators.infonce_sums(
            a,
            b,
            scale.float(),
            **_plain(labels),
            keep=keep,
            tile=self.tile,
            rows=self.rows,
            gemm=self.gemm,
            precision=self.precision,
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
            **self._choices(a, b),
        )

    def one_sided(
        self, a: Tensor, b: Tensor, scale: Tensor, labels: PairLabels, *, gradients: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See ``LossBackend``."""
        a, b = self._multiplied(a, b)
        return operators.infonce_one_sided(
            a, b, scale.float(), **_plain(labels), gradients=gradients, **self._choices(a, b)
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
            **self._choices(a, b),
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

    def _multiplied(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings in the type of the products."""
        _check(a)
        _check(b)
        dtype = torch.promote_types(a.dtype, b.dtype)
        if dtype == torch.float32:
            dtype = self.matmul_dtype or dtype
        return a.to(dtype).contiguous(), b.to(dtype).contiguous()

    def _choices(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        rows, columns = self.rows, self.columns
        if self.low_memory and not columns:
            rows = rows or blocks.chunk_rows(a, len(b))
            columns = tiles.low_memory_columns(rows, blocks.NUMBERS[a.dtype])
        return {
            "tile": self.tile,
            "rows": rows,
            "columns": columns,
            "gemm": self.gemm,
            "precision": self.precision,
        }


def _plain(labels: PairLabels) -> dict[str, Any]:
    a_ids, b_ids = labels.a_ids_N, labels.b_ids_M
    return {
        "a_ids": None if a_ids is None else a_ids.contiguous(),
        "b_ids": None if b_ids is None else b_ids.contiguous(),
        "row_count": labels.row_count_N.contiguous(),
        "column_count": labels.column_count_M.contiguous(),
        "kind": labels.kind,
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
