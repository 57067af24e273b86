"""Other Python processes, which get objects by pickle as a worker of a data loader does.

They start once, with another seed of ``hash``, and serve all checks: importing torch takes longer
than most of them. Most need one; as ranks there are several.
"""

from __future__ import annotations

import atexit
import os
import pickle  # noqa: TID251  (as workers do: over a pipe, to a process of our own)
import select
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from functools import cache
from importlib import invalidate_caches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, cast

from contrastive.config.registry import reason
from contrastive.testing.checks import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATIENCE = timedelta(seconds=60)  # of a rank for the other
OTHER_HASH = "20210226"  # a seed that nobody else is likely to have set


def pickled(thing: object, what: str) -> bytes:
    """Pickle an object, or raise a Fault that calls it ``what``."""
    try:
        return pickle.dumps(thing)
    except Exception as error:  # whatever a class raises
        remedy = "make it of functions and classes at the top of a module, without lambdas"
        raise Fault(f"{what} cannot be pickled ({reason(error)})", remedy) from None


def in_subprocess(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of a module's function in the other process.

    Raises:
        Fault: the function raised there, or the process died.
    """
    return _in_processes([(function, arguments)])[0]


def in_ranks(size: int, function: Callable[..., Any], *arguments: object) -> list[Any]:
    """Return the results of ``function(ranks, *arguments)`` in so many ranks over gloo.

    Raises:
        Fault: the function raised in one, or the process died.
    """
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        calls = [(_as_rank, (rank, size, store, function, arguments)) for rank in range(size)]
        return _in_processes(calls)


def _as_rank(
    rank: int, size: int, store: Path, function: Callable[..., Any], arguments: tuple[object, ...]
) -> Any:
    import torch
    from torch import distributed as dist

    from contrastive.distributed.ranks import Ranks

    torch.set_num_threads(1)
    method = f"file://{store}"
    dist.init_process_group("gloo", method, timeout=PATIENCE, rank=rank, world_size=size)
    try:
        return function(Ranks(rank, size, cpu_group=dist.group.WORLD), *arguments)
    finally:
        dist.destroy_process_group()


def _in_processes(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]]) -> list[Any]:
    """Return the result of each call, each in a process of its own; all end when one has failed."""
    processes = [_process(number) for number in range(len(calls))]
    waiting = {cast("IO[bytes]", each.stdout): i for i, each in enumerate(processes)}
    results: list[Any] = [None] * len(calls)
    failed = ""
    try:
        for process, call in zip(processes, calls, strict=True):
            pickle.dump((sys.path, pickle.dumps(call)), cast("IO[bytes]", process.stdin))
            cast("IO[bytes]", process.stdin).flush()
        while waiting and not failed:
            for pipe in _ready([*waiting]):
                ok, results[number := waiting.pop(pipe)] = pickle.load(pipe)  # noqa: S301
                if not ok:
                    failed = failed or str(results[number])
    except (OSError, EOFError):
        failed = "the process ended"
    if failed:
        if waiting:  # for what the failed one would have sent
            _process.cache_clear()
            for process in processes:
                process.kill()
                _end(process)
        codes = [each.returncode for each in processes if each.returncode not in (None, -9)]
        ended = f" with code {codes[0]}" if codes and failed == "the process ended" else ""
        remedy = "let it hold all that it needs, and define it in a module"
        raise Fault(f"it fails in another process: {failed}{ended}", remedy)
    return results


def _ready(pipes: list[IO[bytes]]) -> list[IO[bytes]]:
    """Wait for an answer; return the pipes that have one."""
    if len(pipes) == 1:
        return pipes  # Windows cannot wait for pipes like these
    return select.select(pipes, [], [])[0]


@cache
def _process(number: int) -> subprocess.Popen[bytes]:
    del number
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    atexit.register(_end, process)
    return process


def environment() -> dict[str, str]:
    """Return an environment with this process's import path and another hash seed."""
    path = os.pathsep.join(folder or str(os.curdir) for folder in sys.path)
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": OTHER_HASH}


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError), process:  # closes the pipes and waits; one that died has not read all
        pass


def _serve() -> None:
    """Answer requests until the pipe is closed; redirect what they print to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            path, request = pickle.load(sys.stdin.buffer)  # noqa: S301
        except EOFError:
            return
        sys.path[:] = path
        invalidate_caches()
        try:
            function, arguments = pickle.loads(request)  # noqa: S301
            answer = True, function(*arguments)
        except Exception as error:  # of whatever kind, it is the answer
            answer = False, reason(error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
