"""The folders show the architecture: a file imports from layers below its own, or its own folder.

Type-only and lazy imports count too: what is imported late is still needed.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import contrastive

ROOT = Path(contrastive.__file__).parent
LAYERS = [  # from the lowest; names on one line do not import each other
    "errors version",
    "console",
    "config",
    "data nn",
    "distributed prompts",
    "recipe",
    "encoders heads losses datasets",
    "spec",
    "features",
    "pretrained",
    "model",
    "components",
    "indexes",
    "inference",
    "evaluation",
    "reporting",
    "curation",
    "doctor",
    "exporters",
    "training testing plugin_tools",
    "serving",
    "cli",
    "__main__",
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names.split()}
FACES = {"__init__", "interface"}  # import lazily from everywhere
AT_TOP = 34


class Import(NamedTuple):
    """One import statement of the package's own, by modules without ``contrastive.``."""

    line: int
    source: str
    target: str


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if "templates" not in parts:
            found[".".join(parts)] = ast.parse(file.read_text("utf-8"))
    return found


@cache
def imports() -> list[Import]:
    found = []
    for source, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{one.name}" for one in node.names]
            else:
                continue
            own = (name.removeprefix("contrastive.") for name in names if name != "contrastive")
            found += [
                Import(node.lineno, source, module_of(target))
                for target, name in zip(own, names, strict=False)
                if name.startswith("contrastive.")
            ]
    return found


def module_of(target: str) -> str:
    """Return the module in which a dotted name lies, as ``modules`` names it."""
    parts = target.split(".")
    for k in range(len(parts), 0, -1):
        for name in (".".join(parts[:k]), ".".join([*parts[:k], "__init__"])):
            if name in modules():
                return name
    pytest.fail(f"contrastive.{target} is imported, and is not there")


def top(module: str) -> str:
    return module.partition(".")[0]


def test_every_folder_and_file_at_the_top_has_a_layer():
    assert {top(module) for module in modules()} - FACES <= LEVEL.keys()


def test_imports_point_downwards():
    upwards = [
        f"{one.source}:{one.line} imports {one.target}"
        for one in imports()
        if top(one.source) not in FACES
        and top(one.source) != top(one.target)
        and (top(one.target) in FACES or LEVEL[top(one.target)] >= LEVEL[top(one.source)])
    ]
    assert not upwards, "\n".join(upwards)


def test_within_a_folder_only_a_menu_and_what_it_builds_import_each_other():
    graph = defaultdict(set)
    for one in imports():
        is_build = one.source.endswith("__init__")  # its own imports are in build()
        if top(one.source) == top(one.target) and one.source != one.target and not is_build:
            graph[one.source].add(one.target)
    cycles = [module for module in graph if reaches(graph, module, module)]
    assert not cycles


def reaches(graph: dict[str, set[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    rest = [*graph[start]]
    while rest:
        here = rest.pop()
        if here == goal:
            return True
        if here not in seen:
            seen.add(here)
            rest += graph.get(here, ())
    return False


def test_the_top_can_be_taken_in_at_a_glance():
    entries = [path.name for path in ROOT.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= AT_TOP


def test_no_module_bears_the_name_of_a_public_function():
    entries = {path.stem for path in ROOT.iterdir()}
    assert not entries & set(contrastive.__all__)


def test_a_class_or_constant_is_defined_once_in_a_folder():
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for module, tree in modules().items():
        folder = module.rpartition(".")[0]
        found[folder].update({name for name in defined(tree) if not name.startswith("_")})
    twice = [f"{folder}: {name}" for folder in found for name, n in found[folder].items() if n > 1]
    assert not twice


def defined(tree: ast.Module) -> list[str]:
    names = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        names += [x.id for x in targets if isinstance(x, ast.Name) and x.id != "__all__"]
    return names
