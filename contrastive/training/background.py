"""Work beside the steps of a run, in a thread: one job after another."""

from __future__ import annotations

import threading
from contextvars import copy_context
from typing import TYPE_CHECKING, Self

from contrastive.console import tell

if TYPE_CHECKING:
    from collections.abc import Callable


class BackgroundJobs:
    """Does jobs in the order in which they come; all are done when its block ends.

    What a job raises is raised by the next call here, and no job comes after it. Ctrl-C waits for
    none and begins none, so that a job may end with the process, at any point.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._last: threading.Thread | None = None
        self._error: BaseException | None = None
        self._told = self._stopped = False
        self._one_at_a_time = threading.Lock()

    def submit(self, job: Callable[[], None]) -> None:
        """Do a job after those before it, while the caller, of any thread, goes on."""
        self.check()
        context = copy_context()  # with it, what is quiet stays so

        def run(before: threading.Thread | None) -> None:
            if before:
                before.join()
            if self._error is None and not self._stopped:
                try:
                    context.run(job)
                except BaseException as error:  # it is raised where somebody can tell it
                    self._error = error

        with self._one_at_a_time:  # two jobs that wait for the same one would run side by side
            thread = threading.Thread(
                target=run, args=(self._last,), name="contrastive-background", daemon=True
            )
            thread.start()  # which may fail, and a thread that is not started cannot be waited for
            self._last = thread

    def check(self) -> None:
        """Raise what a job has raised, once."""
        if self._error and not self._told:
            self._told = True
            raise self._error

    def wait(self) -> None:
        """Wait for all jobs; raise what one has raised."""
        self._join()
        self.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stopped = kind is KeyboardInterrupt  # whoever asks twice is not kept waiting
        if not self._stopped:
            self._join()
        if kind is None:
            self.check()
        elif self._error and not self._told:  # another error is on its way
            tell(self._error, str(self._error))

    def _join(self) -> None:
        if self._last:
            self._last.join()
