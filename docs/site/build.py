"""Build the site: ``python docs/site/build.py``, in an environment with the group ``docs``.

The pages are those of the repository, at their paths, so that links mean the same on the site and
on a Git host. The site has what ``nav`` in ``zensical.toml`` names and what is linked from there:
pages as pages, images and data as files, source code as pages of code. A link to nothing ends the
build; so does an anchor that is not there, which Zensical looks for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SITE = ROOT / "build" / "site"
ENTRY = re.compile(r'^ *\{ "([^"]+)" = "([^"]+\.md)" \},\n', re.M)
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r'(?:(?<=\]\()|(?<= src=")|(?<= href="))(?!\w+:|#)([^)#"\s]+)')
FILES = {".png", ".json", ".svg", ".csv"}
CODE = {".py": "python", ".toml": "toml", ".yaml": "yaml"}


def main() -> int:
    """Write the pages and have Zensical make HTML of them."""
    config, named, missing = navigation()
    for page in missing:
        print(f"left out: {page}, which is not there", file=sys.stderr)
    files, broken = gather(named)
    if broken:
        print("\n".join(broken), file=sys.stderr)
        return 1
    shutil.rmtree(SITE, ignore_errors=True)
    for path, content in files.items():
        target = SITE / "pages" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    (SITE / "zensical.toml").write_text(config, encoding="utf-8")
    return zensical()


def zensical() -> int:
    """Run Zensical over the pages, and return its exit code."""
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", SITE / "zensical.toml"]
    environment = os.environ | {"PYTHONPATH": str(HERE), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(  # noqa: S603
        command, check=False, env=environment, capture_output=True, text=True
    )
    found = (ended.stdout + ended.stderr).partition("Traceback")[0]  # it ends a strict build so
    print(found.strip())
    if ended.returncode == 0:
        print(f"written: {(SITE / 'html' / 'index.html').relative_to(ROOT)}")
    return ended.returncode


def navigation() -> tuple[str, list[Path], list[str]]:
    """Return the configuration without entries of missing pages, the pages, and the missing."""
    config = (HERE / "zensical.toml").read_text(encoding="utf-8")
    own = {entry for _, entry in ENTRY.findall(config)}
    config = ENTRY.sub(lambda found: _section(found, own) if "*" in found[2] else found[0], config)
    named = {entry: repository_path(Path(entry)) for _, entry in ENTRY.findall(config)}
    missing = [entry for entry, path in named.items() if not (ROOT / path).exists()]
    there = [path for entry, path in named.items() if entry not in missing]
    config = ENTRY.sub(lambda found: "" if found[2] in missing else found[0], config)
    return config, there, missing


def _section(entry: re.Match[str], own: set[str]) -> str:
    """Return the entries of the pages that match a pattern, as a section."""
    pages = sorted(path.relative_to(ROOT) for path in ROOT.glob(entry[2]))
    lines = [
        f'{{ "{path.stem}" = "{path.as_posix()}" }},\n'
        for path in pages
        if path.as_posix() not in own
    ]
    return f'{{ "{entry[1]}" = [\n{"".join(lines)}] }},\n'


def gather(named: list[Path]) -> tuple[dict[Path, bytes], list[str]]:
    """Return every file of the site by its path, and the links that lead nowhere."""
    files = {Path("extra.css"): (HERE / "extra.css").read_bytes()}
    broken: list[str] = []
    waiting = list(named)
    while waiting:
        path = waiting.pop()
        place = site_path(path)
        if place in files:
            continue
        if path.suffix in FILES:
            files[place] = (ROOT / path).read_bytes()
            continue
        text = (ROOT / path).read_text(encoding="utf-8")
        if path.suffix == ".md":
            text, linked, nowhere = with_links(text, path)
            waiting += linked
            broken += nowhere
        else:
            text = f"# {path.name}\n\n```{CODE.get(path.suffix, 'text')}\n{text}```\n"
        files[place] = text.encode()
    return files, broken


def with_links(text: str, page: Path) -> tuple[str, list[Path], list[str]]:
    """Return a page whose links are those of the site, what they lead to, and what is not there."""
    linked: list[Path] = []
    broken: list[str] = []

    def link(found: re.Match[str]) -> str:
        target = (ROOT / page.parent / found[0]).resolve()
        target = target / "README.md" if target.is_dir() else target
        if not (target.is_file() and target.is_relative_to(ROOT)):
            broken.append(f"{page}: {found[0]}: there is no such file")
            return found[0]
        linked.append(target.relative_to(ROOT))
        return Path(os.path.relpath(site_path(linked[-1]), page.parent)).as_posix()

    parts = re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)  # odd parts are code
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts), linked, broken


def site_path(path: Path) -> Path:
    """Return where a file of the repository is in the pages."""
    if path.name == "README.md":
        return path.with_name("index.md")
    return path if path.suffix in {".md", *FILES} else path.with_name(f"{path.name}.md")


def repository_path(path: Path) -> Path:
    """Return the file of the repository that a page of the navigation is made of."""
    if path.name == "index.md" and not (ROOT / path).exists():
        return path.with_name("README.md")
    return path


if __name__ == "__main__":
    sys.exit(main())
