"""Another Python process, which gets objects by pickle as a worker of a data loader does.

It starts once, with another seed of ``hash``, and serves all checks: importing torch takes longer
than most of them.
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
        ok, result = False, f"the process ended with code {process.returncode}"
    if not ok:
        remedy = "let it hold all that it needs, and define it in a module"
        raise Fault(f"it fails in another process: {result}", remedy)
    return result


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
