"""What a machine without a network lacks, from a folder of wheels; nothing is installed."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = "--wheels"


@contextmanager
def wheels_on_path(arguments: list[str]) -> Iterator[list[str]]:
    """Unpack the folder that ``--wheels`` names to where this process and its children import from.

    Yields:
        The arguments without the option.

    Raises:
        SystemExit: there are no wheels; one line says where.
    """
    if OPTION not in arguments:
        yield arguments
        return
    at = arguments.index(OPTION)
    folder = Path(*arguments[at + 1 : at + 2])
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        msg = f"{OPTION} {folder}: there is no .whl file; give a folder that has some"
        raise SystemExit(msg)
    with tempfile.TemporaryDirectory() as site:
        for wheel in wheels:
            try:
                zipfile.ZipFile(wheel).extractall(site)
            except zipfile.BadZipFile:
                msg = f"{OPTION}: {wheel} is no wheel; download it again"
                raise SystemExit(msg) from None
        sys.path.insert(1, site)  # behind the folder of this package
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = site if not before else f"{site}{os.pathsep}{before}"
        yield arguments[:at] + arguments[at + 2 :]


def missing(error: ImportError) -> str:
    """Return a line for a module that is not there, or whose wheel is for another Python."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return f"cannot import {error.name or 'a module'}: {error}"
    name, version = error.name.partition(".")[0], "{}.{}".format(*sys.version_info)
    return (
        f"{error.name} is missing; install {name}, or put its wheel for Python {version} in a "
        f"folder and add {OPTION} FOLDER"
    )
