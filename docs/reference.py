"""Write the reference: ``reference.md``, and a page for each section and component of a spec.

    python docs/reference.py

Everything comes from the config classes and their docstrings. Plugins are left out, so that the
pages do not depend on what is installed.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import api_pages
from pydantic_core import to_jsonable_python

from contrastive.components import REGISTRIES
from contrastive.config.base import Config
from contrastive.config.field_docs import SECTION, fields_of, prose
from contrastive.spec import EvaluationSpec, LoRA, ModelSpec, RunSpec, Tower
from contrastive.spec.training import KeepSpec, ParallelSpec, TrainingSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from contrastive.config.registry import Registry

DOCS = Path(__file__).parent
INDEX = DOCS / "reference.md"
FOLDER = DOCS / "reference"
KINDS: dict[str, Registry[Any]] = {registry.interface.kind: registry for registry in REGISTRIES}
SECTIONS: dict[type[Config], tuple[str, str]] = {
    RunSpec: ("run", "the whole file"),
    ModelSpec: ("model", "`model`, or a file by itself"),
    Tower: ("tower", "`model.towers.MODALITY`"),
    LoRA: ("lora", "`model.towers.MODALITY.lora`"),
    TrainingSpec: ("training", "`training`"),
    KeepSpec: ("keep", "`training.keep`"),
    ParallelSpec: ("parallel", "`training.parallel`"),
    EvaluationSpec: ("evaluation", "`evaluation`"),
}
INTRODUCTION = """\
# Reference

What a spec may say: a page for each section and each component, with its fields, their types and
defaults. Made by `python docs/reference.py` from the docstrings of the config classes. `contrastive
schema` gives the same to an [editor](spec.md#in-an-editor), with the plugins that are installed;
components of plugins are described in their own pages.

What is imported from Python: [contrastive](reference/api.md), its
[losses](reference/losses.md) as functions, the checks of [testing](reference/testing.md), and what
plugins import, the [interface](reference/interface.md).
"""


def pages() -> dict[Path, str]:
    """Return the text of every page by its path."""
    made = {INDEX: _index()}
    for cls in SECTIONS:
        made[_section(cls)] = _section_page(cls)
    for kind, registry in KINDS.items():
        for name in registry.registered:
            made[_component(kind, name)] = _component_page(kind, name)
    return made | {FOLDER / page: text for page, text in api_pages.pages().items()}


def write() -> None:
    """Write every page, and remove what is no page any more."""
    made = pages()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _section(cls: type[Config]) -> Path:
    return FOLDER / f"{SECTIONS[cls][0]}.md"


def _component(kind: str, name: str) -> Path:
    return FOLDER / kind.replace(" ", "-") / f"{name}.md"


def _index() -> str:
    sections = [
        (_link(title, _section(cls), INDEX), place, _first_line(cls))
        for cls, (title, place) in SECTIONS.items()
    ]
    parts = [INTRODUCTION, "## Sections", _table(("section", "place", ""), sections)]
    for kind, registry in KINDS.items():
        components = [
            (_link(f"`{name}`", _component(kind, name), INDEX), _first_line(cls))
            for name, cls in registry.registered.items()
        ]
        parts += [f"## {_plural(kind).capitalize()}", _about(registry.interface)]
        parts += [_table((kind, ""), components)]
    return _join(parts)


def _section_page(cls: type[Config]) -> str:
    title, place = SECTIONS[cls]
    page = _section(cls)
    facts = {"place": place, "import path": f"`{_module(cls)}:{cls.__name__}`"}
    return _join(
        [
            f"# {title.capitalize()}",
            _about(cls),
            _table(("", ""), facts.items()),
            "## Fields",
            _fields(cls, page),
            _link("All sections", INDEX, page, "sections"),
        ]
    )


def _component_page(kind: str, name: str) -> str:
    cls = KINDS[kind].registered[name]
    page = _component(kind, name)
    needed = _needed(cls)
    yaml = [f"{field}: {_flow(value)}" for field, value in {"type": name, **needed}.items()]
    return _join(
        [
            f"# `{name}`",
            _about(cls),
            _table(("", ""), _facts(kind, cls, page)),
            "\n".join(["```yaml", *yaml, "```"]),
            "\n".join(["```python", *_python(kind, cls.model_validate(needed)), "```"]),
            "## Fields",
            _fields(cls, page),
            _link(f"All {_plural(kind)}", INDEX, page, _plural(kind)),
        ]
    )


def _facts(kind: str, cls: type[Config], page: Path) -> Iterator[tuple[str, str]]:
    modality = getattr(cls, "modality", "")
    yield "kind", f"{kind} of `{modality}`" if modality else kind
    yield "import path", f"`{_module(cls)}:{cls.__name__}`"
    source = _source(cls)
    extras = {*re.findall(r'require\("[^"]*", extra="([^"]*)"\)', source.read_text("utf-8"))}
    yield "package", f"`contrastive-kit[{','.join(sorted(extras))}]`".replace("[]", "")
    yield "source", _link(source.relative_to(DOCS.parent).as_posix(), source, page)


def _source(cls: type[Any]) -> Path:
    """Return the file of the last module that a component imports: what is built is there."""
    imported = re.findall(r" from (contrastive\.[\w.]+) import", inspect.getsource(cls))
    module = find_spec(imported[-1] if imported else cls.__module__)
    return Path(module.origin)


def _needed(cls: type[Config]) -> dict[str, Any]:
    """Return an example of what a file has to say besides the type."""
    described = cls.model_json_schema()
    return {
        name: _example(name, field)
        for name, field in described["properties"].items()
        if name != "type" and (name in described["required"] or "examples" in field)
    }


def _example(name: str, schema: dict[str, Any]) -> Any:
    """Return the example that a field gives of itself, or something of its type."""
    match schema:
        case {"examples": [first, *_]} | {"enum": [first, *_]}:
            return first
        case {"$component": kind}:
            components = KINDS[kind].registered
            first = next(name for name, cls in components.items() if not _needed(cls))
            return {"type": first}
        case {"items": items}:
            return [_example(name, items)]
        case {"type": "integer" | "number"}:
            return schema.get("minimum", 1)
        case _:
            return name.upper()


def _flow(value: Any) -> str:
    """Write a value of a file in one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_flow(each)}" for name, each in value.items()) + "}"
    return value if isinstance(value, str) else json.dumps(value)


