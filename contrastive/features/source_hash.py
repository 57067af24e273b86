"""What a file of Python does, apart from its comments and docstrings, and what it names.

The hash of a file is over its syntax tree, so that a comment that is added throws nothing away.
"""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST = 200  # characters of a text that may be a name
MODULE = re.compile(r"\.{0,2}[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class SourceFile:
    """The source of a module."""

    name: str
    path: Path

    @property
    def package(self) -> str:
        """The package that it is in."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]

    @property
    def root(self) -> Path:
        """The folder that its top-level package or module is in."""
        levels = self.name.count(".") + (self.path.stem == "__init__")
        return self.path.parents[levels]


@dataclass(frozen=True)
class Source:
    """What a file does and names."""

    hash: str
    imports: frozenset[str]
    texts: frozenset[str]
    """Short strings in it, of which some name modules or files."""


def read_source(file: SourceFile) -> Source:
    """Return what a file does and names.

    Raises:
        OSError: it cannot be read.
    """
    about = file.path.stat()
    return _read(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=4096)
def _read(file: SourceFile, _changed: int, _size: int) -> Source:
    source = file.path.read_bytes()
    try:
        tree = ast.parse(source)
        _drop_docstrings(tree)
        described = repr(_described(tree)).encode()
    except (SyntaxError, ValueError, RecursionError):
        return Source(_hash(source), frozenset(), frozenset())
    nodes = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    texts = frozenset(x for x in nodes if isinstance(x, str) and 0 < len(x) <= LONGEST)
    named = (_absolute(text, file.package) for text in texts if MODULE.fullmatch(text))
    top = file.name.partition(".")[0]
    own = {name for name in named if name.partition(".")[0] == top}
    return Source(_hash(described), frozenset((*_imports(tree, file.package), *own)), texts)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                node.body = [x for x in node.body if not _is_text(x)]
            case _:
                pass


def _is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string alone, which does nothing."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case _:
            return False


def _described(node: Any) -> object:
    """Return a tree as tuples without what is empty, of which later Pythons have more."""
    match node:
        case ast.AST():
            fields = ((name, value) for name, value in ast.iter_fields(node))
            kept = ((name, _described(value)) for name, value in fields if value not in (None, []))
            return type(node).__name__, *kept
        case list():
            return [_described(each) for each in cast("list[Any]", node)]
        case _:
            return node


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = _absolute("." * level + (module or ""), package)
                yield from (f"{base}.{alias.name}" for alias in names)
            case _:
                pass


def _absolute(name: str, package: str) -> str:
    """Return the name of a module that is given by dots from a package."""
    rest = name.lstrip(".")
    if not (level := len(name) - len(rest)):
        return name
    above = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*above, *([rest] if rest else [])])
