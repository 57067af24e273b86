"""How the kernels over pairs are called.

Shapes: N rows of a, M rows of b, D wide, T tiles.
"""

# the types of Triton know arguments of kernels as they are in a kernel only
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from contrastive.losses.backends.triton import gradient_kernels, sum_kernels, tiles
from contrastive.losses.backends.triton.blocks import How, Pairs, padded, processors, tiles_of
from contrastive.losses.backends.triton.launch_rows import FUSION, INTERPRETED

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
        """Call ``sum_kernels.sums``, and for groups ``group_sums``."""
        tile = self.how.tile_of("sums", pairs)
        where = {
            "shift": shift,
            "row_sum": row_sum,
            "column_sum": column_sum if columns else None,
            "row_positive": row_positive,
            "column_positive": column_positive if columns else None,
            "COLUMNS": columns,
        }
        sum_kernels.sums[_grid(pairs, tile)](
            **self._common(pairs, tile),
            **where,
            exps=exps,
            match=pairs.match,
            stride=padded(len(pairs.b)),
            KIND=pairs.kind,
            KEEP=exps is not None,
        )
        if pairs.kind == "groups":
            tile = self.how.tile_of("group_sums", pairs)
            down, _ = tiles_of(pairs, tile)
            sum_kernels.group_sums[(down,)](
                **self._common(pairs, tile),
                **where,
                match=pairs.match,
                row_count=pairs.row_count,
                column_count=pairs.column_count,
            )

    def peaks(
        self, pairs: Pairs, *, exact: Tensor, row_log: Tensor, column_log: Tensor | None
    ) -> None:
        """Call ``sum_kernels.peaks``."""
        tile = self.how.tile_of("peaks", pairs)
        down, across = tiles_of(pairs, tile)
        sum_kernels.peaks[(down + (0 if column_log is None else across),)](
            **self._common(pairs, tile),
            row_count=pairs.row_count,
            column_count=pairs.column_count,
            match=pairs.match,
            exact=exact,
            row_log=row_log,
            KIND=pairs.kind,
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
            **self._of_tile(pairs, tile),
            row_log=rows[0],
            column_log=columns[0],
            g=g,
            shift=shift,
            n=len(pairs.a),
            m=len(pairs.b),
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
        down, _ = tiles_of(pairs, tile)
        most = 2 * processors(pairs.a.device) if pairs.a.is_cuda else 3
        gradient_kernels.complete[(min(most, down),)](
            **self._common(pairs, tile),
            **dict(zip(gradient_kernels.SIDES, (*rows, *columns), strict=True)),
            match=pairs.match,
            g=g,
            exact=exact,
            stride=g.stride(0),
            KIND=pairs.kind,
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
            match=pairs.match,
            KIND=pairs.kind,
            tile_loss=loss_T,
            tile_g=g_T,
            stride=padded(len(pairs.b)),
            LIFT=0.0 if g is None else lift_of(g.dtype),
            GRADIENTS=g is not None,
        )
        return loss_T, g_T

    def _common(self, pairs: Pairs, tile: tiles.Tile) -> dict[str, Any]:
        return self._of_tile(pairs, tile) | {
            "first": pairs.first,
            "last": pairs.last,
            "n": len(pairs.a),
            "m": len(pairs.b),
            "offset": pairs.offset,
        }

    def _of_tile(self, pairs: Pairs, tile: tiles.Tile) -> dict[str, Any]:
        return {
            "a": pairs.a,
            "b": pairs.b,
            "scale": self.scale,
            "D": pairs.a.shape[1],
            "R": tile.rows,
            "C": tile.columns,
            "K": tile.depth,
            "PRECISION": self.how.precision if pairs.a.dtype == torch.float32 else "ieee",
            "INTERPRETED": INTERPRETED,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
            **FUSION,
        }


def _grid(pairs: Pairs, tile: tiles.Tile) -> tuple[int]:
    down, across = tiles_of(pairs, tile)
    return (down * across,)


def lift_of(dtype: torch.dtype) -> float:
    """Return what G is multiplied by in place of the scale; 0 if by the scale."""
    return LIFT if dtype == torch.float16 else 0.0
