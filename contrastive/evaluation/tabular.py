"""Results as tables in a notebook: HTML, and a pandas frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape
from typing import Any

from contrastive.config.extras import require


class Tabular(ABC):
    """A result that is a list of rows."""

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Return a dict of plain values for each row; all have the same keys."""

    def to_pandas(self) -> Any:
        """Return the rows as a ``pandas.DataFrame``.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return require("pandas", extra="report").DataFrame(self.rows())

    def _repr_html_(self) -> str:
        """Return the rows as a table, which notebooks show."""
        rows = self.rows()
        names = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else ()))
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(_shown(x))}</td>" for x in row.values()) + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
