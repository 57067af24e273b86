"""Specs as YAML files, with errors that point at a line, and ``a.b=value`` overrides.

The reader is YAML 1.2 (``1e-3`` is a number, ``on`` is a word). It builds what JSON has and no
more: keys are texts, and so is a date. It refuses duplicate keys, and bounds size, depth and the
number of nodes that aliases may expand to.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner

from contrastive.config.arguments import path_of, strings
from contrastive.config.base import Config, S, validated
from contrastive.config.local_files import read_bounded
from contrastive.config.mistakes import in_one_line, placed
from contrastive.config.registry import names_only
from contrastive.config.renamed import KeyPath, old_names, told_by_reader, warn
from contrastive.config.stored import FORMAT_KEY, is_stored
from contrastive.config.yaml_remedies import NO_VALUE, is_empty, remedy_for, written_nothing
from contrastive.console import say
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from pydantic_core import ErrorDetails

MAX_BYTES = 100_000  # a spec is a page; more is a mistake or an attack, and takes seconds to read
MAX_NODES = 20_000
MAX_DEPTH = 50
TAGS = "tag:yaml.org,2002:"


def load_spec(
    spec: type[S] | Callable[[dict[str, Any]], type[S]],
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    trusted: bool | None = None,
) -> S:
    """Read a YAML (or JSON) file as a ``spec``, after ``a.b=value`` overrides.

    Args:
        spec: the config class that the file describes, or what chooses it by the content.
        path: the file.
        overrides: ``a.b=value``, the value in YAML; checked as if written in the file.
        trusted: the file is the user's own, so ``module:Class`` may name a component; by default,
            if it was not saved with a model or a run.

    Raises:
        SpecError: one line for each mistake: ``file:line: path: problem``.
    """
    path = path_of("path", path)
    document = _document(path)
    data, lines = document.mapping, document.lines
    if stored := is_stored(path, data):
        data.pop(FORMAT_KEY, None)
    trusted = not stored if trusted is None else trusted
    kind = cast("type[S]", spec if isinstance(spec, type) else spec(data))
    loaded = _checked(kind, str(path), data, lines, overrides, trusted=trusted)
    for key_path in document.empty:
        if _value_at(data, key_path) is None:  # no override has given one
            name = ".".join(key_path)
            say(f"{path}:{lines[key_path]}: {name}: has no value, taken as null; {NO_VALUE}")
    return loaded


def load_fields(spec: type[S], name: str, overrides: Iterable[str]) -> S:
    """Make a ``spec`` of overrides alone; ``name`` is what messages call it.

    Raises:
        SpecError: one line for each mistake.
    """
    return _checked(spec, name, {}, {}, overrides, trusted=True)


def with_overrides(config: S, *overrides: str) -> S:
    """Return another object of a spec, after ``a.b=value`` overrides.

    Raises:
        SpecError: one line for each mistake.
    """
    data = config.check_again().model_dump(mode="json", exclude_unset=True)
    return _checked(type(config), type(config).__name__, data, {}, overrides, trusted=True)


def _checked(
    spec: type[S],
    origin: str,
    data: dict[str, Any],
    lines: dict[KeyPath, int],
    overrides: Iterable[str],
    *,
    trusted: bool,
) -> S:
    report: list[str] = []
    said: dict[KeyPath, str] = {}
    for override in strings("overrides", overrides):
        try:
            said[set_override(data, override)] = override
        except SpecError as error:
            report.append(str(error))
    try:
        with nullcontext() if trusted else names_only(), told_by_reader():
            loaded = validated(spec, data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        report += [_report(origin, lines, said, mistake) for mistake in mistakes]
    else:
        if not report:
            _warn_of_old_names(loaded, data, origin, lines, said)
            return loaded
    raise SpecError("\n".join(report))


def _warn_of_old_names(
    loaded: Config,
    data: dict[str, Any],
    origin: str,
    lines: dict[KeyPath, int],
    said: dict[KeyPath, str],
) -> None:
    for found in old_names(loaded, data):
        if found.key_path in said:
            warn(str(found), file=f"override {said[found.key_path]!r}")
        elif found.key_path in lines:
            remedy = f"; run: contrastive validate --upgrade {origin}"
            warn(f"{found}{remedy}", file=origin, line=lines[found.key_path])
        else:  # of an object of the user's own, or inside an override
            warn(f"{origin}: {found}")


def dump_spec(config: Config) -> str:
    """Write every field, defaults too, so that a later release cannot change the meaning.

    Example:
        >>> print(dump_spec(heads["mlp"]()), end="")
        type: mlp
        hidden: null
        dropout: 0.1
        residual: false
    """
    text = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    yaml.representer.yaml_representers = yaml.representer.yaml_representers | {str: _represent}
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def _represent(representer: Any, text: str) -> Any:
    """Quote what is not printable, since plain text loses some line breaks."""
    return representer.represent_scalar(
        f"{TAGS}str", text, style=None if text.isprintable() else '"'
    )


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Read a mapping, and the line on which each key path in it starts.

    Raises:
        SpecError: the file cannot be read, is not YAML, or is not a mapping.
    """
    document = _document(path)
    return document.mapping, document.lines


