"""Specs as YAML files, with errors that point at a line, and ``a.b=value`` overrides.

The reader is YAML 1.2 (``1e-3`` is a number, ``on`` is a word). It builds plain data only, refuses
duplicate keys, and bounds size, depth and the number of nodes that aliases may expand to.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, SequenceNode

from contrastive.config import Config
from contrastive.errors import SpecError
from contrastive.registry import names_only

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails

S = TypeVar("S", bound=Config)
Place = tuple[int | str, ...]

MAX_BYTES = 1_000_000  # a spec is a page; more is a mistake or an attack
MAX_NODES = 20_000
MAX_DEPTH = 50


def load(
    spec: type[S], path: str | Path, overrides: Iterable[str] = (), *, trusted: bool = True
) -> S:
    """Read a YAML (or JSON) file as a ``spec``, after ``a.b=value`` overrides.

    Args:
        spec: the config class that the file describes.
        path: the file.
        overrides: ``a.b=value``, the value in YAML; checked as if written in the file.
        trusted: the file is the user's own, so ``module:Class`` may name a component.

    Raises:
        SpecError: one line for each mistake: ``file:line: path: problem``.
    """
    path = Path(path)
    data, lines = read_yaml(path)
    said: dict[Place, str] = {}
    for override in overrides:
        said[_set(data, override)] = override
    try:
        with nullcontext() if trusted else names_only():
            return spec.model_validate(data)
    except ValidationError as error:
        report = [_report(path, lines, said, e) for e in error.errors(include_url=False)]
        raise SpecError("\n".join(report)) from None


def dump(config: Config) -> str:
    """Write every field, defaults too, so that a later release cannot change the meaning."""
    text = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    cast("Any", yaml).dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Place, int]]:
    """Read a mapping, and the line on which each place in it starts.

    Raises:
        SpecError: the file cannot be read, is not YAML, or is not a mapping.
    """
    data, lines = _parse(_read_text(path), str(path))
    if not isinstance(data, dict):
        msg = f"{path}:1: a spec is a mapping of names to values, this is {_kind_of(data)}"
        raise SpecError(msg)
    return cast("dict[str, Any]", data), lines


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise SpecError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise SpecError(msg) from None
    if len(raw) > MAX_BYTES:
        msg = f"{path}: {len(raw):,} bytes is too large for a spec (limit {MAX_BYTES:,})"
        raise SpecError(msg)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        msg = f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8"
        raise SpecError(msg) from None


def _parse(text: str, origin: str) -> tuple[object, dict[Place, int]]:
    """Parse YAML into plain data and the line of each place."""
    yaml = YAML(typ="safe", pure=True)
    try:
        text.encode()  # a lone surrogate cannot be written anywhere
        node: Any = cast("Any", yaml).compose(text)
        lines = _lines(node, origin)
        return (yaml.constructor.construct_document(node) if node else None), lines
    except MarkedYAMLError as error:
        about: Any = error  # the library has no types here
        line = int(about.problem_mark.line) + 1 if about.problem_mark else 1
        problem = " ".join(str(about.problem or about.context).split())
        msg = f"{origin}:{line}: {problem}"
    except (YAMLError, ValueError) as error:
        if isinstance(error, SpecError):
            raise
        problem = " ".join(str(error).split())
        msg = f"{origin}:1: not valid YAML: {problem}"
    except RecursionError:
        msg = f"{origin}:1: nested too deeply"
    raise SpecError(msg)


def _lines(root: Any, origin: str) -> dict[Place, int]:
    """Map each place in the document to the line where it starts, aliases expanded."""
    found: dict[Place, int] = {}

    def visit(node: Any, place: Place) -> None:
        line = int(node.start_mark.line) + 1
        if len(found) > MAX_NODES or len(place) > MAX_DEPTH:
            msg = (
                f"{origin}:{line}: the document is too large or too deep once aliases are expanded"
            )
            raise SpecError(msg)
        found.setdefault(place, line)
        if isinstance(node, MappingNode):
            for key, value in cast("Any", node).value:
                found[(*place, key.value)] = int(key.start_mark.line) + 1
                visit(value, (*place, key.value))
        elif isinstance(node, SequenceNode):
            for index, value in enumerate(cast("Any", node).value):
                visit(value, (*place, index))

    if root is not None:
        visit(root, ())
    return found


def _set(data: dict[str, Any], override: str) -> Place:
    """Apply ``a.b=value`` to ``data`` and return its place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        msg = f"override {override!r}: write it as a.b=value"
        raise SpecError(msg)
    place: list[int | str] = []
    parent: Any = data
    for key in keys[:-1]:
        step = _step(parent, key, override, place)
        if isinstance(step, str):
            parent.setdefault(step, {})
        parent = parent[step]
        place.append(step)
    last = _step(parent, keys[-1], override, place)
    parent[last] = _parse(text, f"override {override!r}")[0]
    return (*place, last)


def _step(parent: Any, key: str, override: str, place: list[int | str]) -> int | str:
    """Return ``key`` as what ``parent`` is indexed by."""
    if isinstance(parent, dict):
        return key
    if isinstance(parent, list) and key.isdecimal() and int(key) < len(cast("Any", parent)):
        return int(key)
    where = ".".join(map(str, place))
    msg = f"override {override!r}: {where} is {_kind_of(cast('Any', parent))} without {key!r}"
    raise SpecError(msg)


def _report(
    path: Path, lines: dict[Place, int], said: dict[Place, str], error: ErrorDetails
) -> str:
    """Say where a mistake is: in the file, or in an override."""
    loc = error["loc"]
    where = ".".join(map(str, loc)) or "the spec"
    for place, override in said.items():
        if loc[: len(place)] == place:
            return f"override {override!r}: {where}: {error['msg']}"
    place = loc
    while place and place not in lines:
        place = place[:-1]
    return f"{path}:{lines.get(place, 1)}: {where}: {error['msg']}"


def _kind_of(value: object) -> str:
    names = {"NoneType": "empty", "dict": "a mapping", "list": "a list", "str": "a text"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")
