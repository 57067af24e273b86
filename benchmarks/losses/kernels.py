"""How long each kernel of a call takes, by torch's profiler, and the whole by a clock."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.losses.implementations import Implementation, gradients
from benchmarks.losses.timing import reason

if TYPE_CHECKING:
    from benchmarks.losses.problems import Problem
    from benchmarks.losses.timing import Clock

CALLS = 5
MOST = 12  # kernels that are listed

# tiles of the fused kernels, as (rows, columns, depth, warps, stages)
TILES = [
    (128, 128, 64, 4, 3),
    (128, 128, 64, 8, 3),
    (128, 64, 64, 4, 3),
    (128, 64, 64, 8, 3),
    (128, 128, 64, 4, 4),
    (128, 256, 64, 8, 3),
    (256, 128, 64, 8, 3),
]


def kernels(implementation: Implementation, problem: Problem, clock: Clock) -> dict[str, Any]:
    """Return the time of a forward and backward, and of what it launches; of a CPU, operators."""
    call = implementation.call(problem)

    def run() -> list[torch.Tensor | None]:
        return gradients(problem, call)

    for _ in range(2):
        run()
    found: dict[str, Any] = {"ms": statistics.median(clock.ms(run) for _ in range(CALLS))}
    try:
        found["kernels"] = _profiled(run, clock)
    except Exception as error:  # the profiler may be forbidden on the machine
        found["kernels_reason"] = reason(error)
    return found


def _profiled(run: Any, clock: Clock) -> list[dict[str, Any]]:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] * clock.cuda)]
    with profile(activities=activities, acc_events=True) as profiled:
        for _ in range(CALLS):
            run()
        if clock.cuda:
            torch.cuda.synchronize()
    kind = torch.autograd.DeviceType.CUDA if clock.cuda else torch.autograd.DeviceType.CPU
    times = [
        {
            "name": x.key[:80],
            "ms": round(1e-3 * _microseconds(x, clock) / CALLS, 4),
            "calls": x.count / CALLS,
        }
        for x in profiled.key_averages()
        if x.device_type == kind
    ]
    if not times:
        msg = "the profiler saw no kernel"
        raise RuntimeError(msg)
    return sorted(times, key=lambda x: -x["ms"])[:MOST]


def _microseconds(event: Any, clock: Clock) -> float:
    return event.self_device_time_total if clock.cuda else event.self_cpu_time_total
