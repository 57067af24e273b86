"""How the kernels over pairs are called.

Shapes: N rows of a, M rows of b, D wide, T tiles, K matched pairs.
"""

# the types of Triton know arguments of kernels as they are in a kernel only
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.backends.triton import gradient_kernels, row_kernels, sum_kernels, tiles
from contrastive.losses.backends.triton.blocks import How, Pairs, padded, processors, tiles_of
from contrastive.losses.backends.triton.launch_rows import FUSION, INTERPRETED, filled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LIFT = 2.0**12  # 2 * 2**12 and what is 2**-36 of it are both numbers of fp16


@dataclass(frozen=True)
class Kernels:
    """The kernels over pairs, for one scale."""

    scale: Tensor
    how: How

    def sums(
        self,
        pairs: Pairs,
        *,
        shift: Tensor,
        row_sum: Tensor,
        column_sum: Tensor,
        row_positive: Tensor | None,
        column_positive: Tensor | None,
        exps: Tensor | None,
        columns: bool,
    ) -> None:
        """Call ``sum_kernels.sums``."""
        tile = self.how.tile_of("sums", pairs)
        sum_kernels.sums[_grid(pairs, tile)](
            **self._common(pairs, tile),
            exps=exps,
            row_count=pairs.row_count if pairs.kind == "groups" else None,
            column_count=pairs.column_count if pairs.kind == "groups" else None,
            shift=shift,
            row_sum=row_sum,
            column_sum=column_sum if columns else None,
            row_positive=row_positive,
            column_positive=column_positive if columns else None,
            stride=padded(len(pairs.b)),
            KEEP=exps is not None,
            COLUMNS=columns,
        )

    def peaks(
        self, pairs: Pairs, *, exact: Tensor, row_log: Tensor, column_log: Tensor | None
    ) -> None:
        """Call ``sum_kernels.peaks``."""
        tile = self.how.tile_of("peaks", pairs)
        down, across = tiles_of(pairs, tile)
        sum_kernels.peaks[(down + (0 if column_log is None else across),)](
            **self._common(pairs, tile),
            row_count=pairs.row_count if pairs.kind == "groups" else None,
            column_count=pairs.column_count if pairs.kind == "groups" else None,
            exact=exact,
            row_log=row_log,
            column_log=column_log,
        )

    def weigh(
        self,
        pairs: Pairs,
        g: Tensor,
        *,
        shift: Tensor,
        rows: Sequence[Tensor],
        columns: Sequence[Tensor],
    ) -> None:
        """Call ``gradient_kernels.weigh``; the sides are log, same_log and pull."""
        tile = self.how.tile_of("weigh", pairs)
        gradient_kernels.weigh[_grid(pairs, tile)](
            **self._common(pairs, tile),
            **dict(zip(gradient_kernels.SIDES, (*rows, *columns), strict=True)),
            g=g,
            shift=shift,
            stride=g.stride(0),
            LIFT=lift_of(g.dtype),
        )

    def complete(
        self,
        pairs: Pairs,
        g: Tensor,
        *,
        exact: Tensor,
        rows: Sequence[Tensor],
        columns: Sequence[Tensor],
    ) -> None:
        """Call ``gradient_kernels.complete``, over what ``weigh`` or ``rescale`` has written."""
        tile = self.how.tile_of("complete", pairs)
        gradient_kernels.complete[_few(pairs, tile)](
            **self._common(pairs, tile),
            **dict(zip(gradient_kernels.SIDES, (*rows, *columns), strict=True)),
            g=g,
            exact=exact,
            stride=g.stride(0),
            LIFT=lift_of(g.dtype),
        )

    def rescale(
        self,
        pairs: Pairs,
        exps: Tensor,
        g: Tensor,
        *,
        shift: Tensor,
        rows: Sequence[Tensor],
        columns: Sequence[Tensor],
    ) -> None:
        """Call ``gradient_kernels.rescale``."""
        tile = tiles.Tile(*self.how.tile) if self.how.tile else tiles.RESCALE
        gradient_kernels.rescale[_grid(pairs, tile)](
            exps=exps,
            g=g,
            scale=self.scale,
            shift=shift,
            row_log=rows[0],
            column_log=columns[0],
            n=len(pairs.a),
            m=len(pairs.b),
            exps_stride=exps.stride(0),
            stride=g.stride(0),
            R=tile.rows,
            C=tile.columns,
            LIFT=lift_of(g.dtype),
            num_warps=tile.warps,
            **FUSION,
        )

    def sigmoid(
        self, pairs: Pairs, g: Tensor | None, *, bias: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Call ``gradient_kernels.sigmoid``; return the tiles' losses and sums of G."""
        tile = self.how.tile_of("sigmoid", pairs)
        grid = _grid(pairs, tile)
        loss_T = pairs.buffer(grid)
        g_T = None if g is None else pairs.buffer(grid)
        gradient_kernels.sigmoid[grid](
            **self._common(pairs, tile),
            g=g,
            bias=bias,
            tile_loss=loss_T,
            tile_g=g_T,
            stride=padded(len(pairs.b)),
            LIFT=0.0 if g is None else lift_of(g.dtype),
            GRADIENTS=g is not None,
        )
        return loss_T, g_T

    def matched_logits(self, pairs: Pairs) -> Tensor:
        """Call ``row_kernels.matched_logits``; return the logits of ``pairs.matched``."""
        rows_K, _ = pairs.matched
        width = pairs.a.shape[1]
        x_K = pairs.buffer(rows_K.stop - rows_K.start)
        if len(x_K):
            row_kernels.matched_logits[(len(x_K),)](
                a=pairs.a[rows_K],
                b=pairs.b,
                scale=self.scale,
                x=x_K,
                offset=rows_K.start + pairs.offset,
                D=width,
                W=filled(width),
                **FUSION,
            )
        return x_K

    def put(self, pairs: Pairs, g: Tensor, partners_K: Tensor) -> None:
        """Write G of the matched pairs."""
        lift = self.scale if lift_of(g.dtype) == 0 else lift_of(g.dtype)
        g[:, : len(pairs.b)].diagonal(pairs.offset).copy_(partners_K * lift)

    def _common(self, pairs: Pairs, tile: tiles.Tile) -> dict[str, Any]:
        return {
            "a": pairs.a,
            "b": pairs.b,
            "scale": self.scale,
            **pairs.ids,
            **pairs.sizes,
            "D": pairs.a.shape[1],
            "R": tile.rows,
            "C": tile.columns,
            "K": tile.depth,
            "KIND": pairs.kind,
            "PRECISION": self.how.precision if pairs.a.dtype == torch.float32 else "ieee",
            "INTERPRETED": INTERPRETED,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **FUSION,
        }


def _grid(pairs: Pairs, tile: tiles.Tile) -> tuple[int]:
    down, across = tiles_of(pairs, tile)
    return (down * across,)


def _few(pairs: Pairs, tile: tiles.Tile) -> tuple[int]:
    """Return a grid of programs that share the tiles: as many as run at once."""
    a = pairs.a
    most = 2 * processors(a.device) if a.is_cuda else 3
    return (min(most, *_grid(pairs, tile)),)


def lift_of(dtype: torch.dtype) -> float:
    """Return what G is multiplied by in place of the scale; 0 if by the scale."""
    return LIFT if dtype == torch.float16 else 0.0
