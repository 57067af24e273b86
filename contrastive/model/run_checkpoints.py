"""The checkpoints of a run: ``checkpoints/step-00000008`` and no other name.

What else is in that folder is somebody's: it is neither read, nor counted, nor removed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from contrastive.console import say
from contrastive.data.storage.atomic_files import leftovers
from contrastive.model.saved_folder import (
    SavedFolder,
    is_whole,
    open_folder,
    recover,
    remove_folder,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

DAMAGED = "damaged-"
"""Before the name of one whose files are not what was written: it stays until it is replaced."""


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return run / "checkpoints" / f"step-{step:08d}"


def checkpoints_of(run: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, by their steps."""
    return [path for _, path in sorted(_numbered(run))]


def newest_checkpoint(run: Path, *, set_aside: bool = False) -> SavedFolder | None:
    """Return the newest checkpoint that is whole.

    Args:
        run: its folder.
        set_aside: rename the damaged ones that are newer, so that the run can go on.

    Raises:
        UnreadableError: whether the newest is whole cannot be told.
    """
    for path in reversed(checkpoints_of(run)):
        if is_whole(path):
            return open_folder(path)
        place = _free(path.with_name(DAMAGED + path.name))
        kept = f"; it is kept as {place.name}" if set_aside else ""
        say(f"{path}: damaged, taking the one before it{kept}")
        if set_aside:
            path.rename(place)
    return None


def damaged_checkpoints(run: Path) -> list[Path]:
    """Return the folders of those that were set aside."""
    return [path for _, path in sorted(_numbered(run, DAMAGED))]


def drop_superseded(run: Path, newest: int, *, last: int, best: float | None = None) -> None:
    """Remove what the newest whole checkpoint replaces: the damaged ones, and those before.

    Args:
        run: its folder.
        newest: step of that checkpoint.
        last: how many are kept, the newest included.
        best: step of one more that is kept.
    """
    until = {step: path for step, path in _numbered(run) if step <= newest}
    damaged = [path for step, path in _numbered(run, DAMAGED) if step <= newest]
    for path in [*(until[step] for step in superseded(until, last, best)), *damaged]:
        try:
            remove_folder(path)
        except OSError as error:
            say(f"{path}: cannot be removed: {error.strerror}")


def superseded(steps: Iterable[int], last: int, best: float | None) -> list[int]:
    """Return the steps whose checkpoints go, of those until the newest one that is whole."""
    return [step for step in sorted(steps)[:-last] if step != best]


def recover_run(run: Path) -> None:
    """Finish what a process that was killed began in the folder of a run."""
    recover(run / "model")
    for _, place in leftovers(run / "checkpoints"):
        if step_in(place.name) is not None:
            recover(place)


def _numbered(run: Path, prefix: str = "") -> Iterator[tuple[int, Path]]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in (run / "checkpoints").iterdir():
            step = step_in(path.name, prefix)
            if step is not None and path.is_dir():
                yield step, path


def step_in(name: str, prefix: str = "") -> int | None:
    """Return the number in a name that this module gives; None for any other."""
    number = name.removeprefix(f"{prefix}step-")
    exact = number.isascii() and number.isdigit() and name == f"{prefix}step-{number:0>8}"
    return int(number) if exact and (len(number) == 8 or number[0] != "0") else None


def _free(path: Path) -> Path:
    """Return a name that nothing has yet: this one, or with a number after it."""
    names = (path.with_name(f"{path.name}-{i}") if i else path for i in range(1000))
    return next(name for name in names if not name.exists())
