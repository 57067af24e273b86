"""Both sides sorted by their ids, so that equal ones meet in few tiles.

Comparing the ids of all pairs takes longer than a tile's product hides: sums with ids took 2.35
times as long as without on an H200. Where both sides are sorted, the columns with the id of a row
are next to each other, and only tiles near a diagonal have any.

Shapes: N rows of a, M rows of b.
"""

# the types of Triton know arguments of kernels as they are in a kernel only
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from contrastive.losses.backends.triton import order_kernels
from contrastive.losses.backends.triton.blocks import Pairs
from contrastive.losses.backends.triton.launch_rows import FUSION

if TYPE_CHECKING:
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
    """Empty unless of kind ``masked``."""
    counts: tuple[Tensor, Tensor] | None = None
    """How many positives rows have, and columns, fp32."""


def sort(a_ids: Tensor, b_ids: Tensor, kind: str, offset: int = 0, *, count: bool) -> Bands:
    """Return the order by ids.

    Args:
        a_ids: ``[N]``.
        b_ids: ``[M]``; sorted once if it is the same tensor.
        kind: see ``Pairs``.
        offset: likewise.
        count: whether positives are counted: of a whole batch only.
    """
    n, m = len(a_ids), len(b_ids)
    masked = kind == "masked"
    a_sorted, rows = a_ids.sort(stable=True)
    b_sorted, columns = (a_sorted, rows) if a_ids is b_ids else b_ids.sort(stable=True)
    first, last = (rows.new_empty(n, dtype=torch.int32) for _ in range(2))
    match = rows.new_empty(n if masked else 0, dtype=torch.int32)
    counts = rows.new_empty(n, dtype=torch.float32), rows.new_empty(m, dtype=torch.float32)
    lines = (n, m) if count else (n,)
    order_kernels.bands[(sum(-(-x // AT_ONCE) for x in lines),)](
        a_ids=a_sorted,
        b_ids=b_sorted,
        b_raw=b_ids if masked else None,
        a_order=rows if masked else None,
        b_order=columns if masked else None,
        first=first,
        last=last,
        match=match if masked else None,
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
    def of(
        cls,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        row_count: Tensor,
        column_count: Tensor,
        kind: str,
        offset: int,
    ) -> Ordered:
        """Sort what an operator is given."""
        if a_ids is None or b_ids is None or kind == "diagonal":
            return cls(Pairs(a, b, "diagonal", offset), None, None)
        bands = sort(a_ids, b_ids, kind, offset, count=False)
        groups = kind == "groups"
        pairs = Pairs(
            a[bands.rows],
            b[bands.columns],
            kind,
            0,
            bands.first,
            bands.last,
            bands.match if kind == "masked" else None,
            row_count[bands.rows] if groups else None,
            column_count[bands.columns] if groups else None,
        )
        return cls(pairs, bands.rows, bands.columns)


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
