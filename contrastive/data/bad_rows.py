"""Bad samples: each reported once with its place, all counted, and a budget.

One bad row or broken image must not end a long run; a thousand of them must.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from contrastive.console import note_omission
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN = 5  # of each ledger, in the message that ends a run


@dataclass
class BadRows:
    """A ledger of what was left out of a dataset.

    Args:
        budget: the share of rows that may be bad before ``check`` raises.
        on_report: called with each line as it is reported.
        lines: the reports, in the order in which they were made.
        bad: how many rows were left out.

    Example:
        >>> bad_rows = BadRows(budget=0.5)
        >>> bad_rows.report("captions.csv:17", "the caption is empty")
        >>> bad_rows.check(total=4)  # silent: 1 of 4
        >>> bad_rows.lines
        ['captions.csv:17: the caption is empty']
    """

    budget: float = 0.01
    on_report: Callable[[str], None] | None = None
    lines: list[str] = field(default_factory=list[str])
    bad: int = 0
    reported: set[str] = field(default_factory=set[str], repr=False)

    def __post_init__(self) -> None:
        """Check the budget.

        Raises:
            DataError: it is no share.
        """
        if not 0 <= self.budget <= 1:
            msg = f"BadRows(budget={self.budget!r}): give the share of rows that may be bad, 0 to 1"
            raise DataError(msg)

    def copy(self) -> Self:
        """Return a ledger that goes on from this one, which stays as it is."""
        return replace(self, lines=[*self.lines], reported={*self.reported})

    def report(self, source: str, problem: str, *, rows: int = 1) -> None:
        """Note one fault; ``source`` is its place, such as ``captions.csv:17``.

        ``rows`` are left out for it: 5 if an image with five captions is missing, 0 if a row
        was mended and is used.
        """
        line = f"{source}: {problem}" if source else problem
        self.bad += rows
        if rows:
            note_omission(line)
        if line in self.reported:  # another row with the same broken image
            return
        self.reported.add(line)
        self.lines.append(line)
        if self.on_report:
            self.on_report(line)

    def check(self, total: int) -> None:
        """Raise if more than the budget's share of ``total`` rows (the bad ones too) is bad.

        Raises:
            DataError: names the first few and how to raise the budget.
        """
        allowed = math.ceil(self.budget * total)
        if self.bad > allowed:
            first = "; ".join(self.lines[:SHOWN])
            more = f"; and {len(self.lines) - SHOWN} more" if len(self.lines) > SHOWN else ""
            msg = (
                f"{self.bad} of {total} samples are bad, {allowed} may be "
                f"(max_bad: {self.budget:g}): {first}{more}"
            )
            raise DataError(msg)


def bad_rows_of(samples: Any) -> BadRows:
    """Return the ledger of a built dataset; an empty one if it keeps none."""
    return getattr(samples, "bad_rows", None) or BadRows()
