"""One or several raw samples, in whatever form Python has them, as a list."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from contrastive.data.frames import column_names, frame_column, library_of
from contrastive.data.images import StoredImage
from contrastive.errors import BadSample, SpecError, a_type

ONE = (str, bytes, bytearray, memoryview, PathLike, StoredImage, Image.Image, Mapping)
PLAIN = (str, bytes, Path, np.ndarray, Tensor)  # most samples; they are taken as they are
REFUSED = {
    "Dataset": "give one of its columns, such as dataset['text']",
    "DatasetDict": "give a column of one of its splits, such as dataset['train']['text']",
    "DataLoader": "it has batches; give raw samples, such as a column of its dataset",
    "set": "it has no order, and rows would be in another; give a list",
    "frozenset": "it has no order, and rows would be in another; give a list",
}
"""By the name of a type that would be iterated over with nonsense as the result, a remedy.

In it, ``'text'`` stands for the modality.
"""


def sample_list(given: Any, modality: str, *, least: int = 0) -> list[Any]:
    """Return the raw samples of a modality that are given, in their order.

    A string, a path, bytes, an open file, a PIL image or a mapping is one sample. A list, a tuple,
    a generator, a Series (by position), a column of a hub dataset or an array of strings is
    several; so is a frame or a hub dataset: its column that is called like the modality.
    An array or tensor of numbers is an image if it is ``[H, W]``, ``[H, W, C]`` or
    ``[C, H, W]``, and images if it is 4-D; of another modality, a 1-D one is a sample and the rows
    of others are samples.

    Raises:
        BadSample: nothing of that type is a sample or holds samples, or there are fewer than
            ``least``; says what to give.

    Example:
        >>> sample_list("a dog", "text"), sample_list(("a dog", "a cat"), "text")
        (['a dog'], ['a dog', 'a cat'])
    """
    name = type(given).__name__
    if library_of(given):
        given, name = _column(given, modality), "list"
    if name not in REFUSED and (isinstance(given, ONE) or hasattr(given, "read")):
        return [_one(given, modality)]  # a file is not to be read line by line
    if hasattr(given, "__dlpack__") and hasattr(given, "ndim"):  # an array of any library
        given = _of_array(given if isinstance(given, Tensor) else np.asanyarray(given), modality)
    elif hasattr(given, "to_pylist") and name not in REFUSED:  # of pyarrow, which yields boxes
        given = given.to_pylist()
    elif name in REFUSED or not isinstance(given, Iterable):
        usual = "give a str, or a list of them" if modality == "text" else "give one, or a list"
        remedy = REFUSED.get(name, usual).replace("'text'", repr(modality))
        msg = f"{a_type(given)} holds no {modality} samples; {remedy}"
        raise BadSample(msg)
    samples = list(cast("Iterable[Any]", given))
    if len(samples) < least:
        msg = f"there is no {modality} sample; give at least {least}"
        raise BadSample(msg)
    return [each if isinstance(each, PLAIN) else _one(each, modality) for each in samples]


def _column(frame: Any, modality: str) -> Sequence[Any]:
    """Return the column of a frame that is called like a modality.

    Raises:
        BadSample: it has none; says how to give another.
    """
    names = column_names(frame)
    if modality in names:
        return [*frame_column(frame, modality)]
    there = ", ".join(map(repr, names[:10])) or "none"
    msg = (
        f"{a_type(frame)} has no column {modality!r}; there are: {there}; give the values of one, "
        f"such as {'table' if library_of(frame) == 'pyarrow' else 'frame'}[{(names or ['a'])[0]!r}]"
    )
    raise BadSample(msg)


def text_list(given: Any, what: str, *, least: int = 1) -> list[str]:
    """Return strings, such as the names of classes, in any form that ``sample_list`` takes.

    A bare string is refused: it is more likely a list that was forgotten than a list of one.

    Raises:
        SpecError: there are fewer than ``least``, or something else or an empty one is among them;
            ``what`` names them.
    """
    if isinstance(given, str):
        names = given.split(",") if what in {"class", "answer"} else [given]
        example = [name.strip() for name in names]
        msg = f"{what} {given!r} is not in a list; give a list, such as {example}"
        raise SpecError(msg)
    if isinstance(given, Mapping):
        msg = f"{what}: a dict is given; give a list, such as its keys: list(...)"
        raise SpecError(msg)
    texts = [] if given is None else sample_list(given, "text")
    if len(texts) < least:
        msg = f"give at least one {what}, in a list"
        raise SpecError(msg)
    for number, text in enumerate(texts):
        if not one_text(text, what).strip():
            msg = f"{what} {number} of {len(texts)} is empty; leave it out"
            raise SpecError(msg)
    return cast("list[str]", texts)


def one_text(given: Any, what: str) -> str:
    """Return a string; ``what`` says what it is.

    Raises:
        SpecError: it is something else.
    """
    if not isinstance(given, str):
        msg = f"{what} {given!r} is {a_type(given)}; give a string"
        raise SpecError(msg)
    return given


def _one(sample: Any, modality: str) -> Any:
    """Return a sample as encoders take it: paths as ``Path``, and what open files hold."""
    if isinstance(sample, PathLike):
        return Path(os.fsdecode(cast("PathLike[str]", sample)))
    if isinstance(sample, ONE) or not hasattr(sample, "read"):
        return cast("Any", sample)
    try:
        content = sample.read()
    except (OSError, ValueError) as error:  # closed, or not the text that it was opened as
        content, why = None, str(error)
    else:
        why = "it was opened as text"
    if content is None or (isinstance(content, str) and modality != "text"):
        name = getattr(sample, "name", "a file")
        msg = f"{name}: cannot be read ({why}); give its path, or open it with mode 'rb'"
        raise BadSample(msg)
    return content


def _of_array(given: Any, modality: str) -> list[Any]:
    if getattr(given.dtype, "kind", "f") in "OUST":  # objects or strings, of numpy
        if given.ndim > 1:
            msg = f"an array of shape {given.shape} holds no {modality} samples; give a 1-D one"
            raise BadSample(msg)
        return np.atleast_1d(given).tolist()
    if modality == "text":
        msg = f"{a_type(given)} of numbers holds no text samples; give strings, not tokens"
        raise BadSample(msg)
    one = given.ndim <= (3 if modality == "image" else 1)
    return [given] if one else list(given)
