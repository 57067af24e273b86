"""What tells samples apart: a hash of their content, whatever form they come in."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext, suppress
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from contrastive.data.content_index import ContentIndex, content_index, file_hash
from contrastive.data.images import A_FOLDER, StoredImage, bytes_or_path, open_image
from contrastive.data.sample_forms import is_content, plain_parts
from contrastive.errors import BadSample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def sample_keys(
    samples: Sequence[Any], modality: str, on_bad: Callable[[int, str], None] | None = None
) -> list[bytes | None]:
    """Return the key of each sample; of one that cannot be used, None after a call of ``on_bad``.

    An image with five captions, whose path is one object, is looked up once.
    """
    held, index = list(samples), content_index()  # held, so that an id stays that of one object
    if modality == "image":
        index.look_up({id(path): path for path in held if isinstance(path, Path)}.values())
    known: dict[int, bytes | str] = {}
    keys: list[bytes | None] = []
    for i, sample in enumerate(held):
        if (found := known.get(id(sample))) is None:
            found = known[id(sample)] = _key_or_problem(sample, modality, index)
        if isinstance(found, str) and on_bad:
            on_bad(i, found)
        keys.append(None if isinstance(found, str) else found)
    return keys


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
        except IsADirectoryError:
            msg = f"{sample}: {A_FOLDER}"
            raise BadSample(msg) from None
        except OSError as error:
            msg = f"{sample}: cannot be read: {error.strerror or error}"
            raise BadSample(msg) from None
    if isinstance(sample, StoredImage):
        return _stored_key(sample)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return file_hash(cast("Any", sample))
    return hashlib.sha256(_content(sample, modality)).digest()


def _content(sample: Any, modality: str) -> bytes:
    """Return what a sample consists of, after the name of its form."""
    if isinstance(sample, str):
        return b"text\0" + sample.encode("utf-8", "surrogatepass")
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


@lru_cache(maxsize=1 << 20)
def _stored_key(image: StoredImage) -> bytes:
    return file_hash(image.read())


def short_key(sample: Any, modality: str) -> int:
    """Return 63 bits of a sample's content hash: enough to tell a million samples apart.

    A sample that cannot be read has 0; it is reported when it is encoded.
    """
    return short_keys([sample], modality)[0]


def short_keys(samples: Sequence[Any], modality: str) -> list[int]:
    """Return the ``short_key`` of each sample."""
    keys = sample_keys(samples, modality)
    return [int.from_bytes(key[:8]) >> 1 if key else 0 for key in keys]
