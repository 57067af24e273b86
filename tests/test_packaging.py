"""The wheel of this checkout: what it holds, and that the README's install line leads to it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from contrastive.plugin_tools.new_package import TEMPLATES
from tests.pages import ROOT, blocks_of, commands_of

pytestmark = pytest.mark.slow


def run(*command, **more):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (made,) = folder.glob("*.whl")
    return made


def test_the_wheel_has_the_package_with_its_data_and_nothing_else(wheel):
    names = {Path(name) for name in zipfile.ZipFile(wheel).namelist()}
    data = [*TEMPLATES.rglob("*"), *(ROOT / "contrastive" / "prompts").rglob("*")]
    data = {p.relative_to(ROOT) for p in data if p.is_file() and "__pycache__" not in p.parts}
    assert len(data) > 40
    assert data | {Path("contrastive/py.typed")} <= names
    assert {name.parts[0] for name in names if ".dist-info" not in name.parts[0]} == {"contrastive"}


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Make an environment that has what this one has, but for this project and its plugins."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    others = folder / "others"
    others.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "contrastive" not in path.name:
            (others / path.name).symlink_to(path)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    Path(site, "others.pth").write_text(str(others))
    return folder


def install_line():
    """Return the words of the line that installs the checkout, as the README has it."""
    lines = [typed for block in blocks_of(ROOT / "README.md") for typed, _ in commands_of(block)]
    (line,) = [line for line in lines if line.startswith("pip install")]
    return shlex.split(line)


def test_the_readmes_install_line_gives_a_command_that_works(wheel, environment, tmp_path):
    pip, *words = install_line()
    assert words[-1] == ".[all]"
    python = environment / "bin" / "python"
    run(
        *(sys.executable, "-m", pip, "--python", python, *words[:-1], f"{wheel}[all]"),
        env=os.environ | {"PIP_NO_INDEX": "1"},  # what it depends on is there
    )
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def contrastive(*arguments):
        return run(environment / "bin" / "contrastive", *arguments, cwd=tmp_path, env=bare)

    imported = re.search(r"\((.*)\)", contrastive("--version"))[1]
    assert Path(imported).is_relative_to(environment)
    contrastive("init", "image-folder", "--with-data")
    contrastive("validate", "clip.yaml")
