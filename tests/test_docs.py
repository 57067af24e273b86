"""The documentation does what it says: its examples run, its links lead somewhere.

A page's blocks run in order in an empty folder, as a reader would run them:

- ``python`` runs, and shares its names with the blocks after it;
- ``yaml`` is checked as what it is: a run, a model, some sections of a run, or a component;
- either of the two whose first line is a file's name, such as ``# clip.yaml``, is that file for the
  blocks after it, and such python runs when it is imported;
- ``console`` runs the lines that start with ``$ contrastive``; what is shown below a command is
  what it prints, ``...`` standing for any lines. A command that fails must show why;
- ``text`` below ``<!-- printed -->`` is what the python before it prints.

``test_write_a_plugin`` runs the page of that name, which is a package to be installed.

``<!-- not run: REASON -->`` above a block leaves it to the reader: python is still compiled. With
``<!-- numbers vary -->`` (``<!-- printed, numbers vary -->``), numbers that depend on the machine
are not compared.

A translation, such as ``docs/es/flickr30k.md``, has the same blocks in the same order. Those that
differ run beside the original's, in the same folder.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import linecache
import re
import shlex
import sys
import types
from itertools import zip_longest
from typing import TYPE_CHECKING

import pytest

from contrastive.components import REGISTRIES
from contrastive.config.yaml_files import read_yaml
from contrastive.spec import ModelSpec, RunSpec
from tests.pages import (
    FENCE,
    MINIMAL,
    PAGES,
    REFERENCE,
    ROOT,
    TRANSLATIONS,
    TUTORIAL,
    Block,
    blocks_of,
    commands_of,
    is_shown,
    what_is,
)

if TYPE_CHECKING:
    from pathlib import Path

INTERFACES = {registry.interface.kind: registry.interface for registry in REGISTRIES}


@pytest.fixture
def notebook(monkeypatch):
    """Run a page's python in a module, which finds its own source as in a notebook.

    What the last block of each page printed is in ``notebook.printed``.
    """
    module = types.ModuleType("notebook")
    monkeypatch.setitem(sys.modules, "notebook", module)

    def run(block: Block) -> None:
        name = f"<{block.place}:{block.line}>"
        code = compile("\n" * block.line + block.text, name, "exec")
        linecache.cache[name] = (
            len(block.text),
            None,
            [*"\n" * block.line, *block.text.splitlines(keepends=True)],
            name,
        )
        if block.runs and not block.file:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(code, vars(module))
            run.printed[block.place] = output.getvalue()

    run.printed = {}
    return run


def check_yaml(block: Block, folder: Path) -> None:
    if not block.runs:
        return
    path = folder / (block.file or "block.yaml")
    path.write_text(block.text, encoding="utf-8")
    data, _ = read_yaml(path)
    kind = what_is(data)
    if kind == "model":
        ModelSpec.model_validate(data)
    elif kind == "run":
        RunSpec.model_validate(MINIMAL | data)
    else:
        INTERFACES[kind].choose(data)


def check_console(block: Block, command, done: list[tuple[str, str]]) -> None:
    """Run the commands but those that are done, with what they are to show."""
    for typed, shown in commands_of(block):
        name, *arguments = shlex.split(typed, comments=True)
        if name != "contrastive" or not block.runs or (typed, shown) in done:
            continue
        ended = command(*arguments)
        printed = ended.err + ended.out
        where = f"{block.place}:{block.line}: {typed}"
        assert ended.code == 0 or shown, f"{where}\n{printed}"
        assert is_shown(shown, printed, numbers_vary=block.numbers_vary), f"{where}\n{printed}"


# of Lightning, in docs/own_loop.md
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::contrastive.errors.RenamedWarning")  # a page shows it
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != TUTORIAL], ids=lambda page: page.name
)
def test_the_examples_of_a_page_run(page, tmp_path, monkeypatch, notebook, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    translation = blocks_of(TRANSLATIONS[page]) if page in TRANSLATIONS else []
    for original, translated in zip_longest(blocks_of(page), translation):
        run_block(original, tmp_path, notebook, command)
        if translated and translated.text != original.text:
            run_block(translated, tmp_path, notebook, command, done=commands_of(original))


def run_block(block: Block, folder: Path, notebook, command, *, done=()) -> None:
    if block.file:
        (folder / block.file).write_text(block.text, encoding="utf-8")
    if block.language == "python":
        notebook(block)
    elif block.language == "yaml":
        check_yaml(block, folder)
    elif block.language == "console":
        check_console(block, command, done)
    elif block.mark.startswith("printed"):
        printed = notebook.printed[block.place]
        assert is_shown(block.text, printed, numbers_vary=block.numbers_vary), printed


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_has_the_blocks_of_its_page(page):
    translation = TRANSLATIONS[page]
    assert f"({translation.relative_to(page.parent).as_posix()})" in page.read_text("utf-8")
    assert f"(../{page.name})" in translation.read_text("utf-8")
    blocks = blocks_of(page)
    assert [block.outline for block in blocks_of(translation)] == [one.outline for one in blocks]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_the_pages_for_developers_name_exists(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:[\w.]+/)*[\w]+\.(?:py|md|txt|toml)|(?:[\w]+/)+[\w]+)`", text)
    homes = (ROOT, ROOT / "contrastive")
    missing = [name for name in named if not any((home / name).exists() for home in homes)]
    assert len(named) > 15
    assert [name for name in missing if "/" in name] == []


def test_every_target_that_is_named_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`make ([\w -]+?)`", contributing)
    assert len(named) >= 5
    for target in " ".join(named).split():
        assert f"\n{target}:" in makefile, target


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page",
    [*PAGES, *TRANSLATIONS.values(), *REFERENCE],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_links_of_a_page_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(to), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [*PAGES[1:], *TRANSLATIONS.values()]
    names = [page.relative_to(ROOT / "docs").as_posix() for page in pages]
    assert [name for name in names if f"({name})" not in text] == ["index.md"]


def test_every_page_of_the_reference_is_in_its_index():
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    names = [page.relative_to(ROOT / "docs").as_posix() for page in REFERENCE]
    assert names
    assert [name for name in names if f"({name})" not in text] == []


def test_the_reference_is_what_its_script_makes(monkeypatch):
    script = ROOT / "docs" / "reference.py"
    monkeypatch.syspath_prepend(script.parent)
    spec = importlib.util.spec_from_file_location("reference", script)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    made = reference.pages()
    there = {page: page.read_text(encoding="utf-8") for page in [reference.INDEX, *REFERENCE]}
    changed = [page for page in {**made, **there} if made.get(page) != there.get(page)]
    assert changed == [], "run: python docs/reference.py"


@pytest.mark.parametrize("kind", INTERFACES)
def test_a_page_of_the_reference_shows_its_component_in_yaml_and_in_python(kind, tmp_path):
    for page in (ROOT / "docs" / "reference" / kind).glob("*.md"):
        in_yaml, in_python = blocks_of(page)
        path = tmp_path / "component.yaml"
        path.write_text(in_yaml.text, encoding="utf-8")
        data, _ = read_yaml(path)
        assert data["type"] == page.stem
        names = {}
        exec(in_python.text, names)
        assert names[kind] == INTERFACES[kind].choose(data)
