"""What tells samples apart: a hash of their content, whatever form they come in.

Shapes: N samples, D distinct ones, K parts of one file.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrastive.data.column_kinds import Column, FilePaths, Objects, StoredImages
from contrastive.data.columns import Values
from contrastive.data.content_index import (
    AT_A_TIME,
    HASH,
    ContentIndex,
    PartsOfFile,
    content_index,
    file_hash,
)
from contrastive.data.images import A_FOLDER, StoredImage, bytes_or_path, open_image
from contrastive.data.sample_forms import is_content, plain_parts
from contrastive.data.stacked_columns import Stacked
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


NO_KEY = bytes(HASH)
SHORTENED = 1 << 18  # keys that are held at a time, where their beginning will do


class Keys(NamedTuple):
    """Keys of N samples, of which D are distinct objects."""

    keys_D: np.ndarray
    """``[D, 32]`` uint8; zeros for one that cannot be used."""
    problems: dict[int, str]
    """Why some of the D cannot be used."""
    which_N: np.ndarray
    """Which of the D each sample is."""

    def good(self) -> np.ndarray:
        """Return which samples have a key: ``[N]`` booleans."""
        good_D = np.ones(len(self.keys_D), np.bool_)
        good_D[[*self.problems]] = False
        return good_D[self.which_N]

    def report(self, on_bad: Callable[[int, str], None]) -> None:
        """Call ``on_bad`` with the index and the problem of each sample that cannot be used."""
        if self.problems:
            for i in (~self.good()).nonzero()[0].tolist():
                on_bad(i, self.problems[int(self.which_N[i])])


def sample_keys(
    samples: Sequence[Any], modality: str, on_bad: Callable[[int, str], None] | None = None
) -> list[bytes | None]:
    """Return the key of each sample; of one that cannot be used, None after a call of ``on_bad``.

    An image with five captions, whose path is one object, is looked up once.
    """
    found = keys_of(samples, modality)
    if on_bad:
        found.report(on_bad)
    packed = found.keys_D.tobytes()
    keys: list[bytes | None] = [packed[i : i + HASH] for i in range(0, len(packed), HASH)]
    for place in found.problems:
        keys[place] = None
    return [keys[place] for place in found.which_N.tolist()]


def keys_of(samples: Sequence[Any], modality: str) -> Keys:
    """Return the keys of samples in arrays, each distinct object looked up once."""
    index = content_index()
    if isinstance(samples, Values):
        distinct, which_N = samples.distinct()
        column, rows_D = distinct.column, distinct.rows_N
        if isinstance(column, StoredImages):
            return Keys(*_of_parts(column.parts(rows_D), len(rows_D), column, rows_D), which_N)
        if isinstance(column, Stacked):
            return Keys(*_of_stacked(column, rows_D, modality), which_N)
        if isinstance(column, FilePaths):
            blocks = (column.places(rows_D[i : i + AT_A_TIME]) for i in _starts(rows_D))
            return Keys(*_of_files(blocks, len(rows_D), index), which_N)
    else:
        held = {id(sample): sample for sample in samples}
        place = {name: i for i, name in enumerate(held)}
        distinct, which_N = [*held.values()], np.array([place[id(x)] for x in samples], np.int32)
        if all(isinstance(each, StoredImage) and each.file_part for each in distinct):
            return Keys(*_of_stored(distinct), which_N)
    blocks = (distinct[i : i + AT_A_TIME] for i in _starts(distinct))
    return Keys(*_of_any(blocks, len(distinct), modality, index), which_N)


def _of_stacked(column: Stacked, rows_D: np.ndarray, modality: str) -> _Found:
    """Return the keys of values of several columns, each looked up in its own way."""
    keys_D, problems = np.zeros((len(rows_D), HASH), np.uint8), dict[int, str]()
    for part, places, rows in column.parts(rows_D):
        found = keys_of(Values(part, rows), modality)
        keys_D[places] = found.keys_D[found.which_N]
        if found.problems:
            for i, which in zip(places.tolist(), found.which_N.tolist(), strict=True):
                if which in found.problems:
                    problems[i] = found.problems[which]
    return keys_D, problems


def _starts(several: Sequence[Any] | np.ndarray) -> range:
    return range(0, len(several), AT_A_TIME)


_PartsOfSome = tuple[np.ndarray, PartsOfFile]
"""Which of the D are in a file, and what they are in it."""
_Found = tuple[np.ndarray, dict[int, str]]
"""Keys ``[D, 32]``, and the problems of those that have none."""


def _of_any(
    blocks: Iterable[Sequence[Any]], count: int, modality: str, index: ContentIndex
) -> _Found:
    keys_D, problems, i = np.zeros((count, HASH), np.uint8), dict[int, str](), 0
    for block in blocks:
        if modality == "image":
            index.look_up([path for path in block if isinstance(path, Path)])
        keys: list[bytes] = []
        for each in block:
            try:
                keys.append(sample_key(each, modality, index))
            except BadSample as error:
                problems[i + len(keys)] = str(error)
                keys.append(NO_KEY)
        keys_D[i : i + len(keys)] = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, HASH)
        i += len(keys)
    return keys_D, problems


def _of_files(blocks: Iterable[Sequence[str]], count: int, index: ContentIndex) -> _Found:
    """Return the keys of files, by their paths."""
    keys_D, problems, i = np.zeros((count, HASH), np.uint8), dict[int, str](), 0
    for places in blocks:
        index.look_up(places)
        for place in places:
            try:
                keys_D[i] = np.frombuffer(index.hash_of(place), np.uint8)
            except OSError as error:
                problems[i] = f"{place}: {_unread(error)}"
            i += 1
    return keys_D, problems


def _of_stored(images: Sequence[StoredImage]) -> _Found:
    """Return the keys of parts of files that are given one by one."""
    by_file: dict[tuple[str, str, str], list[int]] = {}
    parts = [cast("PartsOfFile", image.file_part) for image in images]
    for i, part in enumerate(parts):
        by_file.setdefault((part.file, part.within, part.version), []).append(i)
    grouped = (
        (
            np.array(places, np.int64),
            PartsOfFile(
                file, within, np.array([int(parts[i].numbers_K[0]) for i in places]), version
            ),
        )
        for (file, within, version), places in by_file.items()
    )
    column = Objects(images)
    return _of_parts(grouped, len(images), column, np.arange(len(images)))


def _of_parts(
    several: Iterable[tuple[np.ndarray, PartsOfFile]],
    count: int,
    column: Column,
    rows_D: np.ndarray,
) -> _Found:
    """Return the keys of parts of files; those that are not noted are read."""
    keys_D, problems = np.zeros((count, HASH), np.uint8), dict[int, str]()
    index = content_index()
    for which_K, parts in several:

        def images(places: np.ndarray, which_K: np.ndarray = which_K) -> list[StoredImage]:
            return column.at(rows_D[which_K[places]])

        try:
            keys_D[which_K], errors = index.hashes_of_parts(parts, images)
        except OSError as error:
            problems |= dict.fromkeys(which_K.tolist(), f"{parts.file}: {_unread(error)}")
            continue
        for place, error in errors.items():
            (image,) = images(np.array([place]))
            why = f"{image}: {_unread(error)}" if isinstance(error, OSError) else str(error)
            problems[int(which_K[place])] = why
    return keys_D, problems


def _unread(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return A_FOLDER
    return f"cannot be read: {error.strerror or error}"


def sample_key(sample: Any, modality: str, index: ContentIndex | None = None) -> bytes:
    """Return the SHA-256 of a sample's content; a file and its bytes have the same one.

    Files are looked up in ``index``, by default this process's.

    Raises:
        BadSample: the file cannot be read, or nothing is known of this type.
    """
    if modality == "text" and isinstance(sample, str):
        return hashlib.sha256(_of_text(sample)).digest()
    if modality == "image" and not isinstance(sample, Path):
        sample = bytes_or_path(sample)
    if isinstance(sample, PathLike) and not isinstance(sample, Path):
        sample = Path(os.fsdecode(cast("PathLike[str]", sample)))
    if isinstance(sample, Path) or (isinstance(sample, str) and not is_content(sample, modality)):
        try:
            path = Path(sample) if isinstance(sample, str) else sample
            return (index or content_index()).hash_of(path)
        except OSError as error:
            raise BadSample(f"{sample}: {_unread(error)}") from None
    if isinstance(sample, StoredImage):
        return _stored_key(sample)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return file_hash(cast("Any", sample))
    return hashlib.sha256(_content(sample, modality)).digest()


def _content(sample: Any, modality: str) -> bytes:
    """Return what a sample consists of, after the name of its form."""
    if isinstance(sample, str):
        return _of_text(sample)
    is_array = isinstance(sample, (np.ndarray, Tensor))
    if isinstance(sample, Image.Image) or (modality == "image" and is_array):
        # an encoder of its own kind of images may take other arrays
        with suppress(BadSample) if is_array else nullcontext():
            seen = open_image(cast("Any", sample))  # palette, transparency and orientation applied
            return f"pixels\0{seen.size}\0".encode() + seen.tobytes()
    if is_array:
        if isinstance(sample, Tensor) and sample.dtype == torch.bfloat16:
            sample = sample.float()  # numpy has none
        array = np.ascontiguousarray(cast("np.ndarray", sample))
        return f"array\0{array.dtype.str}\0{array.shape}\0".encode() + array.tobytes()
    plain = plain_parts(sample, modality, sample_key)
    return b"json\0" + json.dumps(plain, sort_keys=True).encode()


def _of_text(text: str) -> bytes:
    return b"text\0" + text.encode("utf-8", "surrogatepass")


def _stored_key(image: StoredImage) -> bytes:
    if image.file_part is None:
        return _hash_of_stored(image)
    keys_D, problems = _of_stored([image])
    if problems:
        raise BadSample(problems[0])
    return keys_D.tobytes()


@lru_cache(maxsize=1 << 14)
def _hash_of_stored(image: StoredImage) -> bytes:
    return file_hash(image.read())


def short_key(sample: Any, modality: str) -> int:
    """Return 63 bits of a sample's content hash: enough to tell a million samples apart.

    A sample that cannot be read has 0; it is reported when it is encoded.
    """
    return int(short_keys([sample], modality)[0])


def short_keys(samples: Sequence[Any], modality: str) -> np.ndarray:
    """Return the ``short_key`` of each sample: ``[N]`` int64."""
    if not isinstance(samples, Values):
        found = keys_of(samples, modality)
        return _shortened(found.keys_D)[found.which_N]
    distinct, which_N = samples.distinct()
    short_D = np.empty(len(distinct), np.int64)
    for first in range(0, len(distinct), SHORTENED):  # a key has four times as many bytes
        some = Values(distinct.column, distinct.rows_N[first : first + SHORTENED])
        found = keys_of(some, modality)
        short_D[first : first + SHORTENED] = _shortened(found.keys_D)[found.which_N]
    return short_D if len(distinct) == len(which_N) else short_D[which_N]


def _shortened(keys_D: np.ndarray) -> np.ndarray:
    first = np.ascontiguousarray(keys_D[:, :8]).view(">u8")[:, 0]
    return (first >> np.uint64(1)).astype(np.int64)
