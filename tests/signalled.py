"""Train by the command line, and get a signal right after a step.

Run as ``python -m tests.signalled SIGNAL STEP TO train SPEC ...``. TO is who gets the signal: this
process itself (``self``), its group, as from a terminal (``group``), or its parent, such as
torchrun, which passes it on (``parent``). The step after waits for the signal, so that no test has
to be faster than a run.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from contrastive import cli
from contrastive.reporting.run_log import Log

SEND = {
    "self": lambda number: os.kill(os.getpid(), number),
    "group": lambda number: os.killpg(os.getpgrp(), number),
    "parent": lambda number: os.kill(os.getppid(), number),
}


def main(name: str, last: str, to: str) -> None:
    log_step = Log.step

    def step(self: Log, done: int, *args: float, **metrics: float) -> None:
        log_step(self, done, *args, **metrics)
        if done == int(last) and self.path != Path(os.devnull):  # the main rank alone has a log
            arrived, written = os.pipe()
            os.set_blocking(written, False)
            signal.set_wakeup_fd(written)
            SEND[to](signal.Signals[name])
            os.read(arrived, 1)

    Log.step = step
    cli.main()


if __name__ == "__main__":
    own, sys.argv[1:] = sys.argv[1:4], sys.argv[4:]
    main(*own)
