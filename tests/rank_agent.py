"""What stands in for torchrun where runs are killed: it starts ranks as forks of itself.

As torchrun does, it keeps their store, passes on SIGTERM and SIGINT, and ends all if one fails.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from torch import distributed as dist

from contrastive.__main__ import main as contrastive_command

if TYPE_CHECKING:
    from collections.abc import Callable

PIDS = "ranks.txt"


def start_ranks(size: int, folder: Path, be_rank: Callable[[int], int]) -> int:
    """Start ranks, whose processes are listed in ``folder / PIDS``; return how the first ended.

    ``be_rank`` is given the rank and returns its exit code; SIGTERM and SIGINT are blocked.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RUN_ID": "kills"}
    running: dict[int, int] = {}

    def pass_on(number: int, _: object) -> None:
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    signals = signal.SIGTERM, signal.SIGINT
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    before = [signal.signal(number, pass_on) for number in signals]
    for rank in range(size):
        if pid := os.fork():
            running[pid] = rank
            continue
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
        _close_listening()
        os._exit(be_rank(rank))
    (folder / PIDS).write_text(" ".join(map(str, running)))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    first = 0
    while running:
        pid, status = os.wait()
        del running[pid]
        if status and not first:
            first = os.waitstatus_to_exitcode(status)
            pass_on(signal.SIGTERM, None)
    return first if first >= 0 else 128 - first


def call_command() -> int:
    """Call the command line, with signals that may be blocked until then; return its exit code."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    except KeyboardInterrupt:  # of which the command knows nothing yet
        return 130
    try:
        contrastive_command()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _close_listening() -> None:
    """Leave the store to the agent, as a process that is no fork does: it ends with it."""
    for path in [*Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # no socket
            found = socket.socket(fileno=os.dup(int(path.name)))
            if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                os.close(int(path.name))
            found.close()
