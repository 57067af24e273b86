"""Names of the classes of the usual zero-shot sets, as data, in the order of their numbers.

A set is a text file in ``classes``, a class a line; where data call a class otherwise, such as by
its WordNet id, that stands before the name. The first lines say where the names are from.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, WithJsonSchema

from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

CLASS_SETS = (
    "aircraft",
    "caltech101",
    "cars",
    "cifar10",
    "cifar100",
    "dtd",
    "eurosat",
    "fer2013",
    "flowers102",
    "food101",
    "gtsrb",
    "imagenet",
    "mnist",
    "pets",
    "resisc45",
    "stl10",
)
"""The names of the sets."""
NUMBERED = {"cifar10": 0, "cifar100": 0, "fer2013": 0, "flowers102": 1, "gtsrb": 0, "imagenet": 0}
"""The first number, of sets whose classes are also known by numbers."""
SHOWN = 3


@dataclass(frozen=True)
class ClassSet:
    """The classes of a data set.

    Example:
        >>> class_set("imagenet").name_of("n01443537")
        'goldfish'
    """

    name: str
    names: tuple[str, ...]
    ids: tuple[str, ...]
    """What data call a class instead, if not by its name."""

    @cached_property
    def _known(self) -> dict[str, str]:
        by_name = {_letters(name): name for name in self.names}
        return {_letters(i): name for i, name in zip(self.ids, self.names, strict=True)} | by_name

    def name_of(self, label: str) -> str | None:
        """Return the name of a class that is called by its id, number or name; None of no class."""
        if (known := self._known.get(_letters(label))) is not None:
            return known
        first = NUMBERED.get(self.name)
        if first is None or not (label.isascii() and label.isdigit()):
            return None
        index = int(label[-9:]) - first
        return self.names[index] if 0 <= index < len(self.names) else None

    def names_of(self, labels: Sequence[str], place: object) -> dict[str, str]:
        """Return the name of each label.

        Raises:
            SpecError: some are no classes of the set; names them, and what the set has.
        """
        found = {label: self.name_of(label) for label in labels}
        if wrong := [label for label, name in found.items() if name is None]:
            more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
            verb = "are no classes" if len(wrong) > 1 else "is no class"
            first = ", ".join(map(repr, wrong[:SHOWN]))
            msg = (
                f"{place}: {first}{more} {verb} of {self.name}, which has {self._examples()}; give "
                "another set, or leave out classes"
            )
            raise SpecError(msg)
        return {label: name for label, name in found.items() if name is not None}

    def _examples(self) -> str:
        parts = [f"names such as {self.names[0]!r}"]
        if self.ids != self.names:
            parts.append(f"ids such as {self.ids[0]!r}")
        if (first := NUMBERED.get(self.name)) is not None:
            parts.append(f"numbers from {first} to {first + len(self.names) - 1}")
        return ", ".join(parts)


def _letters(text: str) -> str:
    """Return a text without what names of folders have otherwise: case, spaces, signs."""
    return "".join(letter for letter in text.casefold() if letter.isalnum())


@cache
def class_set(name: str) -> ClassSet:
    """Return a set.

    Raises:
        SpecError: there is no such set; says which there are.
    """
    if name not in CLASS_SETS:
        close = difflib.get_close_matches(name, CLASS_SETS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        msg = f"unknown set of classes {name!r}; {hint}there are: {', '.join(CLASS_SETS)}"
        raise SpecError(msg)
    text = (Path(__file__).parent / "classes" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return ClassSet(name, tuple(line[-1] for line in lines), tuple(line[0] for line in lines))


def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes of a set, in the order of their numbers.

    Raises:
        SpecError: there is no such set; says which there are.

    Example:
        >>> class_names("stl10")[:3]
        ('airplane', 'bird', 'car')
    """
    return class_set(name).names


def _known(name: str) -> str:
    return class_set(name).name


ClassSetName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"enum": list(CLASS_SETS), "type": "string"})
]
"""A field with the name of a set."""
