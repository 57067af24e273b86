"""Sentences for zero-shot classification, a set for each kind of classes: CLIP's own, as data.

A set is a text file beside this one, a sentence a line; its first lines say where it is from. It
is read when it is asked for by name. Radford et al. 2021 (arXiv:2103.00020) measured with them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unicodedata import name as name_of_letter

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from contrastive.console import say
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

IDS = re.compile(r"n\d{8}|\d{2,}|\d+\.0")
"""Of WordNet, and numbers; one digit may be what an image shows."""
OF_DIGITS = re.compile(r"\b(number|digit)", re.IGNORECASE)
"""In sentences on images of digits, such as the one of MNIST."""

SETS = (
    "aircraft",
    "caltech101",
    "cars",
    "cifar",
    "country211",
    "dtd",
    "eurosat",
    "fer2013",
    "flowers102",
    "food101",
    "gtsrb",
    "imagenet",
    "imagenet-7",
    "mnist",
    "pets",
    "sun397",
)
"""The names of the sets; ``imagenet-7`` are seven of ``imagenet``'s eighty that do as well."""


def templates(name: str) -> tuple[str, ...]:
    """Return the sentences of a set, each with ``{}`` for the class.

    Raises:
        SpecError: there is no such set; says which there are.
    """
    if name not in SETS:
        close = difflib.get_close_matches(name, SETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        if "{}" in name or " " in name:
            hint = "sentences of your own go in a list, each with {} for the class; "
        msg = f"unknown templates {name!r}; {hint}there are: {', '.join(SETS)}"
        raise SpecError(msg)
    text = (Path(__file__).parent / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def _spelled_out(value: Any) -> Any:
    return templates(value) if isinstance(value, str) else value


def _with_gaps(sentences: tuple[str, ...]) -> tuple[str, ...]:
    for sentence in sentences:
        if "{}" not in sentence:
            msg = f"template {sentence!r} has no {{}} for the class"
            raise ValueError(msg)
    return sentences


Templates = Annotated[
    tuple[str, ...],
    BeforeValidator(_spelled_out),
    AfterValidator(_with_gaps),
    WithJsonSchema(
        {"anyOf": [{"enum": list(SETS)}, {"type": "array", "items": {"type": "string"}}]}
    ),
]
"""A field of sentences that also takes the name of a set, and then holds its sentences."""


TEMPLATES = ("a picture of a {}", "a photo of a {}", "{}")
"""Sentences for the classes of zero-shot classification."""


def tell_of_names(classes: Sequence[str], sentences: Sequence[str]) -> None:
    """Tell of classes that sentences make no sense of: ids, and names of another script."""
    if 2 * len(ids := [name for name in classes if IDS.fullmatch(name)]) > len(classes):
        say(
            f"classes such as {ids[0]!r} are ids, of which a text encoder knows nothing; call "
            "their folders or labels by names, such as 'tench'; folders of ImageNet or another "
            "known set (type=class-folders) have them by classes=imagenet"
        )
    elif _are_digits(classes) and not any(map(OF_DIGITS.search, sentences)):
        say(
            f"classes such as {classes[0]!r} are taken for what the images show; digits are best "
            "asked for by --templates mnist, and numbers of a known set's classes "
            "(type=class-folders) have names by classes=cifar10"
        )
    foreign = [name for name in classes if _scripts(name) and "LATIN" not in _scripts(name)]
    latin = [sentence for sentence in sentences if _scripts(sentence) == {"LATIN"}]
    if latin and 2 * len(foreign) > len(classes):
        say(
            f"classes such as {foreign[0]!r} are in another language than the template "
            f"{latin[0]!r}; give templates of their language, or '{{}}' alone"
        )


def _are_digits(names: Sequence[str]) -> bool:
    return bool(names) and all(len(name) == 1 and name.isdecimal() for name in names)


def _scripts(text: str) -> set[str]:
    """Return the scripts of a text's letters, such as LATIN and CJK."""
    return {name_of_letter(letter, "").split(" ")[0] for letter in text if letter.isalpha()}
