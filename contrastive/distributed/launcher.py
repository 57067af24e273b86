"""What a launcher such as ``torchrun`` says in the environment, and joining the ranks it started.

Such variables are easily left over, from a cluster's shell or an earlier job, so they are checked.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from contrastive.console import quiet, say
from contrastive.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Generator

# a step takes seconds; a rank that is missing for so long has hung, is gone, or never started
COLLECTIVE_TIMEOUT = timedelta(minutes=20)
GLANCE = 2.0  # seconds between two looks whether torchrun is still there
MOMENT = 3.0  # seconds in which ranks that were started together find each other
MOST_RANKS = 1_000_000
HIGHEST_PORT = 65_535
START = "start the ranks with: torchrun --nproc-per-node N -m contrastive train SPEC"


def is_main() -> bool:
    """Whether this process prints results: it is rank 0, or on its own."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def launched() -> tuple[int, int]:
    """Return this process's rank and the world size, by the environment: 0 and 1 if it is alone.

    Raises:
        TrainingError: a variable makes no sense, or one is missing; says how to unset them.
    """
    size = _whole("WORLD_SIZE", least=1, most=MOST_RANKS, default=1)
    rank = _whole("RANK", least=0, default=0)
    if size > 1:
        for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                msg = f"WORLD_SIZE={size} is set, {name} is not; {_remedy('WORLD_SIZE')}"
                raise TrainingError(msg)
        _whole("MASTER_PORT", least=1, most=HIGHEST_PORT)
        local_rank()
    if rank >= size:
        many = f"WORLD_SIZE={size}" if "WORLD_SIZE" in os.environ else "WORLD_SIZE is not set"
        msg = f"RANK={rank}, but {many}: ranks are 0 to WORLD_SIZE - 1; {_remedy('RANK')}"
        raise TrainingError(msg)
    return rank, size


def local_rank() -> int:
    """Return this rank's number on its machine, which is that of its GPU."""
    return _whole("LOCAL_RANK", least=0, default=0)


def _whole(name: str, *, least: int, most: int | None = None, default: int | None = None) -> int:
    """Return a variable that is a whole number."""
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"{least} or more" if most is None else f"from {least} to {most}"
        msg = f"{name}={text!r} in the environment is no whole number {allowed}; {_remedy(name)}"
        raise TrainingError(msg)
    return number


def _remedy(name: str) -> str:
    return f"if it is left over, run: unset {name}; else {START}"


@contextmanager
def told_waiting(rank: int, size: int) -> Generator[None]:
    """Say, if the block takes longer than a moment, that it waits for the other ranks.

    The block joins them, and torch does not act on Ctrl-C before it is over: here it does.
    """
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    others = "1 other rank" if size == 2 else f"{size - 1} other ranks"
    minutes = COLLECTIVE_TIMEOUT.total_seconds() / 60
    line = (
        f"rank {rank}: waiting for {others} at {address}, for {minutes:.0f} minutes at most; if "
        f"there are none, WORLD_SIZE={size} is left over: unset WORLD_SIZE"
    )
    timer = threading.Timer(MOMENT, say, [line])
    timer.daemon = True
    timer.start()
    main = threading.current_thread() is threading.main_thread()
    swap = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if swap:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    except RuntimeError as error:  # DistError, and what gloo raises
        cause = str(error).strip().partition("\n")[0]
        msg = f"rank {rank} did not find the {others} at {address} ({cause}); {START}"
        raise TrainingError(msg) from error
    finally:
        timer.cancel()
        if swap:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _check_answered(rank: int) -> None:
    """Insist that torchrun, which keeps the ranks' store, is there: torch would ask for long."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        socket.create_connection((host, port), timeout=GLANCE).close()
    except ConnectionRefusedError:
        msg = f"rank {rank}: the torchrun at {host}:{port} has ended; {START}"
        raise TrainingError(msg) from None
    except OSError:  # torch says what it finds
        return


@contextmanager
def stopped_without_torchrun(rank: int) -> Generator[None]:
    """Within the block, stop this rank as SIGTERM would if the torchrun that started it has ended.

    torchrun ends its ranks with itself unless it is killed; they would train on, unseen, or wait
    for ranks that nobody starts any more.

    Raises:
        TrainingError: it has ended already.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        _check_answered(rank)
    parent, over = os.getppid(), threading.Event()

    def watch() -> None:
        while not over.wait(GLANCE):
            if os.getppid() != parent:  # an orphan has another
                with quiet(on=False):
                    say(f"rank {rank}: torchrun, which started it, was killed; stopping")
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
