"""Folders of a storage (``s3://bucket/runs/a``): fsspec moves the files, this bounds how long.

Every call is tried three times at most, and given up when no answer comes. Credentials are found by
the library of the storage, and are in no message.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from contrastive.config.extras import require
from contrastive.errors import ContrastiveError, MissingExtra, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

PAUSES = (1.0, 4.0)  # seconds before the second and the third try; most libraries try often, too
ANSWER_WITHIN = 60.0  # seconds without an answer, after which a call is given up
SLOWEST = 100_000  # bytes a second; a file may take ANSWER_WITHIN and its size by this
LONGEST = 300  # characters of a library's message
IN_EXTRA = {
    **{"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"},
    **{"http": "aiohttp", "https": "aiohttp"},
}
"""By the scheme of an address, the library that the extra ``remote`` installs."""
CHECK_STORAGE = "check the address, your credentials and the network"
"""What to do about a ``StorageError``."""
LOCAL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_IN_AN_ADDRESS = re.compile(r"(?<=//)[^/@\s]+@|\?[^\s'\"]+")
_SECRET = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CREDENTIAL|SIGNATURE")


VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5")
NOT_THERE = (404, 410)  # answers of HTTP
TIMES = ("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "created")


class StorageError(ContrastiveError):
    """A storage does not do what it is asked; says which, and why."""


class FileAbout(NamedTuple):
    """What a storage says of a file."""

    size: int | None
    version: str
    """What changes when the file does; nothing, if the storage does not say."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder of a storage, which need not be there yet.

    Raises:
        StorageError: by all that it does.
    """

    address: str
    """As it is shown: ``s3://bucket/runs/a``."""
    _storage: Any
    """The filesystem of fsspec."""
    _path: str

    def __truediv__(self, name: str) -> RemoteFolder:
        """Return a folder in it."""
        return RemoteFolder(f"{self.address}/{name}", self._storage, f"{self._path}/{name}")

    def entries(self) -> dict[str, int | None]:
        """Return the names in it with their sizes; None for a folder. Empty if it is not there."""

        def listed() -> list[dict[str, Any]]:
            self._storage.invalidate_cache()
            try:
                return self._storage.ls(self._path, detail=True)
            except FileNotFoundError:
                return []

        found = {
            str(each["name"]).rstrip("/").rpartition("/")[2]: (
                None if each["type"] == "directory" else int(each["size"] or 0)
            )
            for each in self._tried("cannot be read", listed)
            if str(each["name"]).rstrip("/") != self._path.rstrip("/")  # some list the folder, too
        }
        return {name: size for name, size in found.items() if name}

    def read(self, name: str, most: int) -> bytes | None:
        """Return what a small file of at most ``most`` bytes holds; None if it is not there."""

        def content() -> bytes | None:
            self._storage.invalidate_cache()
            try:
                size = self._storage.info(self._at(name)).get("size") or 0
                return None if size > most else self._storage.cat_file(self._at(name))
            except FileNotFoundError:
                return None

        return (self / name)._tried("cannot be read", content)

    def put(self, path: Path, name: str) -> None:
        """Send a file."""

        def send() -> None:
            self._storage.put_file(str(path), self._at(name))

        size = path.stat().st_size
        (self / name)._tried("cannot be written", send, size=size)

    def get(self, name: str, path: Path, *, size: int = 0, whole: bool = False) -> None:
        """Fetch a file, of about so many bytes, into a new one; ``whole``, if these are all."""

        def fetch() -> None:
            try:
                self._storage.get_file(self._at(name), str(path))
            except OSError as error:
                if error.errno not in LOCAL_DISK:
                    raise
                msg = f"{path}: cannot be written: {error.strerror}"
                raise StorageError(msg) from error
            if whole and (got := path.stat().st_size) != size:
                msg = f"{got:,} bytes came of {size:,}"
                raise _ShortError(msg)

        (self / name)._tried("cannot be read", fetch, size=size)

    def about(self, name: str) -> FileAbout | None:
        """Return what is known of a file; None if it is not there."""

        def asked() -> FileAbout | None:
            self._storage.invalidate_cache()
            try:
                return _about(self._storage.info(self._at(name)))
            except FileNotFoundError as error:
                cause = error.__cause__  # fsspec says so of a server that fails, too
                if self._lists_files or cause is None or isinstance(cause, FileNotFoundError):
                    return None
                if getattr(cause, "status", 0) in NOT_THERE:
                    return None
                raise cause from None

        return (self / name)._tried("cannot be read", asked)

    @property
    def _lists_files(self) -> bool:
        said: Any = self._storage.protocol
        protocols: tuple[str, ...] = (said,) if isinstance(said, str) else tuple(said)
        return not {*protocols} & {"http", "https"}  # a page of links is no list

    def files(self) -> dict[str, FileAbout] | None:
        """Return what is known of the files in it, by name; None if the storage lists none."""
        if not self._lists_files:
            return None

        def listed() -> dict[str, FileAbout]:
            self._storage.invalidate_cache()
            try:
                found = self._storage.ls(self._path, detail=True)
            except FileNotFoundError:
                return {}
            files = [each for each in found if each["type"] == "file"]
            return {str(each["name"]).rpartition("/")[2]: _about(each) for each in files}

        return self._tried("cannot be read", listed)

    def remove(self, name: str) -> None:
        """Delete a file, or a folder that is empty; one that is not there is no problem."""

        def delete() -> None:
            with suppress(FileNotFoundError):
                self._storage.rm_file(self._at(name))

        (self / name)._tried("cannot be removed", delete)

    def remove_empty(self) -> None:
        """Delete the folder itself where folders are things of their own, if nothing is in it."""
        with suppress(Exception):  # a storage of objects has none; one that stays harms nobody
            self._storage.rmdir(self._path)

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def _tried(self, problem: str, call: Callable[[], T], *, size: int = 0) -> T:
        limit = ANSWER_WITHIN + size / SLOWEST
        began = time.monotonic()
        for pause in (*PAUSES, None):
            try:
                return _within(limit, call)
            except StorageError:
                raise
            except Exception as error:
                slow = (
                    time.monotonic() - began > ANSWER_WITHIN
                )  # its library has tried for long enough
                if pause is None or slow or _is_final(error):
                    msg = f"{self.address}: {problem}: {_reason(error)}"
                    raise StorageError(msg) from error
            time.sleep(pause)
        raise AssertionError


