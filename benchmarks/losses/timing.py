"""Times of implementations that take turns, so that what disturbs one disturbs all.

A machine gets hot, and others use it too. Each round visits every implementation once, in an order
that moves on by one; only times of one round are compared.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

ROUNDS = 15
WARMUPS = 5
SLOW = 100.0  # ms; beyond, these numbers of rounds and warm-ups
SLOW_ROUNDS = 5
SLOW_WARMUPS = 2
FLUSH_BYTES = 256 * 2**20  # more than any GPU's L2 cache

DEVICE_LOST = 70  # exit status

Run = Callable[[], object]


class Clock:
    """Times one call on a device: CUDA events on a GPU with a cold L2, else ``perf_counter``."""

    processor_ms: float
    """On a CPU, what all threads of the last call took of it: others' work is not in it."""

    def __init__(self, device: str) -> None:
        """Allocate what flushes the cache, once."""
        self.cuda = device == "cuda"
        self.buffer = (
            torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device) if self.cuda else None
        )

    def ms(self, run: Run) -> float:
        """Return the milliseconds of a call; what it returns is freed after it was timed."""
        if not self.cuda:
            start, used = time.perf_counter(), time.process_time()
            result = run()
            elapsed = (time.perf_counter() - start) * 1e3
            self.processor_ms = (time.process_time() - used) * 1e3
        else:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.buffer.zero_()
            start.record()
            result = run()
            end.record()
            end.synchronize()
            elapsed = start.elapsed_time(end)
        del result
        return elapsed


@dataclass
class Timed:
    """What rounds gave. A slow implementation is in the first rounds only."""

    first: dict[str, float] = field(default_factory=dict)
    """ms of the first call of this process at this shape: compilation is in it."""
    rounds: list[dict[str, float]] = field(default_factory=list)
    processor_rounds: list[dict[str, float]] = field(default_factory=list)
    """Processor time in the same rounds; empty on a GPU."""
    failed: dict[str, str] = field(default_factory=dict)
    complete: bool = True
    """Whether there was time for all rounds."""


def take_turns(
    runs: dict[str, Run],
    clock: Clock,
    *,
    deadline: float,
    least_rounds: int = 0,
    about_to: Callable[[str], None] = lambda _: None,
) -> Timed:
    """Warm every implementation up, then time them in rounds.

    Args:
        runs: what to call, by name.
        clock: times it.
        deadline: ``time.monotonic()`` at which to stop.
        least_rounds: for slow ones too.
        about_to: told the name before each of its calls, for those that hang.
    """
    timed, rounds = Timed(), {}
    for name, run in runs.items():
        about_to(name)
        try:
            timed.first[name] = clock.ms(run)
            ms, count = clock.ms(run), 1
            while count < (SLOW_WARMUPS if ms > SLOW else WARMUPS):
                ms, count = clock.ms(run), count + 1
        except Exception as error:  # one implementation's failure is a result
            timed.failed[name] = reason(error)
            continue
        rounds[name] = max(SLOW_ROUNDS if ms > SLOW else ROUNDS, least_rounds)
    for number in range(max(rounds.values(), default=0)):
        names = [name for name, most in rounds.items() if number < most]
        if not names:
            break
        if time.monotonic() > deadline:
            timed.complete = False
            break
        turn, found, used = number % len(names), {}, {}
        for name in names[turn:] + names[:turn]:
            about_to(name)
            try:
                found[name] = clock.ms(runs[name])
                used |= {} if clock.cuda else {name: clock.processor_ms}
            except Exception as error:
                timed.failed[name] = reason(error)
                rounds[name] = 0
        timed.rounds.append(found)
        timed.processor_rounds += [used] if used else []
    return timed


def reason(error: BaseException) -> str:
    """Return an error as one line, and free what it kept in memory.

    Ends the process if the error has taken the GPU from it: all that follows would fail. Who
    started it knows what was going on, and starts another.
    """
    error.__traceback__ = None
    gc.collect()
    if torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            os._exit(DEVICE_LOST)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def spread(rounds: list[dict[str, float]], name: str) -> tuple[float, float, float]:
    """Return the median, 20th and 80th percentile of a name's times."""
    times = sorted(x[name] for x in rounds if name in x)
    fifths = statistics.quantiles(times, n=5, method="inclusive") if len(times) > 1 else times * 4
    return statistics.median(times), fifths[0], fifths[3]


def paired_ratios(
    rounds: list[dict[str, float]], name: str, base: str
) -> tuple[float, float, float] | None:
    """Return median, 20th and 80th percentile over rounds of time / time of ``base`` in a round."""
    ratios = [{name: x[name] / x[base]} for x in rounds if name in x and base in x]
    return spread(ratios, name) if ratios else None
