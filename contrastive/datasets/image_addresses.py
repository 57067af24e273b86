"""Images that a table names by file or by address."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from contrastive.config.amounts import GB
from contrastive.console import say
from contrastive.data.column_kinds import Column, Objects, Strings
from contrastive.data.url_images import UrlImage, UrlImages
from contrastive.datasets.file_index import FileIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

HTTP = re.compile(r"https?://", re.IGNORECASE)
URL_COLUMNS = ("url", "image_url", "urls")
"""Columns that are taken for addresses of images, where there is none of files."""


class FilesAndAddresses(FileIndex):
    """The files below a folder, and whatever is at an address of http or https."""

    def __init__(
        self, folder: Path, places: Iterable[str] = ("",), *, private: bool, cache_gb: float
    ) -> None:
        """Look for files in ``places`` below the folder; addresses are not asked yet."""
        super().__init__(folder, places)
        self.private, self.cache_bytes = private, int(cache_gb * GB)

    def is_address(self, name: str) -> bool:
        """Whether a name is an address from which an image is fetched."""
        return bool(HTTP.match(name))

    def image(self, place: str) -> Path | UrlImage:
        """Return the image at a place."""
        if self.is_address(place):
            return UrlImage(place, self.private, self.cache_bytes)
        return self.folder / place

    def column(self, places: Sequence[str | None]) -> Column:
        """Return the images at some places as a column; a place may be none."""
        addresses = sum(bool(place) and self.is_address(str(place)) for place in places)
        if not addresses:
            return super().column(places)
        kept = f"copies are kept, of {self.cache_bytes / GB:g} GB at most"
        say(f"{self.folder}: images by address, {addresses:,}, are fetched when needed; {kept}")
        if addresses == sum(map(bool, places)):
            texts = Strings.of(place or "" for place in places)
            return UrlImages(texts, self.private, self.cache_bytes)
        return Objects([self.image(place) if place else None for place in places])