@dataclass
class _Document:
    """Plain data that were written as YAML."""

    data: object = None
    lines: dict[KeyPath, int] = field(default_factory=dict[KeyPath, int])
    """On which each key path starts."""
    empty: list[KeyPath] = field(default_factory=list[KeyPath])
    """Key paths after which nothing is written: YAML's other way to write null."""

    @property
    def mapping(self) -> dict[str, Any]:
        """The data, which are known to be a mapping."""
        return cast("dict[str, Any]", self.data)


def _document(path: Path) -> _Document:
    """Read a mapping."""
    try:
        document = _parse(_read_text(path))
    except _YAMLError as error:
        msg = f"{path}:{error.line}: {error}"
        raise SpecError(msg) from None
    if not isinstance(document.data, dict):
        what = _kind_of(document.data)
        msg = f"{path}:1: a spec is a mapping of names to values, this is {what}"
        raise SpecError(msg)
    return document


class _YAMLError(Exception):
    """A text that is not a document of plain data."""

    def __init__(self, problem: str, line: int, remedy: str = "") -> None:
        super().__init__("; ".join(filter(None, [" ".join(problem.split()), remedy])))
        self.line = line


def _read_text(path: Path) -> str:
    try:
        raw = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise SpecError(msg) from None
    except IsADirectoryError:
        msg = f"{path}: is a folder; give the file of a spec (a run keeps it in model/run.json)"
        raise SpecError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise SpecError(msg) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        msg = f"{path}:{line}: not UTF-8 (byte {error.start}); save the file as UTF-8"
        raise SpecError(msg) from None


class _Scanner(Scanner):
    """Ends before brackets within brackets take time that grows with the square of their number."""

    def fetch_flow_collection_start(self, *args: Any, **kwargs: Any) -> None:
        scanner = cast("Any", self)  # the library has no types here
        if len(scanner.flow_context) > MAX_DEPTH:
            raise _YAMLError("nested too deeply", scanner.reader.line + 1)
        super().fetch_flow_collection_start(*args, **kwargs)


