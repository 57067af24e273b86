"""Images by address: fetched when they are read, once for all runs, into a bounded cache."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.data.column_kinds import StoredImages, Strings, through_shared_memory
from contrastive.data.content_index import PartsOfFile, content_index, file_hash
from contrastive.data.images import MAX_BYTES, StoredImage, opened
from contrastive.data.storage.file_cache import file_cache
from contrastive.data.storage.guarded_http import Fetched, FetchError, fetch, shown
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_ONCE = 16  # images that one process fetches while it looks for what they hold
FORGOTTEN_AFTER = 600.0  # seconds, after which what could not be fetched is tried again
MOST_FAILED = 100_000
ALL = "https://"
"""What stands for the file of which all of them are parts, in the index of contents."""
_failed: dict[str, tuple[float, str]] = {}
"""By address, when it could not be fetched by this process, and why."""


@dataclass(frozen=True)
class UrlImage(StoredImage):
    """The image at an address."""

    address: str
    private: bool = False
    """Whether it may be at an address that is not public."""
    cache_bytes: int = 100 * 10**9

    def read(self) -> bytes:
        """Return the encoded image, from the cache if it is there.

        Raises:
            BadSample: it cannot be fetched, or is no image; names the address.
        """
        kept_as = f"image at {_named(self.address, self.private)}"
        return file_cache(self.cache_bytes).content(kept_as, self._fetched)

    @property
    def file_part(self) -> PartsOfFile:
        """Which part of all images by address it is."""
        return _parts(np.array([_number(_named(self.address, self.private))]))

    def __str__(self) -> str:
        return shown(self.address)

    def _fetched(self) -> bytes:
        when, why = _failed.get(self.address, (0.0, ""))
        if why and time.monotonic() - when < FORGOTTEN_AFTER:
            raise BadSample(why)
        try:
            return fetch(self.address, self._check, most=MAX_BYTES, private=self.private)
        except FetchError as error:
            if len(_failed) >= MOST_FAILED:
                _failed.clear()
            _failed[self.address] = time.monotonic(), f"{self}: {error}"
            raise BadSample(f"{self}: {error}") from None

    def _check(self, found: Fetched) -> None:
        """Insist on an image, and on the one that was there when it was first fetched.

        Raises:
            FetchError: it is another one, or none.
        """
        is_image = False
        try:
            with opened(found.content) as image:
                is_image = True
                if not found.whole:  # nobody else says where it ends
                    image.load()
        except Exception:  # a damaged file makes decoders raise many kinds of error
            kind = f" ({found.kind})" if found.kind and found.kind.isprintable() else ""
            what = "ended before it was whole" if is_image else f"holds no image{kind}"
            raise FetchError(what, passes=is_image) from None
        noted = content_index().noted_hash(self.file_part)
        if noted and noted != file_hash(found.content):
            what = "is another image than when it was first fetched"
            msg = f"{what}; to take it, set CONTRASTIVE_CACHE to another folder"
            raise FetchError(msg)


@dataclass(eq=False)
class UrlImages(StoredImages):
    """The images at some addresses."""

    addresses: Strings
    private: bool
    cache_bytes: int

    def __len__(self) -> int:
        return len(self.addresses)

    def at(self, rows_N: np.ndarray) -> list[Any]:
        """Return some of them."""
        several = self.addresses.at(rows_N)
        return [UrlImage(address, self.private, self.cache_bytes) for address in several]

    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[np.ndarray, PartsOfFile]]:
        """Yield which part of all images by address each is."""
        numbers = (_number(_named(each, self.private)) for each in self.addresses.at(rows_N))
        number_N = np.fromiter(numbers, np.int64, len(rows_N))
        order_N = np.argsort(number_N)  # so that each note is of a small range of numbers
        yield order_N, _parts(number_N[order_N])


def _parts(numbers_K: np.ndarray) -> PartsOfFile:
    return PartsOfFile(ALL, "images by address", numbers_K, "1", at_once=AT_ONCE)


def _named(address: str, private: bool) -> str:
    """Return what an image is kept as: without ``private``, none is seen that needed it."""
    return f"{address} (private)" if private else address


def _number(address: str) -> int:
    """Return 63 bits of a hash, enough to tell a hundred million addresses apart."""
    digest = hashlib.sha256(address.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 1


ForkingPickler.register(UrlImages, through_shared_memory)
