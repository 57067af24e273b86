"""The documentation does what it says: its examples run, its links lead somewhere.

A page's blocks run in order in one folder that holds a miniature Flickr30k:

- ``python`` runs, and shares its names with the blocks after it;
- ``yaml`` is checked as what it is: a run, a model, some sections of a run, or a component;
- either of the two whose first line is a file's name, such as ``# clip.yaml``, is that file for the
  blocks after it, and such python runs when it is imported;
- ``console`` runs the lines that start with ``$ contrastive``; what is shown below a command is
  what it prints, ``...`` standing for any lines. A command that fails must show why.

``<!-- not run: REASON -->`` above a block leaves it to the reader: python is still compiled.
"""

from __future__ import annotations

import importlib.util
import linecache
import re
import shlex
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest

from contrastive.errors import UnknownComponent
from contrastive.files import read_yaml
from contrastive.spec import REGISTRIES, ModelSpec, RunSpec
from tests.miniature import write_flickr30k

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>.*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
MINIMAL = {
    "model": {
        "towers": {
            "image": {"encoder": {"type": "vit"}, "head": {"type": "linear"}},
            "text": {"encoder": {"type": "cbow"}, "head": {"type": "linear"}},
        },
        "loss": {"type": "infonce"},
    },
    "data": {"type": "flickr30k", "folder": "flickr30k"},
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    place: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return not self.mark.startswith("not run: ")

    @property
    def file(self) -> str:
        """The name of the file that the block is, if it is one."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return named[1] if named else ""


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.name,
            text[: found.start("text")].count("\n"),
            found["language"],
            found["text"],
            found["mark"] or "",
        )
        for found in FENCE.finditer(text)
    ]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory):
    return write_flickr30k(tmp_path_factory.mktemp("docs") / "flickr30k", images=48)


@pytest.fixture
def notebook(monkeypatch):
    """A module for a page's python, which finds its own source as in a notebook."""
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
            exec(code, vars(module))

    return run


def check_yaml(block: Block, folder: Path) -> None:
    if not block.runs:
        return
    path = folder / (block.file or "block.yaml")
    path.write_text(block.text, encoding="utf-8")
    data, _ = read_yaml(path)
    if "towers" in data:
        ModelSpec.model_validate(data)
    elif "type" in data:
        kinds = [kind for kind in REGISTRIES if offers(kind, data["type"])]
        assert len(kinds) == 1, f"{block.place}:{block.line}: {data['type']} is no component"
        kinds[0].interface.choose(data)
    else:
        RunSpec.model_validate(MINIMAL | data)


def offers(registry, name: str) -> bool:
    try:
        return bool(registry[name])
    except UnknownComponent:
        return False


def check_console(block: Block, command) -> None:
    for part in re.split(r"^\$ ", block.text, flags=re.M)[1:]:
        typed, _, shown = part.partition("\n")
        name, *arguments = shlex.split(typed, comments=True)
        if name != "contrastive" or not block.runs:
            continue
        ended = command(*arguments)
        printed = ended.err + ended.out
        where = f"{block.place}:{block.line}: {typed}"
        assert ended.code == 0 or shown, f"{where}\n{printed}"
        lines = shown.rstrip("\n").split("\n")
        pattern = "".join(
            r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n" for line in lines
        )
        assert not shown or re.search(f"^{pattern}", f"{printed}\n", re.M), f"{where}\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page, miniature, tmp_path, monkeypatch, notebook, command):
    (tmp_path / "flickr30k").symlink_to(miniature)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for block in blocks_of(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            notebook(block)
        elif block.language == "yaml":
            check_yaml(block, tmp_path)
        elif block.language == "console":
            check_console(block, command)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors_of(to), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"({page.name})" not in text] == ["index.md"]


def test_the_reference_is_what_its_script_makes():
    script = ROOT / "docs" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", script)
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    written = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page() == written, "run: python docs/reference.py"
