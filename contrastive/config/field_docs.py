"""The fields of a config in words, for people: the reference pages and the command line."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from contrastive.config.attribute_docstrings import attribute_docstrings
from contrastive.config.base import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo

BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
SECTION = "its own"
"""The default of a field that holds fields: they have theirs."""


@dataclass(frozen=True)
class FieldRow:
    """What there is to know of one field; the texts are Markdown of one line."""

    name: str
    """As a file has it."""
    type: str
    """Such as ``integer > 0 or null``; a component's is its kind, a section's is its class."""
    default: str | None
    """As a file would have it, or ``SECTION``; None if the field is required."""
    help: str


def fields_of(cls: type[Config], link: Callable[[str], str] = str) -> list[FieldRow]:
    """Describe the fields of a config.

    Args:
        cls: the config.
        link: what stands for the name of a kind (``encoder``) or of a class (``TrainingSpec``).
    """
    helps = attribute_docstrings(cls)
    described = _schema(cls)
    rows: list[FieldRow] = []
    for attribute, field in cls.model_fields.items():
        name = field.alias or attribute
        schema = described.get(name)
        words = _type(schema, link) if schema else inspect.formatannotation(field.annotation)
        default = None if field.is_required() else _written(_default_of(field))
        about = prose(field.description or helps.get(attribute, "")).replace("\n\n", " ")
        rows.append(FieldRow(name, words, default, about))
    return rows


def prose(docstring: str) -> str:
    """Return a docstring as Markdown, a paragraph a line, without its example."""
    paragraphs = docstring.partition("\n\nExample:")[0].split("\n\n")
    return "\n\n".join(" ".join(text.split()) for text in paragraphs).replace("``", "`")


def _schema(cls: type[Config]) -> dict[str, Any]:
    try:
        return cls.model_json_schema().get("properties", {})
    except Exception:  # a field of a type that JSON has not; its annotation has to do
        return {}


def _default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _written(default: Any) -> str:
    if not isinstance(default, Config):
        try:
            return json.dumps(to_jsonable_python(default), ensure_ascii=False)
        except ValueError:  # what no file can hold, such as a function
            return repr(default)
    return f"{{type: {default.registry.name_of(type(default))}}}" if default.kind else SECTION


def _type(schema: dict[str, Any], link: Callable[[str], str]) -> str:
    """Return a JSON schema in words."""
    match schema:
        case {"$component": name}:
            words = link(name)
        case {"$ref": place}:
            words = link(place.rpartition("/")[2])
        case {"enum": [*values]}:
            words = " or ".join(f"`{value}`" for value in values)
        case {"anyOf": [*choices]}:
            words = " or ".join(_type(choice, link) for choice in choices)
        case {"prefixItems": [first, *others]}:
            words = f"{1 + len(others)} of: {_type(first, link)}"
        case {"items": items}:
            words = f"list of {_type(items, link)}"
        case {"additionalProperties": {**values}}:
            words = f"mapping of names to {_type(values, link)}"
        case {"const": value}:
            words = f"`{value}`"
        case _:
            plain = schema.get("format") or schema.get("type", "anything")
            words = f"{plain} {' and '.join(_bounds(schema))}"
    return words.strip()


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    for key, sign in BOUNDS.items():
        if key in schema:
            yield f"{sign} {schema[key]:g}"
