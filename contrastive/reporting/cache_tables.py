"""What is in a cache, as a table for people."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from contrastive.config.amounts import shown_bytes
from contrastive.console import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.features.inventory import CachedEncoder


def encoders_table(encoders: Sequence[CachedEncoder]) -> Table:
    """Return a line for each encoder."""
    table = Table()
    table.add_column("encoder", overflow="fold")
    for name in ("rows", "size", "last used"):
        table.add_column(name, justify="right")
    table.add_column("outdated", overflow="fold")
    table.add_column("folder", overflow="fold")
    for each in encoders:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.last_used))
        outdated = Text(printable(each.outdated or "-"))
        table.add_row(
            Text(printable(each.name)),
            f"{each.rows:,}",
            shown_bytes(each.bytes),
            used,
            outdated,
            each.folder.name,
        )
    return table
