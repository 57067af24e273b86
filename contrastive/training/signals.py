"""Signals that end a run: they are noted, so that the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Generator

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal is closed; Windows has none
USER = getattr(signal, "SIGUSR1", None)  # what batch systems can be told to send before the end
ENDING = [n for n in (signal.SIGINT, signal.SIGTERM, HANGUP, USER) if n is not None]


@contextmanager
def noted_signals() -> Generator[list[int]]:
    """Within the block, note the signals that end a run; a second one acts at once."""
    pending_signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield pending_signals
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    if before.get(HANGUP) == signal.SIG_IGN:  # as nohup starts it
        del before[HANGUP]

    def note(number: int, _: object) -> None:
        pending_signals.append(number)
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        say("stopping after this step; once more to stop at once")

    for number in before:
        signal.signal(number, note)
    try:
        yield pending_signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
