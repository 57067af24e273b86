"""The first steps of a user with what is installed: Python alone, on any system.

    python tests/smoke.py [--without-extras]

It imports every module and, in an empty folder, writes a spec with data, trains and searches;
without extras, it makes sure that training says what to install.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import import_module
from importlib.metadata import metadata
from pathlib import Path
from pkgutil import walk_packages

COMMAND = shutil.which("contrastive", path=sysconfig.get_path("scripts")) or "contrastive"
KERNELS = "contrastive.losses.backends.triton."  # need Triton, which has no wheels but for Linux


def contrastive(*args: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line, which has to end with ``code``; show what it says."""
    print("$ contrastive", *args, flush=True)
    ended = subprocess.run([COMMAND, *args], capture_output=True, encoding="utf-8", check=False)
    print(ended.stderr, ended.stdout, sep="", flush=True)
    assert ended.returncode == code, f"exit code {ended.returncode}"
    return ended


def import_everything() -> None:
    """Import each module of the package but the kernels."""
    package = import_module("contrastive")
    names = [module.name for module in walk_packages(package.__path__, "contrastive.")]
    wanted = [name for name in names if not name.startswith(KERNELS) and "__main__" not in name]
    for name in wanted:
        import_module(name)
    print(f"imported: {len(wanted)} modules from {package.__path__[0]}")


def train_and_search() -> None:
    """Train on generated data, with a worker process; go on with the run; search."""
    contrastive("train", "clip.yaml", "training.workers=1", "training.epochs=2")
    contrastive("train", "clip.yaml", "training.workers=1", "training.epochs=2", "--resume")
    assert "images" in contrastive("search", "a red circle", "-k", "3").stdout


def train_without_extras() -> None:
    """See that training, which needs an extra, names one that the package has."""
    said = contrastive("train", "clip.yaml", code=2).stderr.splitlines()[-1]
    remedy = re.search(r'is not installed; run: pip install "contrastive-kit\[(.+)\]"$', said)
    assert remedy, said
    assert remedy[1] in metadata("contrastive-kit").get_all("Provides-Extra", [])


def main() -> None:
    """Do all of it in a folder that is removed afterwards."""
    print(platform.platform(), "Python", platform.python_version())
    os.environ.pop("PYTHONPATH", None)  # what is installed, not a checkout
    import_everything()
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        os.environ["CONTRASTIVE_CACHE"] = "cache"
        contrastive("--version")
        contrastive("init", "image-folder", "--with-data")
        contrastive("validate", "clip.yaml")
        train_without_extras() if "--without-extras" in sys.argv else train_and_search()
        os.chdir(before)  # Windows does not remove the folder that a process is in
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
