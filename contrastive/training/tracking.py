"""Trackers and callbacks of a run, on its main rank.

``log.jsonl`` is the truth: a line of it is written first, then given to them. A tracker has a
thread of its own, so that a network that is slow or gone stops no step; what it cannot do is told
once. A callback is the user's own code: it is called between the steps, and its mistake ends the
run, whose finished steps are saved.
"""

from __future__ import annotations

import json
import traceback
from collections import Counter
from contextlib import redirect_stdout, suppress
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from queue import Empty, Full, Queue
from sys import stderr
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, cast

from contrastive.config.local_files import read_bounded
from contrastive.config.registry import reason
from contrastive.console import say
from contrastive.data.storage.atomic_files import replace_file
from contrastive.errors import ContrastiveError, MissingExtra, SpecError, TrainingError, a_type
from contrastive.nn.modes import kept_modes
from contrastive.nn.rng import RngState
from contrastive.recipe.callback import Callback, RunInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.model.model import ContrastiveModel
    from contrastive.recipe.callback import Metrics
    from contrastive.recipe.trackers import Tracker
    from contrastive.spec import RunSpec

KEPT = "trackers.json"
"""In the folder of a run, what trackers keep, such as the ids of their runs."""
MAX_BYTES = 1 << 20  # of that file
WAITING = 10_000  # calls that a tracker may be behind; each is about 500 bytes
SECONDS_LEFT = 60.0  # seconds for what is left at the end


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Insist on callbacks.

    Raises:
        SpecError: there is something else.
    """
    if not isinstance(cast("Any", callbacks), (list, tuple)):
        msg = f"callbacks: takes a list of them, [callback], not {a_type(callbacks)}"
        raise SpecError(msg)
    for given in cast("list[object]", callbacks):
        if not isinstance(given, Callback):
            is_class = isinstance(given, type)
            remedy = "; add (): the class is no object" if is_class else ""
            what = f"takes objects of a class of Callback, not {a_type(given)}{remedy}"
            raise SpecError(f"callbacks: {what}")


def usable_trackers(spec: RunSpec) -> list[tuple[str, Tracker]]:
    """Return the trackers of a spec, each with its name; what is not installed is told."""
    found: list[tuple[str, Tracker]] = []
    for name, tracker in named_trackers(spec):
        try:
            tracker.check()
        except MissingExtra as error:
            say(f"training.trackers: {name} is left out: {error}")
        else:
            found.append((name, tracker))
    return found


def named_trackers(spec: RunSpec) -> list[tuple[str, Tracker]]:
    """Return the trackers of a spec by names that differ: ``wandb``, ``wandb-2``."""
    counted: Counter[str] = Counter()
    found: list[tuple[str, Tracker]] = []
    for tracker in spec.training.trackers:
        name = tracker.registry.name_of(type(tracker))
        counted[name] += 1
        found.append((f"{name}-{counted[name]}" if counted[name] > 1 else name, tracker))
    return found


class Tracking:
    """Gives what is logged in its block to trackers and callbacks."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        model: ContrastiveModel,
        trackers: Sequence[tuple[str, Tracker]],
        callbacks: Sequence[Callback],
        *,
        step: int,
    ) -> None:
        """Begin at a step, with trackers by name; other ranks than the main one give none."""
        plain = spec.model_dump(mode="json")
        self._about = RunInfo(folder.resolve().name, folder, plain, step, model, tell=say)
        self._callbacks = list(callbacks)
        self._kept = _read(folder / KEPT) if trackers else {}
        self._threads = [_TrackerThread(name, tracker, self) for name, tracker in trackers]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start(
                replace(self._about, model=None, state=dict(self._kept.get(thread.name, {})))
            )
        self._call("on_start", self._about)
        return self

    def given(self, hook: str, step: int, metrics: Metrics) -> None:
        """Take a line of the log: ``hook`` is the method that gets it.

        Raises:
            TrainingError: a callback has a mistake.
        """
        if not (self._threads or self._callbacks):
            return
        numbers = {name: float(x) for name, x in metrics.items()}
        for thread in self._threads:
            thread.put(hook, step, dict(numbers))  # each its own, which it may change
        self._call(hook, step, numbers)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._call("on_end")
        finally:
            for thread in self._threads:
                thread.put("on_end")
            if kind is not KeyboardInterrupt:  # whoever asks twice is not kept waiting
                for thread in self._threads:
                    thread.end()

    def keep(self, name: str, state: dict[str, str]) -> None:
        """Keep what a tracker wants to know when the run is resumed."""
        if state != self._kept.get(name):
            self._kept = self._kept | {name: dict(state)}
            text = json.dumps(self._kept, indent=1) + "\n"
            replace_file(self._about.folder / KEPT, text.encode())

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            given = [dict(cast("Metrics", x)) if isinstance(x, dict) else x for x in arguments]
            try:
                # what a callback draws is not what the run would have drawn; and a model that it
                # has put in eval mode trains on as before
                with RngState(), kept_modes(self._about.model):
                    getattr(callback, hook)(*given)
            except ContrastiveError:
                self._callbacks = []
                raise
            except Exception as error:
                self._callbacks = []  # what is saved now is logged, too
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(last.filename).name}:{last.lineno}"
                who = f"{type(callback).__qualname__}.{hook}"
                msg = f"callbacks: {who} raised at {place}: {reason(error)}"
                raise TrainingError(msg) from error


