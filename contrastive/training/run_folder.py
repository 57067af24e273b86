"""The folder of a run: one process trains in it at a time."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from contrastive.config.arguments import address_in, path_of
from contrastive.config.local_files import check_regular
from contrastive.config.stored import is_stored
from contrastive.data.storage.file_locks import locked
from contrastive.errors import TrainingError
from contrastive.model.run_checkpoints import recover_run
from contrastive.training.remote_output import staging_folder

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

LOCK = ".contrastive.lock"
"""Emptied and deleted, so that it must be a name that nobody else gives."""
OVERRIDE = re.compile(r"(model|data|training|evaluation)\.[\w.]+=")


def run_folder(
    output: str | Path | None,
    of_spec: str | Path | None,
    default: Path | None,
    *,
    file: Path | None = None,
) -> tuple[Path, str]:
    """Return the first folder that is given; of an address its local folder, and the address.

    Args:
        output: that is asked for.
        of_spec: that the spec names.
        default: for a run without.
        file: that the spec was read from. One that was saved with a model may be a stranger's, and
            does not say to whom a run is sent.

    Raises:
        TrainingError: none is.
        SpecError: it is no path, or an address with a password.
    """
    for folder in (output, of_spec, default):
        if folder is not None:
            if address := address_in("output", folder):
                if output is None and file and is_stored(file, {}):
                    msg = f"{file}: output is {address}, in a saved spec; to send to it: --output"
                    raise TrainingError(f"{msg} {address}")
                return staging_folder(address), address
            if OVERRIDE.match(str(folder)):
                msg = f"output is {str(folder)!r}; to change the spec: spec.with_({str(folder)!r})"
                raise TrainingError(msg)
            return path_of("output", folder), ""
    msg = "a run needs a folder: give output"
    raise TrainingError(msg)


@contextmanager
def locked_run_folder(folder: Path) -> Generator[None]:
    """Keep other processes from training in the same folder; finish what killed ones began."""
    lock, log = folder / LOCK, folder / "log.jsonl"
    try:  # now, rather than after hours of encoding
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(log):
            check_regular(log)
            log.open("rb+").close()
    except OSError as error:
        msg = f"{error.filename or folder}: {error.strerror}; choose another output"
        raise TrainingError(msg) from None
    with ExitStack() as stack:
        stack.callback(_remove_if_empty, folder)  # if nothing came of it
        try:
            stack.enter_context(locked(lock, wait=0))
            ours = lock.stat()  # not there if the process before has just removed it
        except TimeoutError:
            msg = f"{folder}: another process is training here; choose another output"
            raise TrainingError(msg) from None
        except OSError as error:
            msg = f"{lock}: {error.strerror}; choose an output on another disk"
            raise TrainingError(msg) from None
        stack.callback(_remove, lock, ours)
        recover_run(folder)
        yield


def _remove(lock: Path, ours: os.stat_result) -> None:
    with suppress(OSError):  # Windows keeps open files; filelock removes it
        if os.path.samestat(ours, lock.stat()):  # the folder may be another by now
            lock.unlink()


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()
