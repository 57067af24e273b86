"""Fields, options, verbs, extras and packages that messages name are there."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import deque
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from contrastive import RunSpec
from contrastive.cli.options import app
from contrastive.cli.verbs import add_verbs
from contrastive.components import REGISTRIES

ROOT = Path(__file__).parents[1]
FILES = [*(ROOT / "contrastive").rglob("*.py"), *(ROOT / "plugins").glob("*/contrastive_*/*.py")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PLUGINS = {
    about["name"]: about
    for file in (ROOT / "plugins").glob("*/pyproject.toml")
    for about in [tomllib.loads(file.read_text())["project"]]
}
TEXTS = (ast.Constant, ast.JoinedStr)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def messages() -> dict[str, str]:
    """Return the texts of the package that hold a blank, docstrings aside, by their places."""
    found = {}
    for file in FILES:
        ahead: deque[ast.AST] = deque([tree_of(file)])
        while ahead:
            node = ahead.popleft()
            if isinstance(node, TEXTS):
                values = node.values if isinstance(node, ast.JoinedStr) else [node]
                text = "".join(
                    str(v.value) if isinstance(v, ast.Constant) else "{}" for v in values
                )
                if " " in text:
                    found[f"{file.relative_to(ROOT)}:{node.lineno}"] = text
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, TEXTS)):
                ahead.extend(ast.iter_child_nodes(node))
    return found


OF_MODELS = {"state_dict", "encode", "tower", "embed", "module", "safetensors", "save"}
OF_OTHERS = {  # of torchrun, hf, pip and zstd
    *("--nproc-per-node", "--repo-type", "--revision", "--include", "--local-dir"),
    *("--dtype", "--default-prompt-name"),  # of text-embeddings-inference
    *("--editable", "--force-reinstall", "--no-deps", "--rm"),
}


def test_fields_that_messages_name_are_there():
    sections = {n: RunSpec.model_fields[n].annotation for n in ("model", "training", "evaluation")}
    named = [
        (section, field, place)
        for place, text in messages().items()
        for section, field in re.findall(
            r"(?<![\w./])(model|training|evaluation)\.([a-z]\w*)", text
        )
    ]
    assert len(named) > 30
    for section, field, place in named:
        known = {*sections[section].model_fields} | (OF_MODELS if section == "model" else set())
        assert field in known, f"{place}: {section}.{field}"


def test_options_and_verbs_that_messages_name_are_there():
    add_verbs()
    verbs = get_command(app).commands
    several = [each for v in verbs.values() for each in (v, *getattr(v, "commands", {}).values())]
    options = {
        name
        for verb in (get_command(app), *several)
        for param in verb.params
        for name in param.opts
    }
    for place, text in messages().items():
        named = {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)}
        assert named <= options | OF_OTHERS, place
        if "run: contrastive" in text or "run contrastive" in text or "with: contrastive" in text:
            assert re.search(r"contrastive (\w+)", text)[1] in verbs, place


@cache
def needed_by(names: tuple[str, ...]) -> set[str]:
    """Return the installed packages that some requirements bring, and what those need."""
    found: set[str] = set()
    left = [Requirement(name) for name in names]
    while left:
        asked = left.pop()
        extras = asked.extras or {""}
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        name = canonicalize_name(asked.name)
        if name in found and not asked.extras:
            continue
        found.add(name)
        try:
            more = [Requirement(each) for each in requires(name) or ()]
        except PackageNotFoundError:
            continue
        left += [
            Requirement(f"{each.name}{'[' + ','.join(each.extras) + ']' if each.extras else ''}")
            for each in more
            if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


@pytest.mark.nightly
def test_a_library_that_lacks_is_brought_by_what_is_installed_as_is_told():
    distributions = packages_distributions()
    calls = 0
    for file in FILES:
        for node in ast.walk(tree_of(file)):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require"):
                continue
            if not isinstance(node.args[0], ast.Constant):
                continue
            calls += 1
            library = node.args[0].value.partition(".")[0]
            if library not in distributions:
                continue
            how = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            if "package" in how or any(k.arg == "package" for k in node.keywords):
                about = PLUGINS.get(how.get("package", "contrastive-metric-learning"))
                wanted = about["dependencies"]
            else:
                wanted = [*PROJECT["dependencies"]]
                if "extra" in how:
                    wanted += PROJECT["optional-dependencies"][how["extra"]]
            brought = needed_by((*wanted,))
            place = f"{file.relative_to(ROOT)}:{node.lineno}"
            known = {canonicalize_name(name) for name in distributions[library]}
            assert known & brought, f"{place}: {library} is not in {sorted(brought)}"
    assert calls > 30


def test_a_plugin_that_is_told_offers_what_it_is_told_for():
    for registry in REGISTRIES:
        for name, package in registry.plugin_hints.items():
            points = PLUGINS[package]["entry-points"]
            assert name in points[registry.group]


def test_every_verb_that_takes_a_model_takes_what_its_messages_say_of_weights_that_moved():
    add_verbs()
    verbs = {name: verb.params for name, verb in get_command(app).commands.items()}
    options = {name: {x for one in several for x in one.opts} for name, several in verbs.items()}
    with_model = {name for name, several in options.items() if "--model" in several}
    assert {"classify", "export"} <= with_model
    assert {name for name in with_model if "--set" not in options[name]} == set()
