"""What tells samples apart: a hash of their content, whatever form they come in."""

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

from contrastive.data.column_kinds import FilePaths
from contrastive.data.columns import Values
from contrastive.data.content_index import ContentIndex, content_index, file_hash
from contrastive.data.images import A_FOLDER, StoredImage, bytes_or_path, open_image
from contrastive.data.sample_forms import is_content, plain_parts
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


NO_KEY = bytes(32)


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


def keys_of(samples: Sequence[Any], modality: str) -> Keys:
    """Return the keys of samples in arrays, each distinct object looked up once."""
    found, which_N = _distinct_keys(samples, modality)
    problems = {i: each for i, each in enumerate(found) if isinstance(each, str)}
    packed = b"".join(NO_KEY if isinstance(each, str) else each for each in found)
    return Keys(np.frombuffer(packed, np.uint8).reshape(-1, 32), problems, which_N)


def sample_keys(
    samples: Sequence[Any], modality: str, on_bad: Callable[[int, str], None] | None = None
) -> list[bytes | None]:
    """Return the key of each sample; of one that cannot be used, None after a call of ``on_bad``.

    An image with five captions, whose path is one object, is looked up once.
    """
    found, which_N = _distinct_keys(samples, modality)
    if on_bad and any(isinstance(each, str) for each in found):
        places: list[int] = which_N.tolist()
        for i, problem in enumerate([found[place] for place in places]):
            if isinstance(problem, str):
                on_bad(i, problem)
    keys = [None if isinstance(each, str) else each for each in found]
    return [keys[place] for place in which_N.tolist()]


def _distinct_keys(samples: Sequence[Any], modality: str) -> tuple[list[bytes | str], np.ndarray]:
    """Return the key or the problem of each distinct object, and which one each sample is."""
    index = content_index()
    if isinstance(samples, Values):
        several, which_N = samples.distinct()
        if isinstance(several.column, FilePaths):
            return _keys_of_files(several.column.places(several.rows_N), index), which_N
        distinct = [*several]
    else:
        held = {id(sample): sample for sample in samples}
        place = {name: i for i, name in enumerate(held)}
        distinct, which_N = [*held.values()], np.array([place[id(x)] for x in samples], np.int64)
    if modality == "text" and all(type(each) is str for each in distinct):
        return [hashlib.sha256(_of_text(text)).digest() for text in distinct], which_N
    if modality == "image":
        index.look_up(path for path in distinct if isinstance(path, Path))
    return [_key_or_problem(each, modality, index) for each in distinct], which_N


def _keys_of_files(places: Sequence[str], index: ContentIndex) -> list[bytes | str]:
    """Return the keys of files, by their paths, or the problem of one that cannot be read."""
    index.look_up(places)
    found: list[bytes | str] = []
    for place in places:
        try:
            found.append(index.hash_of(place))
        except OSError as error:
            found.append(f"{place}: {_unread(error)}")
    return found


def _unread(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return A_FOLDER
    return f"cannot be read: {error.strerror or error}"


def _key_or_problem(sample: Any, modality: str, index: ContentIndex) -> bytes | str:
    try:
        return sample_key(sample, modality, index)
    except BadSample as error:
        return str(error)


def sample_key(sample: Any, modality: str, index: ContentIndex | None = None) -> bytes:
    """Return the SHA-256 of a sample's content; a file and its bytes have the same one.

    Files are looked up in ``index``, by default this process's.

    Raises:
        BadSample: the file cannot be read, or nothing is known of this type.
    """
    if modality == "text" and isinstance(sample, str):
        return hashlib.sha256(_content(sample, modality)).digest()
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


@lru_cache(maxsize=1 << 20)
def _stored_key(image: StoredImage) -> bytes:
    return file_hash(image.read())


def short_key(sample: Any, modality: str) -> int:
    """Return 63 bits of a sample's content hash: enough to tell a million samples apart.

    A sample that cannot be read has 0; it is reported when it is encoded.
    """
    return int(short_keys([sample], modality)[0])


def short_keys(samples: Sequence[Any], modality: str) -> np.ndarray:
    """Return the ``short_key`` of each sample: ``[N]`` int64."""
    found, which_N = _distinct_keys(samples, modality)
    keys = [0 if isinstance(key, str) else int.from_bytes(key[:8]) >> 1 for key in found]
    return np.array(keys, np.int64)[which_N]
