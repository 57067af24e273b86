"""What ``make docs`` gathers: every page in the navigation, every link led somewhere.

Anchors are looked for by Zensical, which is not in the environment of the tests.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.pages import PAGES, REFERENCE, ROOT


@pytest.fixture(scope="module")
def build():
    path = ROOT / "docs" / "site" / "build.py"
    spec = importlib.util.spec_from_file_location("site_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_of_the_docs_and_every_plugin_is_in_the_navigation(build):
    _, named, _ = build.navigation()
    plugins = [path / "README.md" for path in (ROOT / "plugins").iterdir() if path.is_dir()]
    wanted = {page.relative_to(ROOT) for page in [*PAGES, *REFERENCE, *plugins]}
    assert wanted - set(named) == set()


def test_every_page_of_the_reference_is_in_the_navigation(build):
    config, _, _ = build.navigation()
    pages = [page.relative_to(ROOT).as_posix() for page in REFERENCE]
    assert [page for page in pages if f'"{page}"' not in config] == []


def test_a_page_that_is_not_there_is_left_out_and_told(build, monkeypatch, tmp_path):
    (tmp_path / "zensical.toml").write_text(
        'nav = [\n  { "Home" = "index.md" },\n  { "Gone" = "docs/gone.md" },\n]\n'
    )
    monkeypatch.setattr(build, "HERE", tmp_path)
    config, named, missing = build.navigation()
    assert config == 'nav = [\n  { "Home" = "index.md" },\n]\n'
    assert named == [Path("README.md")]
    assert missing == ["docs/gone.md"]


def test_no_link_of_the_site_leads_nowhere(build):
    files, broken = build.gather(build.navigation()[1])
    assert broken == []
    assert Path("benchmarks/results/cpu_xeon_time.png") in files
    assert Path("docs/reference/loss/infonce.md") in files


@pytest.mark.parametrize(
    ("link", "on_the_site"),
    [
        ("spec.md#in-an-editor", "spec.md#in-an-editor"),
        ("../README.md", "../index.md"),
        ("../plugins/contrastive-emoji", "../plugins/contrastive-emoji/index.md"),
        ("../contrastive/components.py", "../contrastive/components.py.md"),
        ("../benchmarks/results/cpu_xeon.json", "../benchmarks/results/cpu_xeon.json"),
        ("https://arxiv.org/abs/2103.00020", "https://arxiv.org/abs/2103.00020"),
        ("#here", "#here"),
    ],
)
def test_a_link_means_the_same_on_the_site(build, link, on_the_site):
    text, _, broken = build.with_links(f"[x]({link})", Path("docs/page.md"))
    assert (text, broken) == (f"[x]({on_the_site})", [])


@pytest.mark.parametrize("link", ["gone.md", "gone.png", "../../outside.md", "site"])
def test_a_broken_link_ends_the_build(build, link, monkeypatch, capsys):
    monkeypatch.setattr(build, "navigation", lambda: ("", [Path("docs/page.md")], []))
    read = Path.read_text
    page = ROOT / "docs" / "page.md"
    monkeypatch.setattr(
        Path, "read_text", lambda p, **kw: f"[x]({link})" if p == page else read(p, **kw)
    )
    assert build.main() == 1
    assert capsys.readouterr().err == f"docs/page.md: {link}: there is no such file\n"


@pytest.mark.parametrize("tag", ['<img alt="x" src="{}">', '<a href="{}">x</a>'])
def test_a_link_in_html_is_one_too(build, tag):
    text, linked, broken = build.with_links(tag.format("../README.md"), Path("docs/page.md"))
    assert (text, linked, broken) == (tag.format("../index.md"), [Path("README.md")], [])
    _, _, broken = build.with_links(tag.format("gone.png"), Path("docs/page.md"))
    assert broken == ["docs/page.md: gone.png: there is no such file"]


def test_links_in_code_are_left_as_they_are(build):
    text = "```md\n[x](gone.md)\n```\n"
    assert build.with_links(text, Path("docs/page.md")) == (text, [], [])