def remote_folder(address: str) -> RemoteFolder:
    """Return the folder at an address, as ``address_of`` returns it; nothing is asked of it yet.

    Raises:
        StorageError: no library knows such addresses.
        MissingExtra: the one that does is not installed.
    """
    scheme, _, rest = address.partition("://")
    if (scheme := scheme.lower()) == "hf":
        kind, *owner_and_name = rest.split("/")[:3]
        if kind == "datasets" and len(owner_and_name) == 2:
            place = f"datasets/{'/'.join(owner_and_name)}/resolve/main"
            msg = f"{address}: give its files by https://huggingface.co/{place}/FILE"
        else:
            msg = f"{address}: a model of the Hugging Face Hub is hf:{rest}"
        raise StorageError(msg)
    fsspec = require("fsspec")  # torch needs it, too
    local = {"auto_mkdir": True} if scheme == "file" else {}
    try:
        storage, path = fsspec.url_to_fs(address, **local)
    except ImportError as error:
        if library := IN_EXTRA.get(scheme):
            require(library, extra="remote")
        msg = f"{scheme}:// needs another package: {_reason(error)}"
        raise MissingExtra(msg) from error
    except Exception as error:
        msg = f"{address}: {_reason(error)}; give s3://, gs://, or a local path"
        raise StorageError(msg) from error
    return RemoteFolder(address, storage, str(path).rstrip("/"))


class _NoAnswerError(Exception):
    pass


class _ShortError(Exception):
    pass


def _about(found: dict[str, Any]) -> FileAbout:
    size = found.get("size")
    said = next((str(found[key]) for key in (*VERSIONS, *TIMES) if found.get(key)), "")
    return FileAbout(None if size is None else int(size), said.strip('"'))


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return what a call returns, if it does in time; some libraries wait without end."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="contrastive-storage", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        msg = f"no answer within {seconds:.0f} s"
        raise _NoAnswerError(msg)
    return done[0]


def _is_final(error: Exception) -> bool:
    """Whether another try would end as this one: nothing there, no right, no credentials."""
    kinds = (FileNotFoundError, PermissionError, NotImplementedError, _NoAnswerError)
    return isinstance(error, kinds) or "Credential" in type(error).__name__


def _reason(error: Exception) -> str:
    """Return what an error says, in one line, without what opens the storage."""
    text = reason_of(error)
    if isinstance(error, FileNotFoundError) and " " not in text:  # but the path
        text = "is not there"
    text = _IN_AN_ADDRESS.sub("", text)
    for name, value in os.environ.items():
        if _SECRET.search(name.upper()) and len(value) >= 8:  # shorter ones are parts of words
            text = text.replace(value, "***")
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
