"""The worker processes of a DataLoader: one that is killed is told in one line, and not in between.

torch raises in a signal handler, in the midst of whatever the main thread does, such as an
optimizer's step. Here the main thread hears of it when it asks for the next batch, so that whatever
it has made until then is whole.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import threading
from contextlib import contextmanager
from multiprocessing import active_children, connection, current_process, parent_process
from multiprocessing.queues import Queue
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from contrastive.errors import ContrastiveError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from multiprocessing.process import BaseProcess
    from types import FrameType, TracebackType

FEWER = "use fewer workers (training.workers), or smaller samples"
TOO_MANY_FILES = f"too many open files; raise their limit (ulimit -n), or {FEWER}"
NONE = "set training.workers=0"
MOST = 16  # workers, unless more are asked for
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container
FILES = 8  # of a worker, in each process: its queues, and tensors on their way
PATIENCE = 1.0  # seconds until a process whose pipe broke is known to have ended
BEFORE_SEMAPHORES = 10  # multiprocessing removes them at an exit with the priority 0
TORCH = "torch.utils.data._utils.signal_handling"


def worker_count(workers: int | Literal["auto"]) -> int:
    """Return how many workers a rank has: by auto, one for each core that it may use.

    The ranks of a machine share its cores, and so do the processes of a container its quota.
    """
    if workers != "auto":
        return workers
    if current_process().daemon:  # as those of a Pool are, which may start none
        return 0
    try:
        ranks = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    except ValueError:  # whoever starts ranks says so
        ranks = 1
    return max(1, min(MOST, int(usable_cores() / ranks)))


def usable_cores() -> float:
    """Return how many cores this process may use; a container's quota may be a fraction of one."""
    if sys.platform == "linux":
        return min(len(os.sched_getaffinity(0)), _quota())
    return os.cpu_count() or 1


def _quota() -> float:
    """Return how many cores a control group lets its processes use; infinite where none does."""
    try:
        quota, period = QUOTA.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # there is no group, or its quota is "max"
        return math.inf


class LostWorker(ContrastiveError):  # noqa: N818
    """A worker process was killed, ended itself, or cannot be reached."""


class Workers:
    """The processes that a loader has started."""

    def __init__(self, start: Callable[[], Iterator[Any]], workers: int) -> None:
        """Start so many by a function that returns the loader's results.

        Raises:
            LostWorker: so many files cannot be open at a time; none is started.
        """
        _check_room(FILES * workers)
        before = set(active_children())
        try:
            with _interrupted_after():
                self._results = start()
        except BaseException:
            _kill([each for each in active_children() if each not in before])
            raise
        self._processes = [each for each in active_children() if each not in before]
        # before the semaphores go: a process that still starts would look for them, and tell
        self._at_exit = Finalize(None, _kill, (self._processes,), exitpriority=BEFORE_SEMAPHORES)
        if self._processes:
            _raise_only_while_waiting()

    def __iter__(self) -> Iterator[Any]:
        """Yield the results.

        Raises:
            LostWorker: a process has ended before its work, or too many files are open.
        """
        try:
            while True:
                self._check()
                try:
                    result = _next(self._results)
                except StopIteration:
                    return
                except (RuntimeError, OSError, EOFError) as error:  # it ended, or a pipe broke
                    _check_open_files(error)
                    self._wait_for_an_end()
                    self._check()
                    raise
                yield result
        except KeyboardInterrupt:
            _kill(self._processes)
            raise
        finally:
            self._at_exit.cancel()

    def _wait_for_an_end(self) -> None:
        ended = connection.wait([each.sentinel for each in self._processes], PATIENCE)
        for process in self._processes:
            if process.sentinel in ended:  # it is closed a little before there is an exit code
                process.join()

    def _check(self) -> None:
        for process in self._processes:
            if code := process.exitcode:
                raise LostWorker(how_it_ended(process, code))


def _kill(processes: Iterable[BaseProcess]) -> None:
    for process in processes:
        process.kill()


@contextmanager
def _interrupted_after() -> Generator[None]:
    """Let Ctrl-C wait for the end of the block: who starts a process then knows of it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for how in came:
            if callable(now := signal.getsignal(signal.SIGINT)):  # the first may change it
                now(*how)


def end_with_parent() -> None:
    """Let this worker end when the process that uses it does, be it by SIGKILL.

    torch watches the process that forked it: by the start method forkserver, Python 3.14's default
    on Linux, that is another one, which lives as long as its workers.
    """
    parent = parent_process()
    if parent is not None and parent.pid != os.getppid():
        exit_with_parent()


def exit_with_parent() -> None:
    """Let this process, which multiprocessing started, end when the one that uses it does."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check_room(files: int) -> None:
    """Open so many files, and close them: a loader that lacks them half way cannot be ended."""
    held: list[int] = []
    try:
        for _ in range(files):
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        _check_open_files(error)
        raise
    finally:
        for each in held:
            os.close(each)


def _check_open_files(error: Exception) -> None:
    if _lacks_files(error):
        raise LostWorker(TOO_MANY_FILES) from error


def _lacks_files(error: BaseException) -> bool:
    return "Too many open files" in str(error)  # torch's own is a plain RuntimeError


def end_without_files() -> None:
    """Let this worker end in silence when its tensors cannot reach the parent.

    Two threads bring them there: one sends them, one hands out their files. They would print what
    they meet, and the parent would wait.
    """
    queue: Any = Queue
    told = queue._on_queue_feeder_error

    def not_sent(error: Exception, sent: object) -> None:
        if _lacks_files(error):
            os._exit(errno.EMFILE)
        told(error, sent)

    queue._on_queue_feeder_error = staticmethod(not_sent)
    sys.excepthook = _not_handed_out


def _not_handed_out(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if _lacks_files(error):
        os._exit(errno.EMFILE)
    if not isinstance(error, (ConnectionError, EOFError)):  # asked by a parent that has been ended
        sys.__excepthook__(kind, error, trace)


def how_it_ended(process: BaseProcess, code: int, fewer: str = FEWER, none: str = NONE) -> str:
    """Return a line about a process that has ended before its work.

    Args:
        process: which.
        code: its exit code; below zero, the signal that killed it.
        fewer: the remedy if there was too little of something for so many.
        none: the remedy if none can work.
    """
    if code == errno.EMFILE:
        return TOO_MANY_FILES
    if code >= 0:
        return f"worker process {process.pid} ended with exit code {code}; {fewer}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # real-time signals have no names
        name = f"signal {-code}"
    cause, remedy = {
        "SIGKILL": ("out of memory?", fewer),
        "SIGBUS": ("is /dev/shm full?", f"give it more room, or {fewer}"),
    }.get(name, ("a crash of a library that reads samples?", f"update it, or {none}"))
    return f"worker process {process.pid} was killed by {name} ({cause}); {remedy}"


_waiting = threading.local()


def _next(results: Iterator[Any]) -> Any:
    _waiting.here = True
    try:
        return next(results)
    finally:
        _waiting.here = False


def _raise_only_while_waiting() -> None:
    """Let torch's handler raise only while this thread waits for a batch."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return  # where torch has none
    handler: Any = signal.getsignal(signal.SIGCHLD)
    if getattr(handler, "__module__", "") != TORCH:
        return

    def handle(*args: Any) -> None:
        try:
            handler(*args)
        except RuntimeError:
            if getattr(_waiting, "here", False):
                raise

    signal.signal(signal.SIGCHLD, handle)
