"""What the steps of a run do: each measures something and adds it to the results."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.losses import memory
from benchmarks.losses.ceilings import ceilings
from benchmarks.losses.compiling import compile_all
from benchmarks.losses.correctness import judge
from benchmarks.losses.host import host
from benchmarks.losses.implementations import Implementation, Mode, gradients, resolve
from benchmarks.losses.kernels import kernels
from benchmarks.losses.problems import (
    DTYPES,
    HUGE_PAIRS,
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
    from collections.abc import Callable, Iterable

    from benchmarks.losses.compiling import Compilation
    from benchmarks.losses.results import Results

HUGE = 65536  # rows beyond which only what needs little memory is measured, and once
FOR_HUGE = {"memeff"}  # and ours


@dataclass(frozen=True)
class Check:
    """What is judged together."""

    loss: Loss
    shape: Shape
    dtype: str
    ids: str
    name: str
    regime: Regime
    ours: bool = False
    """Of nobody else."""

    def __str__(self) -> str:
        about = f"{self.loss} {self.shape} {self.dtype} {self.name}"
        return f"correctness {about}{_with(self.ids)}"


@dataclass(frozen=True)
class Case:
    """What is timed together."""

    loss: Loss
    n: int
    d: int
    mode: Mode
    raw: bool
    dtype: str
    ids: str

    def __str__(self) -> str:
        kind = "raw" if self.raw else "unit"
        about = f"{self.loss} {self.n} x {self.d} {self.mode} {kind} {self.dtype}"
        return f"{about}{_with(self.ids)}"

    @property
    def work(self) -> float:
        """Grows as the time of every implementation does."""
        return float(self.n) ** 2 * self.d


class Measure:
    """Measures what can run here; an implementation that a step has lost takes no part in it."""

    def __init__(self, results: Results, found: list[Implementation]) -> None:
        """Measure nothing yet."""
        self.results = results
        self.options = results.options
        self.found = found
        self._clock: Clock | None = None

    @property
    def clock(self) -> Clock:
        """Made when it is first needed: it takes memory of a GPU."""
        self._clock = self._clock or Clock(self.options.device)
        return self._clock

    @property
    def seconds_left(self) -> float:
        """Until nothing new begins."""
        return self.results.until(1) - time.time()

    def named(self, names: Iterable[str] | None) -> list[Implementation]:
        """Return those of some names that run on this device, or all that were found."""
        if names is None:
            return self.found
        known = {x.name: x for x in self.found}
        made = [known.get(name) or resolve(name) for name in names]
        return [x for x in made if not x.missing(self.options.device)]

    def compile(self, waiting: list[Compilation], until: float) -> str:
        """Compile what the other sections need."""

        def tell(found: dict[str, Any]) -> None:
            self.results.data["compiled"] = found
            self.results.save()

        compile_all(waiting, until=until, tell=tell)
        return ""

    def ceilings(self) -> str:
        """Measure bare products and a copy."""
        rows = min(32768, max(self.options.sizes))
        dtype = (
            torch.bfloat16 if self.options.dtypes[0] == "amp" else DTYPES[self.options.dtypes[0]]
        )
        widths = self.options.widths
        for found in ceilings(self.options.device, dtype, rows=rows, widths=widths):
            self.results.add("ceilings", found)
        return ""

    def check(self, check: Check) -> str:
        """Judge every implementation on one batch."""
        key, shape, loss = str(check), check.shape, check.loss
        seed = self.options.seed + sum(map(ord, key))
        where = {"device": self.options.device, "seed": seed}
        kind = where | {"dtype": check.dtype, "ids": check.ids}
        truth = answer(check.regime.problem(loss, shape, **kind))
        done = {x["implementation"] for x in self.results.data["correctness"] if x["step"] == key}
        for implementation in self.found:
            if implementation.name in done or not self._judged(implementation, check):
                continue
            self._note(key, implementation)
            try:
                verdict = judge(implementation, check.regime.problem(loss, shape, **kind), truth)
            except Exception as error:  # its failure is a result
                verdict = {"status": "error", "reason": reason(error)}
            self.results.add(
                "correctness",
                {
                    "step": key,
                    "loss": loss,
                    "rows": [shape.n, shape.m],
                    "width": shape.d,
                    "dtype": check.dtype,
                    "ids": check.ids,
                    "regime": check.name + _with(check.ids),
                    "seed": seed,
                    "implementation": implementation.name,
                    **verdict,
                },
            )
        return ""

    def _judged(self, implementation: Implementation, check: Check) -> bool:
        n, m, d = check.shape.n, check.shape.m, check.shape.d
        device = self.options.device if n * m > HUGE_PAIRS else ""
        return not (
            (check.ours and not implementation.ours)
            or (check.regime.raw and not implementation.raw)
            or (implementation.kernels and not self.judges_kernels(check.dtype))
            or implementation.compiles
            or implementation.refuses(check.loss, n, m, d, device)
            or self._lost(str(check), implementation)
        )

    def judges_kernels(self, dtype: str) -> bool:
        """Whether kernels are right to so many digits: the interpreter truncates to bf16."""
        return self.options.device == "cuda" or dtype == "fp32"

    def speed(self, key: str, case: Case) -> str:
        """Time every implementation in turns, then measure its memory."""
        skipped = {}
        problem = self._problem(case)
        taking_part: dict[str, Implementation] = {}
        for implementation in self.found:
            refusal = self._refusal(implementation, case) or self._too_long(implementation, case)
            refusal = refusal or self._lost(key, implementation)
            if refusal:
                skipped[implementation.name] = refusal
            else:
                taking_part[implementation.name] = implementation
        runs = {name: _run(x, problem, case.mode) for name, x in taking_part.items()}
        timed = take_turns(
            runs,
            self.clock,
            deadline=time.monotonic() + self.seconds_left,
            least_rounds=self.options.rounds,
            about_to=lambda name: self._note(key, taking_part[name]),
        )
        used = {}
        for name, implementation in taking_part.items():
            if name not in timed.failed:
                self._note(key, implementation)
                used[name] = self._memory(implementation, problem, case)
        self.results.add(
            "speed",
            asdict(case)
            | {
                "first": _short(timed.first),
                "rounds": [_short(x) for x in timed.rounds],
                "processor_rounds": [_short(x) for x in timed.processor_rounds],
                "complete": timed.complete,
                "failed": timed.failed,
                "inputs": sum(x.nbytes for x in problem.inputs),
                "skipped": skipped,
                "memory": {name: x for name, x in used.items() if x},
            },
        )
        return ""

    def host(self, key: str, case: Case) -> str:
        """Measure what ours cost beside the GPU."""
        ours = [x for x in self.found if x.ours and not self._refusal(x, case)]
        self._each(key, "host", ours, case, host)
        return ""

    def kernels(self, key: str, case: Case, *names: str) -> str:
        """Measure the kernels of some implementations."""
        here = [x for x in self.named(names) if not self._refusal(x, case)]
        self._each(key, "kernels", here, case, partial(kernels, clock=self.clock))
        return "" if here else f"{', '.join(names)} cannot run here"

    def _each(
        self,
        key: str,
        section: str,
        implementations: list[Implementation],
        case: Case,
        function: Callable[[Implementation, Problem], dict[str, Any]],
    ) -> None:
        done = {x["implementation"] for x in self.results.data[section] if x["step"] == key}
        for implementation in implementations:
            if implementation.name in done or self._lost(key, implementation):
                continue
            self._note(key, implementation)
            try:
                found = function(implementation, self._problem(case))
            except Exception as error:  # its failure is a result
                found = {"reason": reason(error)}
            about = {"step": key, "implementation": implementation.name}
            self.results.add(section, about | asdict(case) | found)

    def _problem(self, case: Case) -> Problem:
        generator = torch.Generator(self.options.device).manual_seed(self.options.seed)
        a, b = independent(Shape(case.n, case.n, case.d), generator)
        stretch = 8.0 if case.raw else 1.0
        scale = SPEED_SCALE if case.loss == "infonce" else 10.0
        kind = {"raw": case.raw, "dtype": case.dtype, "ids": case.ids}
        return Problem.of(case.loss, stretch * a, stretch * b, scale, **kind)

    def _note(self, key: str, implementation: Implementation) -> None:
        self.results.note(key, implementation.name, limit=implementation.limit)

    def _lost(self, step: str, implementation: Implementation) -> str:
        """Return what an implementation did to the process in an earlier attempt at a step."""
        for lost in self.results.data["lost"]:
            if (lost["step"], lost["implementation"]) == (step, implementation.name):
                return lost["reason"]
        return ""

    def _refusal(self, implementation: Implementation, case: Case) -> str:
        if case.mode not in implementation.modes or (case.raw and not implementation.raw):
            return "is measured forward and backward on unit features only"
        if case.n > HUGE and not implementation.ours and implementation.name not in FOR_HUGE:
            return f"is not measured beyond {HUGE} rows"
        if implementation.kernels and self.options.device == "cpu":
            return "is not timed in Triton's interpreter"
        if self._uncompiled(implementation, case):
            return "was not compiled in time"
        return implementation.refuses(case.loss, case.n, case.n, case.d, self.options.device)

    def _uncompiled(self, implementation: Implementation, case: Case) -> bool:
        """Whether to compile it was tried and took too long: now, it would take others' time."""
        compiled = self.results.data["compiled"]
        kind = f"x {case.d} {case.dtype} ids {case.ids}"
        tried = [*compiled.get("late", ())]
        if implementation.compiles:
            kind = f"{case.n} x {case.d} {case.dtype} ids none"
            tried += compiled.get("failed", ())
        name = f"{implementation.name} "
        return any(x.startswith(name) and x.endswith(f" {kind}") for x in tried)

    def _too_long(self, implementation: Implementation, case: Case) -> str:
        """Return a refusal if what a smaller case took says that time will not suffice."""
        kind = case.loss, case.mode, case.dtype, case.ids
        for past in reversed(self.results.data["speed"]):
            alike = (past["loss"], past["mode"], past["dtype"], past["ids"]) == kind
            if not alike or not any(implementation.name in x for x in past["rounds"]):
                continue
            ms = spread(past["rounds"], implementation.name)[0]
            ms *= case.work / (past["n"] ** 2 * past["d"])
            calls = SLOW_ROUNDS + SLOW_WARMUPS if ms > SLOW else ROUNDS + WARMUPS
            seconds, left = 1e-3 * ms * (calls + 2), self.seconds_left
            return f"about {seconds:.0f} s, but {left:.0f} s were left" if seconds > left else ""
        return ""

    def _memory(
        self, implementation: Implementation, problem: Problem, case: Case
    ) -> dict[str, int] | None:
        try:
            if self.options.device == "cuda":
                run = partial(memory.once, implementation, problem, case.mode)
                return asdict(memory.on_gpu(run))
            if case.raw or implementation.compiles or self.seconds_left < 0:
                return None
            job = memory.Job(
                implementation.name, case.loss, case.d, case.dtype, case.mode, ids=case.ids
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
            ready.append(implementation.call(problem))
        if mode == "both":
            return gradients(problem, ready[0])
        with torch.no_grad():
            return ready[0]()

    return run


def _short(times: dict[str, float]) -> dict[str, float]:
    return {name: round(ms, 4) for name, ms in times.items()}


def _with(ids: str) -> str:
    return "" if ids == "none" else f", ids {ids}"
