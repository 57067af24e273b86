"""A plugin written from ``docs/write_a_plugin.md`` alone works on the first try.

The test does what the page says, in order: it writes the files that are shown, adds the lines that
are to be added to ``pyproject.toml``, and types the commands. pip installs for real, but into a
folder beside the package instead of this environment, and without a network. Other plugins that
are installed here do not count.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.conftest import SCRIPT
from tests.pages import TUTORIAL, blocks_of, commands_of, is_shown

pytestmark = pytest.mark.slow

MORE = "# more of pyproject.toml\n"
EDITABLE = "python -m pip install --editable ."
INSTALL = (
    "python -m pip install --quiet --no-deps --no-build-isolation --no-index"
    " --upgrade --target site ."
)
PYTEST = "python -m pip install pytest"  # it is there
SECONDS = re.compile(r" in [\d.]+s$", re.M)


def add_to_project(lines, project):
    """Put lines below their heading, and the heading at the end if it is new."""
    text = project.read_text()
    heading = lines.partition("\n")[0] + "\n"
    text = text.replace(heading, lines) if heading in text else f"{text}\n{lines}"
    project.write_text(text)


def type_in(typed, folder):
    """Run what is typed, where ``folder / "site"`` is installed."""
    name, *arguments = shlex.split(INSTALL if typed == EDITABLE else typed)
    program = {"python": [sys.executable], "contrastive": [SCRIPT]}[name]
    return subprocess.run(
        [*program, *arguments],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(folder / "site"), "CONTRASTIVE_PLUGINS": "contrastive-mosaic"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.nightly
def test_a_plugin_written_from_the_page_alone_works_on_the_first_try(tmp_path):
    for block in blocks_of(TUTORIAL):
        where = f"{block.place}:{block.line}"
        if block.file:
            path = tmp_path / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.text.startswith(MORE):
            add_to_project(block.text.removeprefix(MORE), tmp_path / "pyproject.toml")
        else:
            assert block.language == "console", f"{where}: what is this block?"
        for typed, shown in commands_of(block):
            if typed != PYTEST:
                done = type_in(typed, tmp_path)
                printed = SECONDS.sub(" in a moment", done.stdout)
                told = f"{where}: {typed}\n{printed}"
                assert done.returncode == 0 or shown.strip(".\n"), told
                assert is_shown(SECONDS.sub(" in a moment", shown), printed), told
