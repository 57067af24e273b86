"""The folder of a run: one process trains in it at a time."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from contrastive.config.arguments import path_of
from contrastive.errors import TrainingError
from contrastive.model.run_checkpoints import recover_run

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


def run_folder(*given: str | Path | None) -> Path:
    """Return the first folder that is given.

    Raises:
        TrainingError: none is.
        SpecError: it is no path.
    """
    for folder in given:
        if folder is not None:
            return path_of("output", folder)
    msg = "a run needs a folder: give output"
    raise TrainingError(msg)


@contextmanager
def locked_run_folder(folder: Path) -> Generator[None]:
    """Keep other processes from training in the same folder; finish what killed ones began."""
    try:
        folder.mkdir(parents=True, exist_ok=True)  # now, rather than after hours of encoding
    except OSError as error:
        msg = f"{folder}: {error.strerror}; choose another output"
        raise TrainingError(msg) from None
    place = folder / "lock"
    try:
        with FileLock(place, timeout=0):
            ours = place.stat()
            recover_run(folder)
            try:
                yield
            finally:
                with suppress(OSError):  # Windows keeps open files; filelock removes it
                    if os.path.samestat(ours, place.stat()):  # the folder may be another by now
                        place.unlink()
    except Timeout:
        msg = f"{folder}: another process is training here; choose another output"
        raise TrainingError(msg) from None
    finally:
        with suppress(OSError):  # it is not empty, unless nothing came of it
            folder.rmdir()
