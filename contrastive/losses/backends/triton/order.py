"""Both sides sorted by their ids, so that equal ones meet in few tiles.

Comparing the ids of all pairs takes longer than a tile's product hides: sums with ids took 2.35
times as long as without on an H200. Where both sides are sorted, the columns with the id of a row
are next to each other, and only tiles near a diagonal have any.

Shapes: N rows of a, M rows of b.
"""

# the types of Triton know arguments of kernels as they are in a kernel only
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from contrastive.losses.backends.triton import order_kernels
from contrastive.losses.backends.triton.blocks import Pairs
from contrastive.losses.backends.triton.launch_rows import FUSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

AT_ONCE = 128  # rows of a program


@dataclass(frozen=True)
class Bands:
    """The order of both sides by their ids, and where equal ones are."""

    rows: Tensor
    """``[N]``, which row of the raw a is where."""
    columns: Tensor
    first: Tensor
    """See ``Pairs``; so are the others."""
    last: Tensor
    match: Tensor
    """Empty if there is none."""
    counts: tuple[Tensor, Tensor] | None = None
    """How many positives rows have, and columns, fp32."""

    def pairs(
        self, a: Tensor, b: Tensor, kind: str, counts: tuple[Tensor, Tensor] | None = None
    ) -> Pairs:
        """Return the pairs of rows and counts that are in this order."""
        row_count, column_count = (counts if kind == "groups" else None) or (None, None)
        match = self.match if len(self.match) else None
        return Pairs(a, b, kind, 0, self.first, self.last, match, row_count, column_count)


def sort(a_ids: Tensor, b_ids: Tensor, kind: str, offset: int = 0, *, count: bool) -> Bands:
    """Return the order by ids.

    Args:
        a_ids: ``[N]``.
        b_ids: ``[M]``; sorted once if it is the same tensor.
        kind: see ``Pairs``; or ``others``, see ``Ordered``.
        offset: likewise.
        count: whether positives are counted: of a whole batch only.
    """
    n, m = len(a_ids), len(b_ids)
    matched = kind in {"masked", "others"}
    a_sorted, rows = a_ids.sort(stable=True)
    b_sorted, columns = (a_sorted, rows) if a_ids is b_ids else b_ids.sort(stable=True)
    first, last = (rows.new_empty(n, dtype=torch.int32) for _ in range(2))
    match = rows.new_empty(n if matched else 0, dtype=torch.int32)
    counts = rows.new_empty(n, dtype=torch.float32), rows.new_empty(m, dtype=torch.float32)
    lines = (n, m) if count else (n,)
    order_kernels.bands[(sum(-(-x // AT_ONCE) for x in lines),)](
        a_ids=a_sorted,
        b_ids=b_sorted,
        b_raw=b_ids if matched else None,
        a_order=rows if matched else None,
        b_order=columns if matched else None,
        first=first,
        last=last,
        match=match if matched else None,
        row_count=counts[0] if count else None,
        column_count=counts[1] if count else None,
        n=n,
        m=m,
        offset=offset,
        steps=max(n, m).bit_length(),
        KIND=kind,
        COUNT=count,
        R=AT_ONCE,
        **FUSION,
    )
    return Bands(rows, columns, first, last, match, counts if count else None)


@dataclass(frozen=True)
class Ordered:
    """Pairs in the order of their ids, if they have some, and the way there and back."""

    pairs: Pairs
    rows: Tensor | None
    columns: Tensor | None

    @classmethod
    def of(cls, pairs: Pairs, ids: Sequence[Tensor]) -> Ordered:
        """Sort pairs by the ids of their rows and of their columns, if there are any.

        Of kind ``others`` are groups in which a row is matched with itself, which takes no part.
        """
        if not ids:
            return cls(replace(pairs, row_count=None, column_count=None), None, None)
        a_ids, b_ids = ids
        bands = sort(a_ids, b_ids, pairs.kind, pairs.offset, count=False)
        rows, columns = bands.rows, bands.columns
        kind = "groups" if pairs.kind == "others" else pairs.kind
        counts = None
        if pairs.row_count is not None and pairs.column_count is not None:
            counts = pairs.row_count[rows], pairs.column_count[columns]
        return cls(bands.pairs(pairs.a[rows], pairs.b[columns], kind, counts), rows, columns)


def there(x: Tensor, order: Tensor | None) -> Tensor:
    """Return rows in the order of ids."""
    return x if order is None else x[order]


def back(x: Tensor, order: Tensor | None) -> Tensor:
    """Return rows in the order that they had before."""
    if order is None:
        return x
    out = torch.empty_like(x)
    out[order] = x
    return out
