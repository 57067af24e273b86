"""What a run does, in order: its sections, and the steps of each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

from benchmarks.losses.compiling import Compilation
from benchmarks.losses.implementations import TILE_NAME, Implementation
from benchmarks.losses.kernels import TILES
from benchmarks.losses.measure import HUGE, Case, Check, Measure
from benchmarks.losses.problems import IDS, REGIMES, Loss, Regime, Shape, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.losses.results import Results

CHECKED = {"cpu": [(512, 512), (500, 437)], "cuda": [(4096, 4096), (4000, 3500)]}
# of the checks with ids, N x M x D; D is the first width if 0. The last has the most pairs
CHECKED_IDS = {
    "cpu": [(64, 64, 0), (80, 70, 0), (61, 82, 20), (31, 31, 51), (256, 256, 0)],
    "cuda": [
        (4096, 4096, 0),
        (4000, 3500, 0),
        (1531, 2050, 200),
        (777, 777, 1030),
        (65536, 65536, 0),
    ],
}
WITH_IDS = Regime(paired(0.33), 14.3)
HOST_SIZES = {"cpu": [], "cuda": [4096, 8192]}  # where launches cost as much as work
KERNEL_SIZES = {"cpu": 256, "cuda": 32768}
TRIAL_ROWS = {"cpu": 32, "cuda": 512}  # enough to have a kernel compiled
NO_GPU = "needs a GPU"
SHARES = {
    "compile": 14,  # 64 s were measured, with 15 processes
    "ceilings": 1,
    "ids": 4,
    "correctness": 8,
    "host": 1,
    "speed": 13,
    "kernels": 2,
    "tiles": 4,
}
"""The sections, and which part of the time one has at most, of the time of a run's sections; what
it does not need is left to the next."""


@dataclass(frozen=True)
class Step:
    """One thing to do; ``key`` tells it from others, in the results too."""

    key: str
    run: Callable[[], str]
    """Do it; return why it could not be done, or nothing."""
    kinds: tuple[tuple[Loss, int, int, str, str], ...] = ()
    """What it computes: loss, rows, width, type of the features and kind of ids."""
    names: tuple[str, ...] | None = None
    """By which implementations, of those that compile something; None is all."""
    until: float = 0.0
    """``time.time()`` after which it does not begin."""
    limit: float | None = None
    """Seconds after which it is taken to hang, if not those of the run."""


class Plan:
    """The steps of a run, which write to its results."""

    def __init__(self, results: Results, found: list[Implementation]) -> None:
        """Take what can run here."""
        self.options = results.options
        self.results = results
        self.found = found
        self.measure = Measure(results, found)

    def steps(self) -> Iterator[Step]:
        """Return what there is to do; a section begins nothing once its part of the time is over.

        What a section leaves of its time is the next one's.
        """
        sections = self.options.sections
        total, so_far = sum(SHARES[x] for x in sections), 0
        for section in sections:
            so_far += SHARES[section]
            until = self.results.until(so_far / total)
            for step in getattr(self, f"_{section}")():
                yield replace(step, until=until)

    def _compile(self) -> Iterator[Step]:
        part = SHARES["compile"] / sum(SHARES[x] for x in self.options.sections)
        until = self.results.until(part)

        def run() -> str:
            waiting = list(self._compilations())
            return self.measure.compile(waiting, until) if waiting else "there are no kernels here"

        limit = part * self.options.deadline + 10
        yield Step("compile", run, limit=limit)

    def _compilations(self) -> Iterator[Compilation]:
        """Return what the other sections need, in their order, all losses of a kind in one."""
        device = self.options.device
        wanted: dict[tuple[str, int, int, str, str], dict[Loss, None]] = {}
        others = [x for x in self.options.sections if x != "compile"]
        for step in (step for x in others for step in getattr(self, f"_{x}")()):
            for loss, n, d, dtype, ids in step.kinds:
                for implementation in self.measure.named(step.names):
                    needs = implementation.kernels or (implementation.compiles and ids == "none")
                    if not needs or implementation.refuses(loss, n, n, d, device):
                        continue
                    rows = n if implementation.compiles else TRIAL_ROWS[device]
                    key = implementation.name, rows, d, dtype, ids
                    wanted.setdefault(key, {})[loss] = None
        slowest_first = sorted(wanted.items(), key=lambda x: x[0][1] == TRIAL_ROWS[device])
        for (name, n, d, dtype, ids), losses in slowest_first:
            yield Compilation(name, tuple(losses), n, d, dtype, ids, device)

    def _ceilings(self) -> Iterator[Step]:
        yield Step("ceilings", self.measure.ceilings)

    def _correctness(self) -> Iterator[Step]:
        """Square before ragged, the type of the run before fp32."""
        options, most = self.options, max(self.options.sizes)
        shapes = [
            Shape(min(n, most), min(m, most * m // n), d)
            for n, m in CHECKED[options.device]
            for d in options.widths[:2]
        ]
        for dtype in dict.fromkeys([options.dtypes[0], "fp32"]):
            for shape in shapes if dtype == options.dtypes[0] else shapes[:1]:
                for loss in options.losses:
                    if loss == "infonce" or shape.d == options.widths[:2][-1] or dtype == "fp32":
                        for name, regime in REGIMES.items():
                            yield self._check(Check(loss, shape, dtype, "none", name, regime))  # pyright: ignore[reportArgumentType]

    def _ids(self) -> Iterator[Step]:
        """Every kind of ids and every loss; the first shape in two types of features."""
        sizes = CHECKED_IDS[self.options.device]
        *others, huge = [Shape(n, m, d or self.options.widths[0]) for n, m, d in sizes]
        for at, shape in enumerate(others):
            for dtype in self.options.dtypes[: 2 if at == 0 else 1]:
                for ids in IDS:
                    for loss in get_args(Loss):
                        yield self._check(
                            Check(loss, shape, dtype, ids, "CLIP-like", WITH_IDS, ours=True)
                        )
        for ids in ("none", "multi"):
            dtype = self.options.dtypes[0]
            name = "CLIP-like, most pairs"
            yield self._check(Check("infonce", huge, dtype, ids, name, WITH_IDS, ours=True))

    def _check(self, check: Check) -> Step:
        shape = check.shape
        kind = check.loss, max(shape.n, shape.m), shape.d, check.dtype, check.ids
        kinds = (kind,) if self.measure.judges_kernels(check.dtype) else ()
        names = tuple(x.name for x in self.found if x.kernels)
        return Step(str(check), partial(self.measure.check, check), kinds, names)

    def _timed(self, section: str, case: Case, run: Callable[..., str], *names: str) -> Step:
        """Return a step about a case, whose kernels are those of a GPU."""
        kind = case.loss, case.n, case.d, case.dtype, case.ids
        kinds = (kind,) if self.options.device == "cuda" else ()
        key = f"{section} {case}"
        return Step(key, partial(run, key, case, *names), kinds, names or None)

    def _host(self) -> Iterator[Step]:
        options = self.options
        if not HOST_SIZES[options.device]:
            yield Step("host", lambda: NO_GPU)
        for n in HOST_SIZES[options.device]:
            for ids in options.ids if n in options.sizes else []:
                case = Case("infonce", n, options.widths[0], "both", False, options.dtypes[0], ids)
                yield self._timed("host", case, self.measure.host)

    def _speed(self) -> Iterator[Step]:
        for case in self._cases():
            kind = "raw" if case.raw else "unit"
            if case.mode in self.options.modes and kind in self.options.features:
                yield self._timed("speed", case, self.measure.speed)

    def _cases(self) -> Iterator[Case]:
        """Every size in one width, type and kind of ids, then the next.

        All types of features at the first width, and the first two at the others.
        """
        options, widths = self.options, self.options.widths
        middle = widths[len(widths) // 2]
        for d in widths:
            for dtype in options.dtypes if d == widths[0] else options.dtypes[:2]:
                for ids in options.ids:
                    for n in sorted(options.sizes):
                        yield from self._cases_of(n, d, dtype, ids, middle=d == middle)

    def _cases_of(self, n: int, d: int, dtype: str, ids: str, *, middle: bool) -> Iterator[Case]:
        if "infonce" in self.options.losses and (n <= HUGE or d == self.options.widths[0]):
            yield Case("infonce", n, d, "both", False, dtype, ids)
            if n <= HUGE:
                yield Case("infonce", n, d, "forward", False, dtype, ids)
            if middle and n <= HUGE:
                yield Case("infonce", n, d, "both", True, dtype, ids)
        least = 16384 if self.options.device == "cuda" else 0
        if "sigmoid" in self.options.losses and middle and least <= n <= HUGE:
            yield Case("sigmoid", n, d, "both", False, dtype, ids)

    def _kernels(self) -> Iterator[Step]:
        """What a call of ours launches, at one large size."""
        options = self.options
        n = min(KERNEL_SIZES[options.device], max(options.sizes))
        names = ("chunked",) if options.device == "cpu" else ("fused", "fused-low-memory")
        for d in options.widths:
            for ids in options.ids:
                for loss in options.losses:
                    case = Case(loss, n, d, "both", False, self._half, ids)  # pyright: ignore[reportArgumentType]
                    yield self._timed("kernels", case, self.measure.kernels, *names)

    def _tiles(self) -> Iterator[Step]:
        """Each tile for all kernels of a call, one width after the other."""
        options = self.options
        if options.device == "cpu":
            yield Step("tiles", lambda: NO_GPU)
            return
        n = min(KERNEL_SIZES[options.device], max(options.sizes))
        for d in options.widths:
            for tile in TILES:
                sizes = dict(
                    zip(("rows", "columns", "depth", "warps", "stages"), tile, strict=True)
                )
                name = TILE_NAME.format(**sizes)
                for loss in options.losses:
                    case = Case(loss, n, d, "both", False, self._half, "none")  # pyright: ignore[reportArgumentType]
                    yield self._timed(f"tiles {name}", case, self.measure.kernels, name)

    @property
    def _half(self) -> str:
        """The type of features whose products are in half precision, if the run has it."""
        return "bf16" if "bf16" in self.options.dtypes else self.options.dtypes[0]
