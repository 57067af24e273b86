"""The fields of a config for people: name, type in words, default, help."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from contrastive.config import attribute_docstrings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

    from contrastive.config import Config


@dataclass(frozen=True)
class FieldOf:
    """One field of a config."""

    name: str
    type: str
    """In words: ``integer > 0 or null``."""
    default: str
    """As a file would have it; ``required`` if there is none."""
    help: str


def fields_of(cls: type[Config]) -> list[FieldOf]:
    """Return the fields in the order in which they are declared."""
    helps = attribute_docstrings(cls)
    schema = _schema(cls)
    return [
        FieldOf(
            name=field.alias or name,
            type=_type_of(schema.get(field.alias or name), field.annotation),
            default="required" if field.is_required() else written(_default(field)),
            help=" ".join((field.description or helps.get(name, "")).split()).replace("``", "`"),
        )
        for name, field in cls.model_fields.items()
    ]


def _default(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def written(value: Any) -> str:
    """Return a value as a file would have it."""
    try:
        return json.dumps(to_jsonable_python(value), ensure_ascii=False)
    except ValueError:  # a default that no file can hold, such as a function
        return repr(value)


def in_words(
    schema: dict[str, Any],
    *,
    quoted: Callable[[str], str] = str,
    linked: Callable[[str], str] = str,
) -> str:
    """Return a JSON schema in words.

    Args:
        schema: of one field, as ``Config.model_json_schema`` has it.
        quoted: how a value that is to be typed looks.
        linked: how the name of a kind of component, or of a section, looks.
    """

    def words_of(inner: dict[str, Any]) -> str:
        return in_words(inner, quoted=quoted, linked=linked)

    match schema:
        case {"$component": kind}:
            words = linked(kind)
        case {"$ref": place}:
            words = linked(place.rpartition("/")[2])
        case {"enum": [*values]}:
            words = " or ".join(quoted(str(value)) for value in values)
        case {"const": value}:
            words = quoted(str(value))
        case {"anyOf": [*choices]}:
            words = " or ".join(map(words_of, choices))
        case {"prefixItems": [first, *others]}:
            words = f"{1 + len(others)} of: {words_of(first)}"
        case {"items": items}:
            words = f"list of {words_of(items)}"
        case {"additionalProperties": {**values}}:
            words = f"mapping of names to {words_of(values)}"
        case _:
            kind = schema.get("format") or schema.get("type") or "anything"
            words = f"{kind} {' and '.join(_bounds(schema))}"
    return words.strip()


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    for key, sign in signs.items():
        if key in schema:
            yield f"{sign} {schema[key]:g}"


def _schema(cls: type[Config]) -> dict[str, Any]:
    try:
        return cls.model_json_schema().get("properties", {})
    except Exception:  # a field of a type that JSON has not; its annotation has to do
        return {}


def _type_of(schema: dict[str, Any] | None, annotation: Any) -> str:
    if schema:
        return in_words(schema)
    return inspect.formatannotation(annotation)
