"""The pages of the documentation and the blocks in them, as tests take them apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contrastive.components import REGISTRIES
from contrastive.errors import UnknownComponent

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
BESIDE = [*sorted(ROOT.glob("examples/*/README.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
PAGES = [ROOT / "README.md", *DOCS, *BESIDE]
TRANSLATIONS = {ROOT / "docs" / path.name: path for path in (ROOT / "docs").glob("??/*.md")}
REFERENCE = sorted((ROOT / "docs" / "reference").rglob("*.md"))
TUTORIAL = ROOT / "docs" / "write_a_plugin.md"
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
    def reason(self) -> str:
        """Why a stand-in runs instead of it; empty if it runs as it is."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else ""

    @property
    def where(self) -> str:
        return f"{self.place}:{self.line}"

    @property
    def numbers_vary(self) -> bool:
        return self.mark.endswith("numbers vary")

    @property
    def file(self) -> str:
        """The name of the file that the block is, if it is one."""
        named = re.match(r"# (\S+\.(?:py|yaml|toml))\n", self.text)
        return named[1] if named else ""

    @property
    def outline(self) -> tuple[str, ...]:
        """What a translation of the block has in common with it: all but prose and outputs."""
        typed = "\n".join(typed for typed, _ in commands_of(self)) or self.text
        code = "" if self.language == "text" else re.sub(r'"[^"]*"|#.*', "", typed)
        return self.language, self.mark.partition(": ")[0], self.file, code


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page.relative_to(ROOT).as_posix(),
            text[: found.start("text")].count("\n"),
            found["language"],
            found["text"],
            found["mark"] or "",
        )
        for found in FENCE.finditer(text)
    ]


def validated(block: Block) -> bool:
    """Tell whether a command of the page validates the file that a block is."""
    typed = [typed for other in blocks_of(ROOT / block.place) for typed, _ in commands_of(other)]
    return bool(block.file) and f"contrastive validate {block.file}" in typed


def commands_of(block: Block) -> list[tuple[str, str]]:
    """Return what a console block types, and what it shows below each command."""
    parts = re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.M)[1:]
    return [(typed, shown) for typed, _, shown in (part.partition("\n") for part in parts)]


def is_shown(shown: str, printed: str, *, numbers_vary: bool = False) -> bool:
    """Tell whether a page shows what is printed, ``...`` standing for any lines.

    Where numbers vary, they and the widths that depend on them are not compared.
    """
    if numbers_vary:
        shown, printed = _without_numbers(shown), _without_numbers(printed)
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(line) + r"\n"
        for line in shown.rstrip("\n").split("\n")
    )
    return not shown or bool(re.search(f"^{pattern}", f"{printed}\n", re.M))


def _without_numbers(text: str) -> str:
    text = re.sub(r" *[-+]?\d+(?:\.\d+)?", "0", text)
    return re.sub(r"([ ━─])\1+", r"\1", text)


def what_is(data: dict[str, Any]) -> str:
    """Say what a file holds: a model, a component of some kind, or a run, maybe a part of one."""
    if "towers" in data:
        return "model"
    if "type" not in data:
        return "run"
    kinds = [registry.interface.kind for registry in REGISTRIES if offers(registry, data["type"])]
    assert len(kinds) == 1, f"{data['type']} is no component"
    return kinds[0]


def offers(registry, name: str) -> bool:
    try:
        return bool(registry[name])
    except UnknownComponent:
        return False


def stood_in() -> dict[str, Block]:
    """Return the blocks that do not run as they are, by page and number: ``README.md 1``."""
    found = {}
    for page in PAGES:
        marked = [block for block in blocks_of(page) if block.reason]
        found |= {f"{block.place} {n}": block for n, block in enumerate(marked, start=1)}
    return found
