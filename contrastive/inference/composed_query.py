"""Several queries in one: ``"red car" + dog.jpg - 0.5*night``.

Shapes: D wide.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from contrastive.errors import SpecError
from contrastive.inference.queries import embedded_query

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.model.model import ContrastiveModel

WEIGHT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*\*\s*")
SIGN = re.compile(r"\s+([+-])\s+")  # not that of t-shirt
LEADING = re.compile(r"\s*([+-])?\s*")
ALONE = re.compile(r"[+-](\s|$)|.*\s[+-]$", re.DOTALL)  # a sign without a query
SIGNED = re.compile(r"[+-]\S")  # a second sign, as in a - -b
STARRED = re.compile(r"([^\s*]+)\s*\*")  # no weight, such as 1e3*
NOTHING = 1e-4  # of the length of what is left where parts cancel out


@dataclass(frozen=True)
class Part:
    """One of the queries."""

    weight: float
    """Negative, where it is taken away."""
    query: str


def parts_of(text: str) -> list[Part]:
    """Take a composed query apart.

    Words, or the path of an image, are joined by ``+`` and ``-`` between spaces. What stands in
    quotes is one query, whatever is in it; ``2*`` before a query is its weight.

    Raises:
        SpecError: a query is missing, a quote is not closed, something stands behind one, a query
            has two signs, or its weight is none.

    Example:
        >>> parts_of('"red car" - 0.5*night')
        [Part(weight=1.0, query='red car'), Part(weight=-0.5, query='night')]
    """
    found: list[Part] = []
    start = LEADING.match(text)
    at, sign = (start.end(), start[1]) if start else (0, None)
    text = text.rstrip()
    while True:
        weight = WEIGHT.match(text, at)
        at = weight.end() if weight else at
        quoted = at < len(text) and text[at] in "\"'"
        if quoted:
            end = text.find(text[at], at + 1)
            if end < 0:
                msg = f"{text}: the quote {text[at]} is not closed"
                raise SpecError(msg)
            query, after = text[at + 1 : end], SIGN.match(text, end + 1)
            if not after and end + 1 < len(text):
                msg = f"{text}: behind {text[at : end + 1]} comes + or - between spaces, or the end"
                raise SpecError(msg)
        else:
            after = SIGN.search(text, at)
            query = text[at : after.start() if after else len(text)]
        if not query.strip() or (not quoted and ALONE.match(query)):
            msg = f'{text!r}: a query is missing; give such as: "red car" + dog.jpg - 0.5*night'
            raise SpecError(msg)
        size = float(weight[1]) if weight else 1.0
        if not quoted:
            _check_part(query.strip(), text)
        if not math.isfinite(size):
            msg = f"{text}: the weight {weight[1] if weight else size} is too large; lower it"
            raise SpecError(msg)
        found.append(Part(-size if sign == "-" else size, query.strip()))
        if not after:
            return found
        at, sign = after.end(), after[1]


def _check_part(query: str, text: str) -> None:
    """Refuse what would be taken for words, and is hardly meant so.

    Raises:
        SpecError: it has a sign of its own, or a weight that is none.
    """
    if SIGNED.match(query):
        msg = f"{text}: {query} has two signs; give one, or put {query} in quotes"
        raise SpecError(msg)
    if star := STARRED.match(query):
        msg = f"{text}: {star[1]} is no weight; give such as 0.5*, or put {query} in quotes"
        raise SpecError(msg)


def asked(
    model: ContrastiveModel, query: Any, modality: str | None, *, compose: bool
) -> tuple[str, Tensor]:
    """Return the modality of a query, composed or not, and its embedding ``[1, D]``.

    Raises:
        SpecError: a composed one is no text, or is given a modality.
    """
    if not compose:
        return embedded_query(model, query, modality)
    if modality is not None or not isinstance(query, str):
        msg = "compose: takes a text, whose parts have modalities of their own"
        raise SpecError(msg)
    return embedded_parts(model, query)


def embedded_parts(model: ContrastiveModel, text: str) -> tuple[str, Tensor]:
    """Return the modality of a composed query and its embedding ``[1, D]``, of length 1.

    It is an image if all of its parts are, else words.

    Raises:
        BadSample: a part cannot be read.
        DataError: an image is not there.
        SpecError: it cannot be taken apart, or its parts cancel out.
    """
    parts = parts_of(text)
    embedded = [embedded_query(model, part.query) for part in parts]
    largest = max(abs(part.weight) for part in parts) or 1.0  # of a weight no sum overflows
    weighted = [
        part.weight / largest * one_1D for part, (_, one_1D) in zip(parts, embedded, strict=True)
    ]
    total_1D = torch.cat(weighted).sum(0, keepdim=True)
    length = float(total_1D.square().sum().sqrt())
    if length <= NOTHING:
        msg = f"{text}: its parts cancel out; change a weight"
        raise SpecError(msg)
    modalities = {modality for modality, _ in embedded}
    by = modalities.pop() if len(modalities) == 1 else "text"
    return by, total_1D / length
