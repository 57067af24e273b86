"""Which code an encoder runs: hashes of a user's files and plugins, versions of libraries.

Imports are read from the source, inside functions too, so that nothing is imported to know them
and the answer does not depend on what a process happens to have loaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from contrastive.data.content_index import content_index
from contrastive.features.object_code import Code, hash_typed, reached_code
from contrastive.features.source_hash import SourceFile, read_source

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

OURS = "contrastive"
CODE = (".py", ".pyc", ".pyi", ".so", ".pyd")
INSTALLED = {"site-packages", "dist-packages"}
REQUIRED = re.compile(r"[\w.-]+")


def code_versions(
    components: Iterable[type], used: Iterable[object], packages: Iterable[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return hashes by module and versions by library of all that the encoder may run.

    Our own code has no part in it: ``Encoder.FEATURES_VERSION`` says when that counts.

    Args:
        components: classes whose packages are hashed even where they are installed.
        used: what else runs: the classes of modules, and what preprocesses.
        packages: distributions that offer the components, whose dependencies count too.
    """
    components = list(components)
    found = _Code({_top(cls.__module__) for cls in components})
    for one in reached_code((*components, *used)):
        found.add(one)
    found.follow()
    for name in packages:
        found.add_dependencies(name)
    return found.hashes, found.versions


class _Code:
    """What was found so far."""

    def __init__(self, plugins: set[str]) -> None:
        self.plugins = plugins
        self.hashes: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.waiting: list[SourceFile] = []
        self.trees: dict[Path, list[tuple[Path, set[str]]]] = {}
        self.libraries: set[tuple[str, Path]] = set()
        """Top-level packages that are libraries, as files below a folder import them."""

    def add(self, one: Code) -> None:
        """Note a module, or that which a class or function is written in."""
        name = one.__name__ if isinstance(one, ModuleType) else one.__module__
        if not name or not self._counts(name):
            return
        file = Path(getattr(sys.modules.get(name), "__file__", None) or "")
        if self._is_library(_top(name), file):
            return
        if file.suffix == ".py":
            self.waiting.append(SourceFile(name, file))
        elif not isinstance(one, ModuleType):
            key = f"{name}.{one.__qualname__}"
            several = {*self.hashes.get(key, "").split(), hash_typed(one)}
            self.hashes[key] = " ".join(sorted(several))  # functions may have one name

    def add_dependencies(self, package: str) -> None:
        """Note the version of an installed package, and of what it says that it needs."""
        if not (dist := _distribution(package)):
            return
        self.versions[package] = _version_of(dist)
        for line in dist.requires or []:
            match = REQUIRED.match(line)
            if match and (needed := _distribution(match[0])):
                self.versions[match[0].lower()] = _version_of(needed)
        self.versions.pop("contrastive-kit", None)

    def follow(self) -> None:
        """Go from file to file along their imports."""
        seen: set[Path] = set()
        while self.waiting:
            file = self.waiting.pop()
            if file.path in seen:
                continue
            seen.add(file.path)
            try:
                source = read_source(file)
            except OSError:
                continue
            self.hashes[file.name] = source.hash
            for name in source.imports:
                self._add_import(name, file)
            for path in self._named_files(file, source.texts):
                with suppress(OSError):
                    place = path.relative_to(file.root).as_posix()
                    self.hashes[place] = content_index().hash_of(path).hex()[:32]

    def _named_files(self, file: SourceFile, texts: Collection[str]) -> Iterator[Path]:
        """Yield files, not of code, that a module's strings name and that lie in its package."""
        beside = file.path.parent
        if not (beside / "__init__.py").is_file():  # a folder of anything
            names = (os.path.normpath(text) for text in texts)
            here = (name for name in names if os.path.basename(name) == name)  # noqa: PTH119
            where = f"{beside}{os.sep}"  # paths of text are made much the faster
            yield from (beside / name for name in here if _is_data(where + name))
            return
        package = file.root / _top(file.name)
        if package not in self.trees:
            self.trees[package] = _files_in(package)
        for path, ends in self.trees[package]:
            if ends & {*texts} and _is_data(path):
                yield path

    def _add_import(self, name: str, importer: SourceFile) -> None:
        top = _top(name)
        if not self._counts(name) or (top, importer.root) in self.libraries:
            return
        if not (place := _place(top, importer.root)):
            return
        if self._is_library(top, place):
            self.libraries.add((top, importer.root))
            return
        parts = name.split(".")
        root = place.parent
        for depth in range(1, len(parts) + 1):
            base = root.joinpath(*parts[:depth])
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.is_file():
                    self.waiting.append(SourceFile(".".join(parts[:depth]), path))
                    break

    def _is_library(self, top: str, place: Path) -> bool:
        """Whether a package is installed and has a version, which is noted and counts for it."""
        if top in self.plugins or not INSTALLED & set(place.parts):
            return False
        if top not in self.versions and (version := _version(top, place)):
            self.versions[top] = version
        return top in self.versions

    @staticmethod
    def _counts(name: str) -> bool:
        top = _top(name)
        return top != OURS and (top not in sys.stdlib_module_names or top == "__main__")


def _is_data(path: Path | str) -> bool:
    """Whether a path is a file that is no code."""
    try:
        return os.path.splitext(path)[1] not in CODE and os.path.isfile(path)  # noqa: PTH113, PTH122
    except (OSError, ValueError):  # a text that is no name
        return False


def _top(name: str) -> str:
    return name.partition(".")[0]


def _files_in(package: Path) -> list[tuple[Path, set[str]]]:
    """Return what is in a package, each with the ends of its path, by which code may name it."""
    found: list[tuple[Path, set[str]]] = []
    for path in sorted(package.rglob("*")):
        parts = path.relative_to(package).parts
        found.append((path, {"/".join(parts[i:]) for i in range(len(parts))}))
    return found


def _place(top: str, root: Path) -> Path | None:
    """Return the file or folder of a top-level package or module, without importing it."""
    for beside in (root / top / "__init__.py", root / f"{top}.py"):
        if beside.is_file():
            return beside.parent if beside.stem == "__init__" else beside
    try:
        spec = getattr(sys.modules.get(top), "__spec__", None) or importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _version(top: str, place: Path) -> str:
    """Return the version of an installed package by its import name."""
    site = next(folder for folder in place.parents if folder.name in INSTALLED)
    dist = _distribution(top) or _distribution_with(top, site)
    return _version_of(dist) if dist else ""


@cache  # by its object: to know it, all of a file is parsed
def _version_of(dist: Distribution) -> str:
    return dist.version


@cache
def _distribution(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except (PackageNotFoundError, ValueError):
        return None


@cache
def _distribution_with(top: str, folder: Path) -> Distribution | None:
    """Return the distribution whose files hold a package of another name, such as PIL."""
    name = re.escape(top).encode()
    wanted = re.compile(rb"^" + name + rb"(/__init__\.py|\.py|\.[^/,]*\.(so|pyd)),", re.MULTILINE)
    for record in folder.glob("*.dist-info/RECORD"):
        try:
            if wanted.search(record.read_bytes()):
                return Distribution.at(record.parent)
        except OSError:
            continue
    return None
