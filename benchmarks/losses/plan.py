"""What a run does, in order: ceilings, correctness, then speed and memory, smallest sizes first."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.losses import memory
from benchmarks.losses.ceilings import ceilings
from benchmarks.losses.correctness import judge
from benchmarks.losses.host import host
from benchmarks.losses.implementations import Implementation, Mode, gradients
from benchmarks.losses.problems import (
    REGIMES,
    SPEED_SCALE,
    Loss,
    Problem,
    Regime,
    Shape,
    answer,
    independent,
)
from benchmarks.losses.timing import (
    ROUNDS,
    SLOW,
    SLOW_ROUNDS,
    SLOW_WARMUPS,
    WARMUPS,
    Clock,
    reason,
    spread,
    take_turns,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.losses.results import Results

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SIZES = {"cpu": [1024, 2048, 4096], "cuda": [4096, 8192, 16384, 32768, 65536, 131072]}
WIDTHS = {"cpu": [512], "cuda": [512, 768, 1024]}
CHECKED = {"cpu": [(512, 512), (500, 437)], "cuda": [(4096, 4096), (4000, 3500)]}
HUGE = 65536  # rows beyond which only what needs little memory is measured, and once
FOR_HUGE = {"memeff"}  # and ours
CHECKING_SHARE = 0.4  # of the time, at most
HOST_SIZE = 4096  # where launches cost as much as work


@dataclass(frozen=True)
class Step:
    """One thing to do; ``key`` tells it from others, in the results too."""

    key: str
    run: Callable[[], None]
    until: float
    """``time.monotonic()`` after which it does not begin."""


@dataclass(frozen=True)
class Case:
    """What is timed together."""

    loss: Loss
    n: int
    d: int
    mode: Mode
    raw: bool

    def __str__(self) -> str:
        kind = "raw" if self.raw else "unit"
        return f"{self.loss} {self.n} x {self.d} {self.mode} {kind}"

    @property
    def work(self) -> float:
        """Grows as the time of every implementation does."""
        return float(self.n) ** 2 * self.d


class Plan:
    """The steps of a run, which write to its results."""

    def __init__(self, results: Results, deadline: float, found: list[Implementation]) -> None:
        """Take what can run here, and the ``time.monotonic()`` at which to stop."""
        self.results = results
        self.options = results.options
        self.deadline = deadline
        self.found = found
        self.clock = Clock(self.options.device)
        self.dtype = DTYPES[self.options.dtype]

    def steps(self) -> Iterator[Step]:
        """Return what there is to do."""
        sections = self.options.sections
        if "ceilings" in sections:
            yield Step("ceilings", self._ceilings, self.deadline)
        if "correctness" in sections:
            left = self.deadline - time.monotonic()
            until = time.monotonic() + CHECKING_SHARE * left
            for loss, shape, dtype in self._checks():
                for name, regime in REGIMES.items():
                    key = f"correctness {loss} {shape} {dtype} {name}"
                    run = partial(self._check, key, loss, shape, dtype, name, regime)
                    yield Step(key, run, until)
        if "speed" in sections:
            for case in filter(self._wanted, self._cases()):
                yield Step(f"speed {case}", partial(self._speed, case), self.deadline)
                host_too = self.options.device == "cuda" and case.mode == "both" and not case.raw
                if host_too and case.n == HOST_SIZE:
                    yield Step(f"host {case}", partial(self._host, case), self.deadline)

    def _checks(self) -> Iterator[tuple[Loss, Shape, str]]:
        """Square before ragged, the type of the run before fp32."""
        options, most = self.options, max(self.options.sizes)
        shapes = [
            Shape(min(n, most), min(m, most * m // n), d)
            for n, m in CHECKED[options.device]
            for d in options.widths[:2]
        ]
        for dtype in dict.fromkeys([options.dtype, "fp32"]):
            for shape in shapes if dtype == options.dtype else shapes[:1]:
                for loss in options.losses:
                    if loss == "infonce" or shape.d == options.widths[:2][-1] or dtype == "fp32":
                        yield loss, shape, dtype  # pyright: ignore[reportReturnType]

    def _wanted(self, case: Case) -> bool:
        kind = "raw" if case.raw else "unit"
        return case.mode in self.options.modes and kind in self.options.features

    def _cases(self) -> Iterator[Case]:
        widths = self.options.widths
        middle = widths[len(widths) // 2]
        for n in sorted(self.options.sizes):
            if "infonce" in self.options.losses:
                for d in widths if n <= HUGE else widths[:1]:
                    yield Case("infonce", n, d, "both", raw=False)
                    if n <= HUGE:
                        yield Case("infonce", n, d, "forward", raw=False)
                    if d == middle and n <= HUGE:
                        yield Case("infonce", n, d, "both", raw=True)
            least = 16384 if self.options.device == "cuda" else 0
            if "sigmoid" in self.options.losses and least <= n <= HUGE:
                yield Case("sigmoid", n, middle, "both", raw=False)

    def _ceilings(self) -> None:
        rows = min(32768, max(self.options.sizes))
        found = ceilings(self.options.device, self.dtype, rows=rows, widths=self.options.widths)
        self.results.data["ceilings"] = found

    def _check(
        self, key: str, loss: Loss, shape: Shape, dtype: str, name: str, regime: Regime
    ) -> None:
        seed = self.options.seed + sum(map(ord, key))
        where = {"device": self.options.device, "dtype": DTYPES[dtype], "seed": seed}
        truth = answer(regime.problem(loss, shape, **where))
        for implementation in self.found:
            refusal = implementation.refuses(loss, shape.n, shape.m, shape.d, "")
            if refusal or implementation.compiles:
                continue
            self.results.note(key, implementation.name)
            try:
                verdict = judge(implementation, regime.problem(loss, shape, **where), truth)
            except Exception as error:  # its failure is a result
                verdict = {"status": "error", "reason": reason(error)}
            self.results.data["correctness"].append(
                {
                    "loss": loss,
                    "rows": [shape.n, shape.m],
                    "width": shape.d,
                    "dtype": dtype,
                    "regime": name,
                    "seed": seed,
                    "implementation": implementation.name,
                    **verdict,
                }
            )

    def _speed(self, case: Case) -> None:
        key, skipped = f"speed {case}", {}
        problem = self._problem(case)
        taking_part: dict[str, Implementation] = {}
        for implementation in self.found:
            refusal = self._refusal(implementation, case) or self._too_long(implementation, case)
            if refusal:
                skipped[implementation.name] = refusal
            else:
                taking_part[implementation.name] = implementation
        runs = {name: _run(x, problem, case.mode) for name, x in taking_part.items()}
        timed = take_turns(
            runs,
            self.clock,
            deadline=self.deadline,
            least_rounds=self.options.rounds,
            about_to=partial(self.results.note, key),
        )
        used = {}
        for name, implementation in taking_part.items():
            if name not in timed.failed:
                self.results.note(key, name)
                used[name] = self._memory(implementation, problem, case)
        self.results.data["speed"].append(
            asdict(case)
            | {
                "dtype": self.options.dtype,
                "first": _short(timed.first),
                "rounds": [_short(x) for x in timed.rounds],
                "processor_rounds": [_short(x) for x in timed.processor_rounds],
                "complete": timed.complete,
                "failed": timed.failed,
                "inputs": sum(x.nbytes for x in problem.inputs),
                "skipped": skipped,
                "memory": {name: x for name, x in used.items() if x},
            }
        )

    def _host(self, case: Case) -> None:
        for implementation in self.found:
            if implementation.ours and not self._refusal(implementation, case):
                self.results.note(f"host {case}", implementation.name)
                try:
                    found = host(implementation, self._problem(case))
                except Exception as error:
                    found = {"reason": reason(error)}
                self.results.data["host"].append(
                    {"n": case.n, "d": case.d, "implementation": implementation.name} | found
                )

    def _problem(self, case: Case) -> Problem:
        generator = torch.Generator(self.options.device).manual_seed(self.options.seed)
        a, b = independent(Shape(case.n, case.n, case.d), generator)
        stretch = 8.0 if case.raw else 1.0
        scale = SPEED_SCALE if case.loss == "infonce" else 10.0
        a, b = ((stretch * x).to(self.dtype) for x in (a, b))
        return Problem.of(case.loss, a, b, scale, raw=case.raw)

    def _refusal(self, implementation: Implementation, case: Case) -> str:
        if case.mode not in implementation.modes or (case.raw and not implementation.raw):
            return "is measured forward and backward on unit features only"
        if case.n > HUGE and not implementation.ours and implementation.name not in FOR_HUGE:
            return f"is not measured beyond {HUGE} rows"
        return implementation.refuses(case.loss, case.n, case.n, case.d, self.options.device)

    def _too_long(self, implementation: Implementation, case: Case) -> str:
        """Return a refusal if what a smaller case took says that time will not suffice."""
        for past in reversed(self.results.data["speed"]):
            alike = (past["loss"], past["mode"]) == (case.loss, case.mode)
            if not alike or not any(implementation.name in x for x in past["rounds"]):
                continue
            ms = spread(past["rounds"], implementation.name)[0]
            ms *= case.work / (past["n"] ** 2 * past["d"])
            calls = SLOW_ROUNDS + SLOW_WARMUPS if ms > SLOW else ROUNDS + WARMUPS
            seconds, left = 1e-3 * ms * (calls + 2), self.deadline - time.monotonic()
            return f"about {seconds:.0f} s, but {left:.0f} s were left" if seconds > left else ""
        return ""

    def _memory(
        self, implementation: Implementation, problem: Problem, case: Case
    ) -> dict[str, int] | None:
        try:
            if self.options.device == "cuda":
                run = partial(memory.once, implementation, problem, case.mode)
                return asdict(memory.on_gpu(run))
            if case.raw or implementation.compiles or time.monotonic() > self.deadline:
                return None
            job = memory.Job(
                implementation.name, case.loss, case.d, self.dtype, case.mode, case.raw
            )
            return asdict(memory.on_cpu(job, case.n))
        except Exception as error:
            reason(error)
            return None


def _run(implementation: Implementation, problem: Problem, mode: Mode) -> Callable[[], object]:
    """Return what is timed; what comes before it is done when it is first called."""
    ready: list[Callable[[], Any]] = []

    def run() -> object:
        if not ready:
            ready.append(implementation.prepare(problem))
        if mode == "both":
            return gradients(problem, ready[0])
        with torch.no_grad():
            return ready[0]()

    return run


def _short(times: dict[str, float]) -> dict[str, float]:
    return {name: round(ms, 4) for name, ms in times.items()}
