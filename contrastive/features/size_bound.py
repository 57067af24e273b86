"""A bound on the size of a feature cache: what was used longest ago goes first."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from contrastive.config.amounts import byte_count, shown_bytes
from contrastive.console import say
from contrastive.features.inventory import encoder_folders
from contrastive.features.pruning import removed

if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "CONTRASTIVE_CACHE_SIZE"
LOOK_EVERY = 1.0  # seconds; what is written in between may be too much


def size_bound(given: int | str | None) -> int | None:
    """Return the bound that is given, else that of the environment, else None.

    Raises:
        SpecError: it is no size.
    """
    if given is not None:
        return byte_count("max_size", given)
    found = os.environ.get(VARIABLE)
    return byte_count(f"${VARIABLE}", found) if found else None


class SizeBound:
    """Keeps the features in a folder below a number of bytes."""

    def __init__(self, root: Path, most: int) -> None:
        self.root = root
        self.most = most
        self._looked = float("-inf")

    def make_room(self, own: Path) -> bool:
        """Delete what others than ``own`` have if need be; return whether more may be written."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return True
        found = encoder_folders(self.root)
        over = sum(each.bytes for each in found) - self.most
        for each in sorted(found, key=lambda each: each.last_used):
            if over <= 0:
                break
            if each.folder != own and removed(each):
                say(
                    f"{each.folder}: features of {each.name} ({shown_bytes(each.bytes)}) are "
                    f"deleted: the cache is larger than {shown_bytes(self.most)}, and they were "
                    "used longest ago"
                )
                over -= each.bytes
        self._looked = time.monotonic()
        return over <= 0

    def full_line(self) -> str:
        """Return what is told where nothing more may be written."""
        return (
            f"{self.root}: the feature cache has its {shown_bytes(self.most)}, all of them in "
            f"use; these features are not kept; raise {VARIABLE} (or max_size)"
        )
