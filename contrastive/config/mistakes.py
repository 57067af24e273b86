"""pydantic's errors as lines that say where a mistake is, what, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from contrastive.config.local_files import local_path
from contrastive.config.other_names import no_field, other_name
from contrastive.errors import SpecError, a_type

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Iterable

PLACE = re.compile(r"([a-z_]\w*(?:\.\w+)*): ")
VALUE_ERROR = "Value error, "  # what pydantic puts before the text of a ValueError


@contextmanager
def mistakes_of(origin: str) -> Generator[None]:
    """Turn pydantic's error within this block into ours.

    Raises:
        SpecError: a line for each mistake: after the name of the whole, where it is and what.
    """
    try:
        yield
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        raise SpecError("\n".join(f"{origin}: {in_one_line(e)}" for e in mistakes)) from None


def in_one_line(mistake: ErrorDetails) -> str:
    """Return where a mistake is and what: ``training.lr: Input should be greater than 0``."""
    where = ".".join(map(str, mistake["loc"]))
    text = mistake["msg"].removeprefix(VALUE_ERROR)
    if mistake["type"] == "model_type":
        text = "needs a mapping of fields"
    if mistake["type"] == "path_type":
        text = _no_path(mistake["input"])
    return " ".join(f"{where}: {text}".split()) if where else " ".join(text.split())


def placed(mistake: ErrorDetails, known: Container[tuple[str, ...]]) -> ErrorDetails:
    """Return a mistake at the place that its text begins with (``towers.image: ``), if it is known.

    A check of a whole, such as a model, knows of one place only.
    """
    text = mistake["msg"].removeprefix(VALUE_ERROR)
    if found := PLACE.match(text):
        where = (*map(str, mistake["loc"]), *found[1].split("."))
        if where in known:
            return {**mistake, "loc": where, "msg": text[found.end() :]}
    return mistake


def _no_path(value: object) -> str:
    """Say why a value is no path, and what one is."""
    if isinstance(value, (bool, int, float)):
        name = str(value).lower() if isinstance(value, bool) else str(value)
        return f"{name} is no path; a file or a folder of that name is put in quotes: '{name}'"
    what = "null" if value is None else a_type(value)
    return f"{what} is no path; give a text, such as data/photos"


def unknown_field(
    name: str, fields: Iterable[str], inner: Mapping[str, Iterable[str]] = MappingProxyType({})
) -> str:
    """Say which of the fields was probably meant by a name that is none of them.

    ``inner`` are the fields of fields, such as those of ``training``.
    """
    fields = list(fields)
    if name.partition(":")[0] in fields:
        return "unknown field; put a space after its ':'"
    for field, within in inner.items():
        if meant := name if name in within else other_name(name, within):
            return f"unknown field; did you mean '{field}.{meant}'?"
    if meant := other_name(name, fields):
        return f"unknown field; did you mean {meant!r}?"
    if remedy := no_field(name, fields):
        return f"unknown field; {remedy}"
    if close := _close(name, fields):
        return f"unknown field; did you mean {close[0]!r}?"
    known = ", ".join(fields)
    return f"unknown field; {f'there are: {known}' if known else 'it has no fields'}"


def _close(name: str, fields: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, fields, n=1)


def explained(cls: type[BaseModel], errors: list[ErrorDetails]) -> list[InitErrorDetails]:
    """Say of each unknown field which field was probably meant."""
    fields = [field.alias or name for name, field in cls.model_fields.items()]
    inner = {
        name: field.annotation.model_fields
        for name, field in cls.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    lines: list[InitErrorDetails] = []
    meant: set[tuple[int | str, ...]] = set()
    for error in errors:
        text = error["msg"].removeprefix(VALUE_ERROR)
        if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
            name = str(error["loc"][0])
            meant.update((close,) for close in _close(name, fields))
            text = unknown_field(name, fields, inner)
        line = PydanticCustomError(cast("Any", error["type"]), "{text}", {"text": text})
        lines.append(InitErrorDetails(type=line, loc=error["loc"], input=error["input"]))
    return [
        line
        for line, error in zip(lines, errors, strict=True)
        if not (error["type"] == "missing" and error["loc"] in meant)
    ]


def passed_by_pydantic(
    given: object, checked: object, where: tuple[int | str, ...] = ()
) -> list[InitErrorDetails]:
    """Say where true or false became a number, and where an address became a path."""
    text = ""
    if isinstance(given, bool) and not isinstance(checked, bool) and isinstance(checked, Real):
        text = f"{str(given).lower()} is no number"
    elif isinstance(given, (str, Path)) and isinstance(checked, Path):
        try:
            local_path(given)
        except ValueError as error:
            text = str(error)
    if text:
        line = PydanticCustomError("passed", "{text}", {"text": text})
        return [InitErrorDetails(type=line, loc=where, input=given)]
    inner: list[tuple[int | str, object, object]] = []
    if isinstance(given, Mapping) and isinstance(checked, Mapping):
        those, these = cast("Mapping[str, object]", given), cast("Mapping[str, object]", checked)
        inner = [(name, those[name], these[name]) for name in those if name in these]
    elif isinstance(given, (list, tuple)) and isinstance(checked, (list, tuple)):
        pairs = zip(cast("list[object]", given), cast("list[object]", checked), strict=False)
        inner = [(i, *pair) for i, pair in enumerate(pairs)]
    return [x for i, one, other in inner for x in passed_by_pydantic(one, other, (*where, i))]


def misplaced(value: object, wanted: str) -> str:
    """Say what an object is that stands where a config should; nothing of plain data."""
    name = type(value).__name__
    if isinstance(value, type):
        return f"needs {wanted}, not a class; write {value.__name__}(...)"
    if any(cls.__module__ == "torch.nn.modules.module" for cls in type(value).__mro__):
        return (
            f"needs {wanted}, not an nn.Module ({name}); ContrastiveModel.from_modules takes "
            "towers that are modules, a config class builds other parts (docs/write_a_plugin.md)"
        )
    if isinstance(value, BaseModel):
        return f"needs {wanted}, not {name}"
    if any(hasattr(value, columns) for columns in ("columns", "column_names")):
        remedy = "; write it to a Parquet file, and give Table(files=...)" * ("dataset" in wanted)
        return f"needs {wanted}, not {name}{remedy}"  # whose truth and names mislead what follows
    return ""
