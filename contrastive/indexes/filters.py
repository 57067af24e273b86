"""Conditions on the columns of an index: ``label=dog``, ``year>=1990``, ``source=photos/*``.

Shapes: M rows of a table.
"""

from __future__ import annotations

import math
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.errors import SpecError
from contrastive.indexes.segments import OWN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.indexes.open_segment import OpenSegment

CONDITION = re.compile(r"\s*([^=<>!]+?)\s*(!=|>=|<=|=|>|<)(.*)", re.DOTALL)
HIDDEN = OWN[:3]
PATTERN = re.compile(r"[*?]")


def matching(segments: Sequence[OpenSegment], where: Sequence[str], place: str) -> list[Tensor]:
    """Return which rows of each segment meet all conditions: ``[M]`` booleans.

    A text is compared as it is, or by ``*`` and ``?``; a row without a value meets only ``!=``. The
    sample of a row has the name of its modality, too: ``text=a dog`` is true of the text itself.

    Raises:
        SpecError: a condition is none, names a column that is not there, or compares a text by
            size.
    """
    tables = [segment.table for segment in segments]
    masks = [torch.ones(table.num_rows, dtype=torch.bool) for table in tables]
    known = [name for table in tables for name in table.schema.names if name not in HIDDEN]
    there = [*dict.fromkeys([*known, *(segment.about.modality for segment in segments)])]
    for condition in where:
        match = CONDITION.fullmatch(condition)
        if not match or (match[2] == "=" and match[3].startswith("=")):  # ==, as in Python
            msg = f"{condition!r} is no condition; give COLUMN=VALUE, !=, >=, <=, > or <"
            raise SpecError(msg)
        name, sign, value = match[1], match[2], match[3].strip()
        if name not in there:
            msg = f"{condition}: {place} has no column {name}; it has {', '.join(there)}"
            raise SpecError(msg)
        for i, table in enumerate(tables):
            own = "sample" if name == segments[i].about.modality else name
            if own in table.schema.names:
                masks[i] &= _meets(table.column(own), sign, value, condition)
            elif sign != "!=":
                masks[i].zero_()
    return masks


def _meets(column: Any, sign: str, value: str, condition: str) -> Tensor:
    arrow, compute = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.compute"))
    kind = column.type
    if sign == "!=":
        return ~_meets(column, "=", value, condition)
    if arrow.types.is_null(kind):
        return torch.zeros(len(column), dtype=torch.bool)
    if arrow.types.is_integer(kind) or arrow.types.is_floating(kind):
        number = _number(value, condition)
        name = {
            "=": "equal",
            ">=": "greater_equal",
            "<=": "less_equal",
            ">": "greater",
            "<": "less",
        }[sign]
        if isinstance(number, int) and arrow.types.is_integer(kind):
            found = getattr(compute, name)(column, arrow.scalar(number, arrow.int64()))
        else:
            found = getattr(compute, name)(column.cast(arrow.float64(), safe=False), float(number))
        return _mask(compute, found)
    if sign != "=":
        msg = f"{condition}: this column holds no numbers; compare it by = or !="
        raise SpecError(msg)
    if arrow.types.is_boolean(kind):
        wanted = {"true": True, "1": True, "false": False, "0": False}.get(value.lower())
        if wanted is None:
            msg = f"{condition}: this column is true or false; give one of them"
            raise SpecError(msg)
        return _mask(compute, compute.equal(column, wanted))
    if not arrow.types.is_string(kind):
        msg = f"{condition}: this column holds {kind}, which is not compared"
        raise SpecError(msg)
    if not PATTERN.search(value):
        return _mask(compute, compute.equal(column, value))
    pattern, texts = value.replace("[", "[[]"), column.to_pylist()
    return torch.tensor([text is not None and fnmatchcase(text, pattern) for text in texts])


def _mask(compute: Any, found: Any) -> Tensor:
    filled = compute.fill_null(found, False)
    return torch.from_numpy(filled.to_numpy(zero_copy_only=False).copy()).bool()


def _number(value: str, condition: str) -> int | float:
    """Return the number of a condition.

    Raises:
        SpecError: it is none.
    """
    try:
        number = int(value)
        return number if abs(number) < 1 << 63 else float(number)
    except (ValueError, OverflowError):
        pass
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if math.isnan(found):
        msg = f"{condition}: this column holds numbers; give one"
        raise SpecError(msg)
    return found
