"""The errors that a user can cause, and the one line that each of them says.

The command line prints the message of a ``ContrastiveError`` and exits with 2; anything else is
our mistake and keeps its traceback.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ContrastiveError(Exception):
    """Something that the user can put right; the message says where and gives the remedy.

    Example:
        >>> try:
        ...     build_model({"towers": {}, "loss": {"type": "infonce"}})
        ... except ContrastiveError as error:
        ...     print(error)
        the spec: towers: Dictionary should have at least 1 item after validation, not 0
    """


def reason_of(error: Exception) -> str:
    """Return what an error says, in one line; of the system's, without its number and the path."""
    text = getattr(error, "strerror", None) or error
    return " ".join(str(text).split()) or type(error).__name__


class SpecError(ContrastiveError, ValueError):
    """A spec that does not fit, with one line for each mistake.

    Example:
        >>> try:
        ...     build_model(SPEC | {"embed_dmi": 16})
        ... except SpecError as error:
        ...     print(error)
        the spec: embed_dmi: unknown field; did you mean 'embed_dim'?
    """


class UnknownComponent(ContrastiveError, LookupError):  # noqa: N818
    """No component, or more than one, has that name."""


class PluginError(ContrastiveError, RuntimeError):
    """A component exists, but its package is broken."""


class MissingExtra(ContrastiveError, ImportError):  # noqa: N818
    """A component needs a package that is not installed.

    Example:
        >>> try:
        ...     require("no_such_library", extra="report")
        ... except MissingExtra as error:
        ...     print(error)
        no_such_library is not installed; run: pip install "contrastive-kit[report]"
    """


class DataError(ContrastiveError, ValueError):
    """A dataset cannot be read, or too much of it is bad.

    Example:
        >>> try:
        ...     datasets["lines"](file="nowhere.txt").build("train")
        ... except DataError as error:
        ...     print(error)
        nowhere.txt: no such file
    """


class UnknownSplit(DataError):  # noqa: N818
    """The data are readable, but have no split of that name.

    The command line adds the option that chooses one.

    Example:
        >>> try:
        ...     datasets["image-folder"](folder="photos").build("final")
        ... except UnknownSplit as error:
        ...     print(error)
        photos/captions.csv: no split 'final'; there are: 'train', 'val'
    """

    def __init__(self, message: str, known: Iterable[str] = ()) -> None:
        """Remember the names of the splits that there are, where somebody may ask for them."""
        super().__init__(message)
        self.known = tuple(sorted(known))


class EmptySplit(DataError):  # noqa: N818
    """The data are readable, but none of them is in a split that they could have."""


class BadSample(ContrastiveError, ValueError):  # noqa: N818
    """One sample that cannot be used: a broken image, a malformed row.

    Example:
        >>> try:
        ...     open_image("nowhere.png")
        ... except BadSample as error:
        ...     print(error)
        nowhere.png: no such file
    """


class WeightsError(ContrastiveError, RuntimeError):
    """Weights or a checkpoint cannot be found, or are not what they should be.

    Example:
        >>> try:
        ...     load_model("nowhere")
        ... except WeightsError as error:
        ...     print(error)
        nowhere: no model here; train one with: contrastive train SPEC.yaml
    """


class TrainingError(ContrastiveError):
    """Training cannot begin, or cannot go on."""


class RenamedWarning(FutureWarning):
    """A name of an older release was used; the message has the one of today."""


def a_type(value: object) -> str:
    """Say in a message what kind of value was given: ``an int``, ``a dict``."""
    if value is not None and is_missing(value):
        return f"{value} (a missing value)"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def is_missing(value: object) -> bool:
    """Whether a value stands for none: None, NaN, or what pandas has for an empty cell."""
    if isinstance(value, Real) and not isinstance(value, Integral):  # which may be too large
        return math.isnan(value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")
