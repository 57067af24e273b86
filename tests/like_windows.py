"""Do what ``smoke.py`` does without what Windows lacks, as far as Linux can pretend.

Names of ``os`` and ``signal`` are gone, some modules cannot be imported, workers are spawned, and
what is open or mapped is neither removed nor renamed. A script, to be run in an empty folder.
"""

from __future__ import annotations

import asyncio  # noqa: F401  these need on Linux, and not on Windows, what goes
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from smoke import import_everything  # beside this file

if __name__ == "__main__":
    import timm  # noqa: F401  which workers do not need

OS = "fork forkpty getuid geteuid getgid getegid getpgid killpg setsid nice sched_getaffinity"
SIGNAL = "SIGHUP SIGALRM SIGUSR1 SIGUSR2 SIGQUIT SIGTSTP alarm setitimer pause sigwait"
MODULES = "fcntl resource pwd grp termios tty pty syslog triton"
REMOVALS = {"os.remove", "os.rename", "os.rmdir"}  # as sys.audit calls them
SMALL = ("training.epochs=1", "model.towers.image.encoder.width=4")
COMMANDS = (
    ("init", "image-folder", "--with-data"),
    ("train", "clip.yaml", *SMALL, "training.workers=1"),
    ("train", "clip.yaml", *SMALL, "training.workers=0", "--resume"),
    ("search", "a red circle"),
)


def pretend() -> None:
    """Take away what Windows lacks."""
    for module, names in ((os, OS), (signal, SIGNAL)):
        for name in names.split():
            vars(module).pop(name, None)
    for name in MODULES.split():
        sys.modules[name] = None  # type: ignore[assignment]
    multiprocessing.set_start_method("spawn", force=True)
    sys.addaudithook(keep_what_is_open)


def keep_what_is_open(event: str, args: tuple) -> None:
    """Raise as Windows does where a file in use, or a folder that holds one, would go."""
    if event not in REMOVALS:
        return
    within = args[-1]  # the descriptor of the folder that a path is relative to, or -1
    folder = Path() if within == -1 else Path(f"/proc/self/fd/{within}").readlink()
    going = (folder / args[0]).resolve()
    if any(file.is_relative_to(going) for file in in_use()):
        raise PermissionError(13, "is open in this process", str(going))


def in_use() -> set[Path]:
    """Return the files that this process has open or mapped."""
    opened = {Path(os.path.realpath(link)) for link in Path("/proc/self/fd").iterdir()}
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    mapped = {Path(line.split(maxsplit=5)[5]) for line in maps if "/" in line}
    return {path for path in opened | mapped if path.is_file()}


pretend()  # in the workers too
if __name__ == "__main__":
    import_everything()
    from contrastive.cli import main

    for command in COMMANDS:
        sys.argv = ["contrastive", *command]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