def _parse(text: str) -> _Document:
    """Parse YAML into plain data."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Scanner = _Scanner
    yaml.composer.warn_double_anchors = False
    try:
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        about: Any = error  # the library has no types here
        mark, problem = about.problem_mark, about.problem
        start = (about.context_mark or mark).line if about.context else mark.line
        if about.context:
            since = f" that starts on line {start + 1}" if start < mark.line else ""
            problem = f"{about.context}{since}, {problem}"
        remedy = remedy_for(problem, text, start, mark.line, mark.column)
        raise _YAMLError(problem, mark.line + 1, remedy) from None
    except ReaderError as error:
        at = int(cast("Any", error).position)
        problem = f"character #x{ord(text[at]):04x} is not allowed in YAML"
        raise _YAMLError(problem, text.count("\n", 0, at) + 1) from None
    except RecursionError:
        raise _YAMLError("nested too deeply", 1) from None
    except (ValueError, LookupError, OverflowError) as error:  # for an impossible \U or %YAML
        raise _YAMLError(f"not valid YAML: {error}", 1) from None
    return _build(node, yaml.constructor.construct_object)


def _build(root: Any, construct: Callable[[Any], object]) -> _Document:
    """Turn nodes into plain data, an alias into a copy, and note the line of each key path."""
    document = _Document()
    lines, left = document.lines, MAX_NODES

    def visit(node: Any, key_path: KeyPath) -> object:
        nonlocal left
        left -= 1
        if left < 0 or len(key_path) > MAX_DEPTH:
            raise _bad(node, "the document is too large or too deep once aliases are expanded")
        lines.setdefault(key_path, node.start_mark.line + 1)
        if problem := written_nothing(node):
            raise _bad(node, problem)
        if is_empty(node):
            document.empty.append(key_path)
        match node.id, str(node.tag).removeprefix(TAGS):
            case "mapping", "map":
                return mapping(node, key_path)
            case "sequence", "seq":
                return [visit(item, (*key_path, str(i))) for i, item in enumerate(node.value)]
            case "scalar", "null" if node.value.lower() not in ("", "~", "null"):
                raise _bad(node, f"{node.value[:20]!r} cannot be read as null")
            case "scalar", "null" | "bool" | "int" | "float" as tag:
                try:
                    return construct(node)
                except (ValueError, LookupError):
                    raise _bad(node, f"{node.value[:20]!r} cannot be read as {tag}") from None
            case "scalar", "str" | "timestamp" | "value":
                return _text_of(node)
            case _, tag:
                raise _bad(node, f"the tag {tag!r} is not for specs, which are plain data")

    def mapping(node: Any, key_path: KeyPath) -> dict[str, object]:
        fields: dict[str, object] = {}
        for key, value in node.value:
            if key.id != "scalar" or key.tag == f"{TAGS}merge":
                raise _bad(key, "a key should be a text; not a list, a mapping or a merge (<<)")
            name = _text_of(key)
            if name in fields:
                first = lines[(*key_path, name)]
                raise _bad(key, f"{name!r} is given twice, first on line {first}")
            lines[(*key_path, name)] = key.start_mark.line + 1
            fields[name] = visit(value, (*key_path, name))
        return fields

    if root is None:
        document.empty.append(())
    else:
        document.data = visit(root, ())
    return document


def _text_of(node: Any) -> str:
    try:  # JSON writes some characters as two halves
        text = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _bad(node, "half of a character (a lone surrogate) cannot be stored") from None
    if "\0" in text:
        raise _bad(node, "a text cannot hold a NUL character")
    return text


def _bad(node: Any, problem: str) -> _YAMLError:
    return _YAMLError(problem, node.start_mark.line + 1)


def set_override(data: dict[str, Any], override: str) -> KeyPath:
    """Apply ``a.b=value`` to ``data`` and return its key path."""
    dotted, equals, text = override.partition("=")
    key_path = tuple(dotted.strip().split("."))
    if not equals or not all(key_path) or not dotted.isprintable():
        msg = f"override {override!r}: write it as a.b=value"
        raise SpecError(msg)
    try:
        document = _parse(text)
    except _YAMLError as error:
        msg = f"override {override!r}: {error}"
        raise SpecError(msg) from None
    if () in document.empty:
        msg = f"override {override!r}: has no value; {NO_VALUE}"
        raise SpecError(msg)
    parent: Any = data
    for depth, key in enumerate(key_path[:-1]):
        step = _step(parent, key, override, key_path[:depth])
        if step == key and parent.get(key) is None:
            parent[key] = {}
        parent = parent[step]
    parent[_step(parent, key_path[-1], override, key_path[:-1])] = document.data
    return key_path


def _value_at(data: Any, key_path: KeyPath) -> object:
    for key in key_path:
        data = data[int(key) if isinstance(data, list) else key]
    return data


def _step(parent: Any, key: str, override: str, key_path: KeyPath) -> int | str:
    """Return ``key`` as what ``parent`` is indexed by."""
    if isinstance(parent, dict):
        return key
    if isinstance(parent, list) and key in map(str, range(len(cast("list[object]", parent)))):
        return int(key)
    what = _kind_of(cast("object", parent))
    msg = f"override {override!r}: {'.'.join(key_path)} is {what} without {key!r}"
    raise SpecError(msg)


def _report(
    origin: str, lines: dict[KeyPath, int], said: dict[KeyPath, str], mistake: ErrorDetails
) -> str:
    """Say where a mistake is: in the file, or in an override."""
    mistake = placed(mistake, lines)
    where, problem = tuple(map(str, mistake["loc"])), in_one_line(mistake)
    key_path = (*where, "type") if mistake["type"] == "bad_type" else where
    for given, override in reversed(said.items()):
        made = key_path not in lines and given[: len(key_path)] == key_path
        if made or key_path[: len(given)] == given:
            return f"override {override!r}: {problem}"
    while key_path and key_path not in lines:
        key_path = key_path[:-1]
    return f"{origin}:{lines[key_path]}: {problem}" if key_path in lines else f"{origin}: {problem}"


def _kind_of(value: object) -> str:
    names = {"NoneType": "empty", "dict": "a mapping", "list": "a list", "str": "a text"}
    return names.get(type(value).__name__, "a number")