def _python(kind: str, config: Config) -> list[str]:
    """Write a component in Python, with what it needs to be imported."""
    held = [
        each
        for _, value in config
        for each in (value.values() if isinstance(value, dict) else (value,))
    ]
    imported: dict[str, set[str]] = {}
    for cls in map(type, (config, *(each for each in held if isinstance(each, Config)))):
        imported.setdefault(_module(cls), set()).add(cls.__name__)
    lines = [f"from {module} import {', '.join(sorted(imported[module]))}" for module in imported]
    return [*sorted(lines), "", f"{kind} = {_call(config)}"]


def _module(cls: type[Any]) -> str:
    """Return where a class is imported from: the menu of its folder, if it is there."""
    menu = ".".join(cls.__module__.split(".")[:2])
    return menu if getattr(import_module(menu), cls.__name__, None) is cls else cls.__module__


def _call(value: Any) -> str:
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}: {_call(each)}" for key, each in value.items())
        return f"{{{', '.join(items)}}}"
    if not isinstance(value, Config):
        return json.dumps(to_jsonable_python(value))
    given = (f"{name}={_call(each)}" for name, each in value if name in value.model_fields_set)
    return f"{type(value).__name__}({', '.join(given)})"


def _fields(cls: type[Config], page: Path) -> str:
    def link(name: str) -> str:
        for section, (title, _) in SECTIONS.items():
            if name == section.__name__:
                return _link(title, _section(section), page)
        return _link(name, INDEX, page, _plural(name))

    rows = [
        (f"`{row.name}`", row.type, _default(row.default), row.help) for row in fields_of(cls, link)
    ]
    return _table(("field", "type", "default", ""), rows) if rows else "It has none."


def _default(written: str | None) -> str:
    if written is None:
        return "required"
    return written if written == SECTION else f"`{written}`"


def _link(text: str, target: Path, page: Path, anchor: str = "") -> str:
    path = Path(os.path.relpath(target, page.parent)).as_posix()
    return f"[{text}]({path}#{anchor.replace(' ', '-')})" if anchor else f"[{text}]({path})"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in lines)
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _about(cls: type[Config]) -> str:
    return prose(inspect.getdoc(cls) or "")


def _first_line(cls: type[Config]) -> str:
    return _about(cls).partition("\n")[0]


def _plural(kind: str) -> str:
    return f"{kind}es" if kind.endswith("s") else f"{kind}s"


def _join(parts: list[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    write()
