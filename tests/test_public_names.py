"""Every public name says what it is for, shapes and errors, and shows one example that runs.

An example begins with ``docs/api_examples.py`` and the names of all public modules, in an empty
folder.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

MODULES = (
    "contrastive.interface",
    "contrastive.losses.functional",
    "contrastive.testing",
    "contrastive",
)
PUBLIC = {
    name: getattr(importlib.import_module(module), name)
    for module in MODULES
    for name in importlib.import_module(module).__all__
}
CALLABLES = {
    **{name: x for name, x in PUBLIC.items() if inspect.isfunction(x)},
    **{
        f"{name}.{key}": inspect.unwrap(getattr(member, "__func__", member))
        for name, cls in PUBLIC.items()
        if isinstance(cls, type)
        for key, member in vars(cls).items()
        if not key.startswith("_") and callable(getattr(member, "__func__", member))
        if getattr(member, "__module__", "").startswith("contrastive")
    },
}
WITH_TENSORS = [name for name, x in CALLABLES.items() if "Tensor" in str(inspect.signature(x))]
SHAPE = re.compile(r"``\[[A-Z].*?\]``|\b[Ss]calar\b|\bany shape\b|\bas ``\w+``")
SETUP = Path(__file__).parents[1] / "docs" / "api_examples.py"


def docstring(name):
    module = next(m for m in MODULES if name in importlib.import_module(m).__all__)
    return api_pages().docstring(module, name)


@cache
def api_pages():
    path = SETUP.with_name("api_pages.py")
    spec = importlib.util.spec_from_file_location("api_pages", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the examples begin with: made once, since none of them changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        names = dict(PUBLIC)
        exec(SETUP.read_text(encoding="utf-8"), names)
        yield names


@pytest.mark.slow  # a few take more than a second
@pytest.mark.parametrize("name", PUBLIC)
def test_each_public_name_has_a_purpose_and_an_example_that_runs(name, shown):
    about = docstring(name)
    assert re.match(r"\S.*?[.:]", about), f"{name}: no purpose"
    example = about.partition("Example:\n")[2]
    test = doctest.DocTestParser().get_doctest(example, dict(shown), name, None, 0)
    assert test.examples, f"{name}: no example"
    failures = []
    doctest.DocTestRunner(verbose=False).run(test, out=failures.append)
    assert not failures, "".join(failures)


@pytest.mark.parametrize("name", CALLABLES)
def test_what_raises_says_so(name):
    function = CALLABLES[name]
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
    } - {"NotImplementedError"}
    said = (inspect.getdoc(function) or "").partition("Raises:\n")[2]
    assert [error for error in sorted(raised) if error not in said] == []


@pytest.mark.parametrize("name", WITH_TENSORS)
def test_what_takes_or_gives_tensors_says_their_shapes(name):
    assert SHAPE.search(inspect.getdoc(CALLABLES[name])), name
