"""Write ``reference.md``: every field of a spec, from the docstrings of the config classes.

    python docs/reference.py

Plugins are left out, so that the page does not depend on what is installed.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from contrastive.spec import (
    REGISTRIES,
    EvaluationSpec,
    LoRA,
    ModelSpec,
    RunSpec,
    Tower,
    TrainingSpec,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.config import Config

PAGE = Path(__file__).with_name("reference.md")
SECTIONS: dict[str, tuple[str, type[Config]]] = {
    "A run": ("the whole file", RunSpec),
    "A model": ("`model`, or a file by itself", ModelSpec),
    "A tower": ("`model.towers.MODALITY`", Tower),
    "LoRA": ("`lora` of a tower", LoRA),
    "Training": ("`training`", TrainingSpec),
    "Evaluation": ("`evaluation`", EvaluationSpec),
}
LINKS = {
    cls.__name__: f"[{title.lower()}](#{title.lower().replace(' ', '-')})"
    for title, (_, cls) in SECTIONS.items()
}
INTRODUCTION = """\
# Reference

Every field of a spec, with its type and its default. Made by `python docs/reference.py` from the
docstrings of the config classes; `contrastive schema` gives the same to an editor, with the
plugins that are installed. Components of plugins are described in their own pages.
"""


def page() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for title, (place, cls) in SECTIONS.items():
        parts += [f"## {title}\n", f"{_about(cls)} Place: {place}.\n", _table(cls)]
    for registry in REGISTRIES:
        interface = registry.interface
        parts += [f"## {_plural(interface.kind).capitalize()}\n", f"{_about(interface)}\n"]
        for name, cls in registry.registered.items():
            modality = getattr(cls, "modality", None)
            parts += [f"### `{name}`" + (f" ({modality})\n" if modality else "\n")]
            parts += [f"`{cls.__module__}.{cls.__name__}`. {_about(cls)}\n"]
            parts += [_table(cls) if cls.model_fields else "It has no fields.\n"]
    return "\n".join(parts)


def _about(cls: type[Config]) -> str:
    """Return the docstring, its lines joined within a paragraph."""
    paragraphs = (inspect.getdoc(cls) or "").split("\n\n")
    return "\n\n".join(_plain(paragraph) for paragraph in paragraphs)


def _plain(text: str) -> str:
    """Return a docstring's text as one line of Markdown."""
    return " ".join(text.split()).replace("``", "`")


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def _table(cls: type[Config]) -> str:
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *_rows(cls), ""])


def _rows(cls: type[Config]) -> Iterator[str]:
    described = cls.model_json_schema()["properties"]
    for name, field in cls.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else _written(field.get_default(call_default_factory=True))
        )
        about = _plain(described[name].get("description", ""))
        cells = (f"`{name}`", _type(described[name]), default, about)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _written(default: Any) -> str:
    """Return a default as a file would have it; of a section, where its own are."""
    plain = to_jsonable_python(default)
    return "its own" if isinstance(plain, dict) and plain else f"`{json.dumps(plain)}`"


def _type(schema: dict[str, Any]) -> str:
    """Return a JSON schema in words."""
    match schema:
        case {"$component": kind}:
            return f"[{kind}](#{_plural(kind)})"
        case {"$ref": place}:
            return LINKS[place.rpartition("/")[2]]
        case {"enum": [*values]}:
            words = " or ".join(f"`{value}`" for value in values)
        case {"anyOf": [*choices]}:
            words = " or ".join(map(_type, choices))
        case {"prefixItems": [first, *others]}:
            words = f"{1 + len(others)} of: {_type(first)}"
        case {"items": items}:
            words = f"list of {_type(items)}"
        case {"additionalProperties": values}:
            words = f"mapping of names to {_type(values)}"
        case _:
            words = f"{schema.get('format') or schema['type']} {' and '.join(_bounds(schema))}"
    return words.strip()


def _bounds(schema: dict[str, Any]) -> Iterator[str]:
    signs = {
        "exclusiveMinimum": ">",
        "minimum": ">=",
        "exclusiveMaximum": "<",
        "maximum": "<=",
    }
    for key, sign in signs.items():
        if key in schema:
            yield f"{sign} {schema[key]:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
