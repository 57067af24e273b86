"""Another Python process, to which things are sent as to a worker that reads data.

It is started once, with another seed of ``hash``, and kept for the next check: importing torch
takes longer than most checks.
"""

from __future__ import annotations

import atexit
import os
import pickle  # noqa: TID251  (as workers do: over a pipe, to a process of our own)
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import invalidate_caches
from typing import IO, TYPE_CHECKING, Any, cast

from contrastive.config.registry import reason
from contrastive.testing.checks import Fault

if TYPE_CHECKING:
    from collections.abc import Callable


OTHER_HASH = "20210226"  # a seed that nobody else is likely to have set


def pickled(thing: object, what: str) -> bytes:
    """Return a thing as it is sent to workers.

    Raises:
        Fault: it cannot be sent.
    """
    try:
        return pickle.dumps(thing)
    except Exception as error:  # whatever a class raises
        problem = f"{what} cannot be pickled ({reason(error)}), so no worker process can have it"
        remedy = "make it of functions and classes at the top of a module, without lambdas"
        raise Fault(problem, remedy) from None


def unpickled(data: bytes) -> Any:
    """Return what was sent."""
    return pickle.loads(data)  # noqa: S301  (from the process that started this one)


def in_subprocess(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what a function of a module gives in the other process.

    Raises:
        SubprocessError: it raised there; the text says what.
    """
    process = _process()
    pipe_in, pipe_out = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    request = pickle.dumps((function, arguments))
    try:
        pickle.dump((sys.path, request), pipe_in)
        pipe_in.flush()
        ok, result = pickle.load(pipe_out)  # noqa: S301
    except (OSError, EOFError):
        _process.cache_clear()
        _end(process)
        msg = f"the process ended with code {process.returncode}"
        raise SubprocessError(msg) from None
    if not ok:
        raise SubprocessError(result)
    return result


class SubprocessError(Exception):
    """What went wrong in the other process, as one line."""


@cache
def _process() -> subprocess.Popen[bytes]:
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
    """Return the environment of a process that finds this one's modules, and hashes otherwise."""
    path = os.pathsep.join(folder or str(os.curdir) for folder in sys.path)
    return os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": OTHER_HASH}


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe:
            with suppress(OSError):  # what a process that died has not read
                pipe.close()
    process.wait()


def _serve() -> None:
    """Answer requests until the pipe is closed; whatever prints goes to stderr."""
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
