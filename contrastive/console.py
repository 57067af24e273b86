"""Progress of long work: bars on a terminal, plain lines everywhere else. Always on stderr."""

from __future__ import annotations

import io
import sys
import time
import traceback
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TextIO, cast

from contrastive.errors import ContrastiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rich.console import Console

EVERY = 10.0  # seconds between plain lines: enough to see life, few enough to read a log


class _Stderr(io.TextIOBase):
    """stderr as long as it can be written: no line is worth the work that it tells of.

    Its reader may be gone, its disk full, the terminal closed; and a signal may come in the middle
    of a line, which then cannot tell of the signal.
    """

    @property
    def _stream(self) -> TextIO:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding

    def isatty(self) -> bool:
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str, /) -> int:
        with suppress(OSError, ValueError, RuntimeError):  # closed; the same line
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, RuntimeError):
            self._stream.flush()


def console() -> Console:
    """Return a console on stderr, where results do not go; writing to it never fails."""
    from rich.console import Console  # here, since what prints no line should not wait for it

    return Console(file=cast("TextIO", _Stderr()), highlight=False, emoji=False, soft_wrap=True)


_quiet = ContextVar("quiet", default=False)


@contextmanager
def quiet(on: bool = True) -> Generator[None]:
    """Within a block, print no lines and show no progress, since the main rank does."""
    token = _quiet.set(on)
    try:
        yield
    finally:
        _quiet.reset(token)


_said: ContextVar[set[str] | None] = ContextVar("said", default=None)


@contextmanager
def said_once() -> Generator[None]:
    """Within a block, say each line once: of a folder that is read for several splits, say."""
    said = _said.get()
    token = _said.set(set() if said is None else said)
    try:
        yield
    finally:
        _said.reset(token)


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


@contextmanager
def told_to(listener: Callable[[str], None]) -> Generator[None]:
    """Within a block, give each line to ``listener``, which has another process print it.

    Progress is not shown.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def say(line: str) -> None:
    """Print one plain line; control characters and markup in it are shown, not obeyed."""
    if _quiet.get() or ((said := _said.get()) is not None and line in said):
        return
    if said is not None:
        said.add(line)
    (_listener.get() or _print)(line)


def tell(error: BaseException, line: str) -> None:
    """Print a line, below the traceback of an error that is not a user's mistake."""
    show_bug(error)
    say(line)


def show_bug(error: BaseException) -> None:
    """Print the traceback of an error, unless it is a user's mistake or the system's."""
    if not isinstance(error, (ContrastiveError, OSError)):
        with suppress(OSError):  # stderr may be gone
            traceback.print_exception(error)


def _print(line: str) -> None:
    console().print(printable(line), markup=False)


_omissions: ContextVar[list[str] | None] = ContextVar("omissions", default=None)


@contextmanager
def noted_omissions() -> Generator[list[str]]:
    """Within a block, collect what is left out or not measured; the command line's exit code."""
    noted: list[str] = []
    token = _omissions.set(noted)
    try:
        yield noted
    finally:
        _omissions.reset(token)


def note_omission(line: str) -> None:
    """Note what is left out or not measured; whoever notes it has it printed, too."""
    if (noted := _omissions.get()) is not None:
        noted.append(line)


def say_omission(line: str) -> None:
    """Print a line about what is left out or not measured, and note it; of several make one."""
    line = "; ".join(line.splitlines())
    say(line)
    note_omission(line)


@contextmanager
def bar(description: str, total: int, *, done: int = 0) -> Generator[Callable[[int, str], None]]:
    """Show progress within a block; call the yielded ``advance(n, note)`` after each piece."""
    screen = console()
    if _listener.get() or _quiet.get() or not screen.is_terminal or screen.is_dumb_terminal:
        yield _lines(description, total, done)
        return
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=screen, transient=True) as progress:
        task = progress.add_task(escape(description), total=total, completed=done, note="")

        def advance(count: int = 1, note: str = "") -> None:
            progress.update(task, advance=count, note=escape(note))

        yield advance


def _lines(description: str, total: int, done: int) -> Callable[[int, str], None]:
    started = said = time.monotonic()
    first = done

    def advance(count: int = 1, note: str = "") -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if done >= total or now - said >= EVERY:
            said = now
            left = (now - started) / max(done - first, 1) * (total - done)
            eta = f", about {left:.0f} s left" if done < total else f", {now - started:.1f} s"
            _progress(f"{description}: {done}/{total}{eta}{'  ' + note if note else ''}")

    return advance


def _progress(line: str) -> None:
    if not _quiet.get() and not _listener.get():
        _print(line)


JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # Persian and many emoji need them


def printable(text: str, *, lines: bool = False) -> str:
    """Replace what a terminal would obey (escape sequences in a stranger's caption) by a mark.

    So are line breaks, by which a file's name could forge a line, unless ``lines`` are meant.
    """
    harmless = JOINERS + ("\n\t" if lines else "")
    return "".join(
        c if c.isprintable() or c in harmless else "\N{REPLACEMENT CHARACTER}" for c in text
    )
