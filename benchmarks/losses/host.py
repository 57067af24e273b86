"""What a call costs beside the GPU: launches, waiting, and whether a CUDA graph can hold it."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.losses.correctness import same
from benchmarks.losses.implementations import Implementation, gradients
from benchmarks.losses.timing import ROUNDS, reason

if TYPE_CHECKING:
    from benchmarks.losses.problems import Problem


def host(implementation: Implementation, problem: Problem) -> dict[str, Any]:
    """Measure a forward and backward of a warm implementation on a GPU."""
    call = implementation.call(problem)

    def run() -> list[torch.Tensor | None]:
        return gradients(problem, call)

    for _ in range(3):
        run()
    waits = _waits(run)
    return {
        **_wall(run),
        "launches": _launches(run),
        "waits_for_gpu": waits,
        # a capture that a wait breaks leaves torch 2.11's allocator unusable
        "graph": "not tried, since it waits" if waits else _graph(run),
    }


def _wall(run: Any) -> dict[str, float]:
    until_return, until_done = [], []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        until_return.append(time.perf_counter() - start)
        torch.cuda.synchronize()
        until_done.append(time.perf_counter() - start)
    return {
        "return_ms": 1e3 * statistics.median(until_return),
        "wall_ms": 1e3 * statistics.median(until_done),
    }


def _launches(run: Any) -> int | str:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    try:
        with torch.profiler.profile(activities=activities, acc_events=True) as profile:
            run()
            torch.cuda.synchronize()
        return sum(x.count for x in profile.key_averages() if "LaunchKernel" in x.key)
    except Exception as error:  # the profiler may be forbidden on the machine
        return reason(error)


def _waits(run: Any) -> str:
    """Return what makes the host wait for the GPU, or nothing."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        return reason(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return ""


def _graph(run: Any) -> str:
    """Return ``same bits`` if a replayed graph gives what a call gives."""
    expected = [None if x is None else x.clone() for x in run()]
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
        for x in captured:
            if x is not None:
                x.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
    except Exception as error:  # that it cannot be captured is the result
        return reason(error)
    agree = all(same(x, y) for x, y in zip(captured, expected, strict=True))
    return "same bits" if agree else "other bits"
