"""Sentences for zero-shot classification, a set for each kind of classes: CLIP's own, as data.

A set is a text file beside this one, a sentence a line; its first lines say where it is from. It
is read when it is asked for by name. Radford et al. 2021 (arXiv:2103.00020) measured with them.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from contrastive.errors import SpecError

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
        if "{}" in name:
            hint = "a sentence goes in a list; "
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