class _TrackerThread:
    """A tracker, which is called in a thread until it fails."""

    def __init__(self, name: str, tracker: Tracker, tracking: Tracking) -> None:
        """Begin with nothing to do."""
        self.name = name
        self._tracker, self._tracking = tracker, tracking
        self._calls: Queue[tuple[str, tuple[Any, ...]]] = Queue(WAITING)
        self._thread = Thread(target=copy_context().run, args=(self._work,), daemon=True)
        self._told = self._failed = False

    def start(self, run: RunInfo) -> None:
        """Begin."""
        run = replace(run, tell=self._say)
        self._calls.put(("on_start", (run,)))
        self._thread.start()

    def put(self, hook: str, *arguments: Any) -> None:
        """Have the tracker called, unless it is too far behind."""
        try:
            if not self._failed:
                self._calls.put_nowait((hook, arguments))
        except Full:
            self._tell(f"is {WAITING:,} calls behind; what it lacks is in log.jsonl")
            if hook == "on_end":  # in the place of another, or the tracker would wait for more
                with suppress(Empty):
                    self._calls.get_nowait()
                self._calls.put_nowait((hook, arguments))

    def end(self) -> None:
        """Wait for what is left to be done, for a while."""
        self._thread.join(SECONDS_LEFT)
        if self._thread.is_alive():
            self._failed = True
            self._tell(f"has not ended after {SECONDS_LEFT:.0f} s; what it lacks is in log.jsonl")

    def _work(self) -> None:
        callback = Callback()
        hook = ""
        while hook != "on_end":
            hook, arguments = self._calls.get()
            try:
                if hook == "on_start":
                    with redirect_stdout(stderr):  # stdout carries our results
                        callback = self._tracker.build()
                        callback.on_start(*arguments)
                    self._tracking.keep(self.name, arguments[0].state)
                else:
                    getattr(callback, hook)(*arguments)
            except BaseException as error:  # hours of training are worth more; sys.exit, too
                self._failed = True
                said = error if isinstance(error, ContrastiveError) else reason(error)
                self._tell(f"is left out from here on: {said}; log.jsonl has everything")
                self._drop()
                return

    def _drop(self) -> None:
        try:
            while True:
                self._calls.get_nowait()
        except Empty:
            return

    def _tell(self, problem: str) -> None:
        if not self._told:
            self._told = True
            self._say(problem)

    def _say(self, line: str) -> None:
        say(f"training.trackers: {self.name} {' '.join(line.split())}")


def _read(path: Path) -> dict[str, dict[str, str]]:
    try:
        found: Any = json.loads(read_bounded(path, MAX_BYTES))
        return {str(k): {str(a): str(b) for a, b in v.items()} for k, v in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
