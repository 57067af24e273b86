"""The documentation does what it says: its examples run, its links lead somewhere.

A page's blocks run in order in a folder of its own, as ``tests/reader.py`` says.
``test_write_a_plugin`` runs the page of that name, which is a package to be installed.

``<!-- not run: REASON -->`` stands above a block that needs the hub, a GPU, a cluster or minutes;
``test_stand_ins`` runs one of the same form.

A translation, such as ``docs/es/flickr30k.md``, has the same blocks in the same order. Those that
differ run beside the original's, in the same folder.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
import pytest

from contrastive.config.yaml_files import read_yaml
from tests.exports import here
from tests.pages import (
    DOCS,
    FENCE,
    PAGES,
    REFERENCE,
    ROOT,
    TRANSLATIONS,
    TUTORIAL,
    blocks_of,
    commands_of,
    stood_in,
)
from tests.reader import INTERFACES

if TYPE_CHECKING:
    from pathlib import Path

REASONS = {"hub", "GPU", "cluster", "minutes"}
MOST = 12  # blocks that do not run as they are
CLIPS = 8  # sounds of whoever reads the page about audio


def by_night(page):
    """Mark the page about audio, which takes long: its plugin has tests of its own."""
    return [pytest.mark.nightly] if page.parent.name == "contrastive-audio" else []


# of Lightning, in docs/own_loop.md
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::contrastive.errors.RenamedWarning")  # a page shows it
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=by_night(page))
        for page in PAGES
        if page != TUTORIAL
    ],
)
def test_the_examples_of_a_page_run(page, reader, record_property, monkeypatch):
    monkeypatch.setattr("contrastive.exporters.verification.compared", here)
    if page.parent.name == "contrastive-audio":
        write_clips(reader.folder)
    translation = blocks_of(TRANSLATIONS[page]) if page in TRANSLATIONS else []
    for block, translated in zip_longest(blocks_of(page), translation):
        if not block.reason:
            reader.follow(block)
            record_property("block", block.where)
        if translated and not translated.reason and translated.text != block.text:
            reader.follow(translated, done=commands_of(block))
            record_property("block", translated.where)


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_has_the_blocks_of_its_page(page):
    translation = TRANSLATIONS[page]
    assert f"({translation.relative_to(page.parent).as_posix()})" in page.read_text("utf-8")
    assert f"(../{page.name})" in translation.read_text("utf-8")
    blocks = blocks_of(page)
    assert [block.outline for block in blocks_of(translation)] == [one.outline for one in blocks]


def write_clips(folder):
    """Write sounds with captions, as somebody has who reads the page about audio."""
    soundfile = pytest.importorskip("soundfile")
    (folder / "clips").mkdir()
    rows = ["audio,text,split"]
    for i in range(CLIPS):
        tone = np.sin(np.arange(8000) * (0.05 + 0.02 * i), dtype=np.float32)
        soundfile.write(folder / "clips" / f"{i}.wav", tone, 16000)
        rows.append(f"{i}.wav,tone number {i},{('test', 'val', 'train', 'train')[i % 4]}")
    (folder / "clips" / "captions.csv").write_text("\n".join(rows))
    shutil.copy(folder / "clips" / "0.wav", folder / "bark.wav")


def test_few_blocks_do_not_run_as_they_are_and_each_says_why():
    found = stood_in()
    assert len(found) <= MOST, [*found]
    assert {block.reason for block in found.values()} <= REASONS
    assert not [
        block.where
        for page in PAGES
        for block in blocks_of(page)
        if block.language not in {"python", "yaml", "console", "text", "toml", "json"}
        and block.language != "javascript"  # run by test_export_browser
    ]


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
    pages = [*DOCS, *TRANSLATIONS.values()]
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
