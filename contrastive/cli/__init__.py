"""The ``contrastive`` command.

Results go to stdout (``--json`` for machines), everything else to stderr. torch is imported by the
verbs that compute, not by the others. Exit codes:

====== ===========================================================================================
0      done
1      our mistake, with a traceback; or findings of a verb that checks (doctor, plugins check,
       cache verify)
2      a mistake in what was asked: one line for each; or one of a plugin, which is named
       (``CONTRASTIVE_TRACEBACK=1`` shows its traceback)
3      done, but something was left out or not measured (train, whose spec allows bad rows, ends
       with 3 for an epoch that is not measured alone: torchrun takes it for a failure)
128+n  ended by signal n (130: Ctrl-C, 141: the reader of a pipe is gone)
====== ===========================================================================================
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import traceback
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from contrastive.cli.options import app
from contrastive.cli.parsing import LEFT_OUT, CtrlC
from contrastive.cli.verbs import add_verbs
from contrastive.console import noted_omissions, printable, said_once, say
from contrastive.distributed.launcher import is_main
from contrastive.errors import ContrastiveError, RenamedWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from io import TextIOWrapper
    from typing import TextIO

_show_any_warning = warnings.showwarning


def main() -> None:
    """Run the command line."""
    # threads that spin while they wait make a shared machine several times slower
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("COLUMNS") == "0":  # rich would show nothing in no columns
        del os.environ["COLUMNS"]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    # workers that are not forked would import a multiprocessing.py of the working folder
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    # a name or a caption may hold what the encoding of the terminal lacks
    cast("TextIOWrapper", sys.stdout).reconfigure(errors="backslashreplace")
    with (
        said_once(),
        noted_omissions() as omissions,
        warnings.catch_warnings(),
        _no_dropped_interrupt(),
    ):
        warnings.simplefilter("always", RenamedWarning)
        warnings.showwarning = _show_warning
        if os.environ.get("WORLD_SIZE", "1") != "1":  # torch warns, by rank, of what we ask for
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        try:
            run_guarded(_command_line)
        except SystemExit as done:
            if not done.code and omissions:
                sys.exit(LEFT_OUT)
            raise


def _command_line() -> None:
    add_verbs(sys.argv[1:])
    app()


def run_guarded(work: Callable[[], Any]) -> None:
    """Do ``work``; a user's mistake ends the process with its message and exit code 2."""
    try:
        _attributed(work)
    except ContrastiveError as error:
        from contrastive.config.foreign_errors import SHOW

        if SHOW in os.environ:
            traceback.print_exception(error)
        _end(str(error), getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        _end(str(CtrlC()), CtrlC.exit_code)
    except BrokenPipeError:
        _end_for_lack_of_a_reader()
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):
            _end_for_lack_of_a_reader()
        raise
    except OSError as error:  # the disk is full, or a folder may not be written
        if not error.strerror:
            raise
        _end(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, 2)
    except (MemoryError, RuntimeError) as error:
        from contrastive.nn.memory import out_of_memory

        if problem := out_of_memory(error):
            _end(f"{problem}; take smaller batches or fewer samples, or another device", 2)
        raise


def _attributed(work: Callable[[], Any]) -> None:
    """Do ``work``; what a component of somebody else's raises is told as its mistake.

    Raises:
        PluginError: names it.
    """
    try:
        work()
    except BaseException as error:  # a plugin may call sys.exit
        told = error.__context__ if isinstance(error, SystemExit) else None
        if isinstance(told, BrokenPipeError):  # which typer and rich turn into a 1
            error = told
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            raise
        if "torch" in sys.modules:
            from contrastive.nn.memory import out_of_memory

            if out_of_memory(error):
                raise
        if "contrastive.config.base" in sys.modules:  # else there is no component
            from contrastive.config.foreign_errors import foreign_error

            if found := foreign_error(error):
                raise found from error
        raise


def _reader_is_gone() -> bool:
    """Whether it is our own output that nobody reads, rather than a plugin's pipe."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return True
    return False


@contextmanager
def _no_dropped_interrupt() -> Generator[None]:
    """Repeat a Ctrl-C that comes where Python raises nothing: in a finalizer or around a fork."""
    before = sys.unraisablehook

    def interrupt() -> None:
        if sys.platform == "win32":
            _thread.interrupt_main()
        else:  # which ends what it waits for, too
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def repeat(dropped: sys.UnraisableHookArgs) -> None:
        if isinstance(dropped.exc_value, KeyboardInterrupt):
            repeated = threading.Timer(0.01, interrupt)
            repeated.daemon = True  # a process that ends does not wait to be interrupted
            repeated.start()
        else:
            before(dropped)

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, RenamedWarning):
        if is_main():  # the ranks that torchrun started read one spec
            say(f"{filename}:{lineno}: {message}" if lineno else f"{filename}: {message}")
    else:
        _show_any_warning(message, category, filename, lineno, file, line)


def _end(message: str, code: int) -> NoReturn:
    try:
        sys.stderr.write(printable(message, lines=True) + "\n")
    except OSError:  # where it goes is full or closed, and the code still tells
        _mute(sys.stderr)
    sys.exit(code)


def _end_for_lack_of_a_reader() -> NoReturn:
    """End since the reader of a pipe has seen enough."""
    _mute(sys.stdout)
    _mute(sys.stderr)
    sys.exit(141)


def _mute(stream: TextIO) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
