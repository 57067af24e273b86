"""One or several raw samples, in whatever form Python has them, as a list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.data.images import StoredImage
from contrastive.errors import BadSample, SpecError

ONE = (str, bytes, bytearray, memoryview, PathLike, StoredImage, Image.Image, Mapping)
REFUSED = {
    "DataFrame": "give one of its columns, such as df['text']",
    "Dataset": "give one of its columns, such as dataset['text']",
    "DatasetDict": "give a column of one of its splits, such as dataset['train']['text']",
    "DataLoader": "it has batches; give raw samples, such as a column of its dataset",
    "set": "it has no order, and rows would be in another; give a list",
    "frozenset": "it has no order, and rows would be in another; give a list",
}
"""By the name of a type that would be iterated over with nonsense as the result, a remedy."""


def sample_list(given: Any, modality: str) -> list[Any]:
    """Return the raw samples of a modality that are given, in their order.

    A string, a path, bytes, an open file, a PIL image or a mapping is one sample. A list, a tuple,
    a generator, a Series (by position), a column of a hub dataset or an array of strings is
    several. An array or tensor of numbers is an image if it is ``[H, W]``, ``[H, W, C]`` or
    ``[C, H, W]``, and images if it is 4-D; of another modality, a 1-D one is a sample and the rows
    of others are samples.

    Raises:
        BadSample: nothing of that type is a sample or holds samples; says what to give.
    """
    if isinstance(given, ONE):
        return [given]
    if hasattr(given, "read"):  # an open file, which would be iterated over line by line
        return [given.read()]
    if isinstance(given, (np.ndarray, Tensor)):
        return _of_array(cast("Any", given), modality)
    name = type(given).__name__
    if name in REFUSED or not isinstance(given, Iterable):
        usual = "give a str, or a list of them" if modality == "text" else "give one, or a list"
        msg = f"a {name} holds no {modality} samples; {REFUSED.get(name, usual)}"
        raise BadSample(msg)
    return list(cast("Iterable[Any]", given))


def text_list(given: Any, what: str) -> list[str]:
    """Return strings, such as the names of classes, in any form that ``sample_list`` takes.

    A bare string is refused: it is more likely a list that was forgotten than a list of one.

    Raises:
        SpecError: there are none, or something else is among them; ``what`` names them.
    """
    texts = [] if isinstance(given, str) or given is None else sample_list(given, "text")
    if not texts:
        msg = f"give at least one {what}, in a list"
        raise SpecError(msg)
    if odd := [text for text in texts if not isinstance(text, str)]:
        msg = f"{what} {odd[0]!r} is a {type(odd[0]).__name__}; give strings"
        raise SpecError(msg)
    return texts


def _of_array(given: Any, modality: str) -> list[Any]:
    if getattr(given.dtype, "kind", "f") in "OUST":  # objects or strings, of numpy
        if given.ndim > 1:
            msg = f"an array of shape {given.shape} holds no {modality} samples; give a 1-D one"
            raise BadSample(msg)
        return np.atleast_1d(given).tolist()
    if modality == "text":
        msg = f"a {type(given).__name__} of numbers holds no text samples; give strings, not tokens"
        raise BadSample(msg)
    one = given.ndim <= (3 if modality == "image" else 1)
    return [given] if one else list(given)
