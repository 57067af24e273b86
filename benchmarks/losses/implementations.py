"""What is compared: each way to compute a loss, and what it costs on paper.

A unit is ``2 N M D`` floating-point operations, one product of all pairs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid
from torch.nn.functional import normalize as unit

from benchmarks.losses.problems import IDS
from contrastive.losses import execution, losses
from contrastive.losses.auto_execution import HAS_TRITON
from contrastive.losses.backends import all_pairs as engine
from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.pair_labels import PairLabels
from contrastive.losses.backends.triton.tiles import Tile

if TYPE_CHECKING:
    from benchmarks.losses.problems import Loss, Problem
    from contrastive.losses.backends.base import LossBackend

Call = Callable[[], Tensor]
Mode = Literal["forward", "both"]
"""forward: the loss without gradients. both: the loss and its gradients to all inputs."""
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Implementation:
    """One way to compute one or both losses."""

    name: str
    prepare: Callable[[Problem], Call]
    """Return what computes the loss; what is done here, once, is not timed."""
    units: dict[Loss, dict[Mode, int]]
    """Units of work for each loss it has."""
    package: str = ""
    """What to install for it, if not ours."""
    devices: tuple[Device, ...] = ("cpu", "cuda")
    ours: bool = False
    products: Literal["fp32", "tf32", "bf16"] = "fp32"
    """The type in which fp32 features are multiplied; those of half precision are as they are."""
    rectangular: bool = True
    """It takes more rows on one side than on the other."""
    modes: tuple[Mode, ...] = ("forward", "both")
    most: int | None = None
    """Rows beyond which it is not measured on a GPU: it would take the time of all others."""
    shapes: Callable[[int, int], bool] = field(default=lambda n, d: True)  # noqa: ARG005
    """Of the speed section on a GPU, by rows and width."""
    raw: bool = True
    """It is measured on features of any length too."""
    compiles: bool = False
    """Its first call is slow and needs memory of its own."""
    limit: float | None = None
    """Seconds after which a call of it is taken to hang, if not those of the run."""
    kernels: bool = False
    """It has kernels, which are compiled for each width, type of features and kind of ids."""

    def call(self, problem: Problem) -> Call:
        """Return what computes the loss, as a step of training calls it."""
        run = self.prepare(problem)

        def call() -> Tensor:
            with problem.autocast:
                return run()

        return call

    def refuses(self, loss: Loss, n: int, m: int, d: int, device: str) -> str:
        """Return why this problem is not for it, or nothing."""
        if loss not in self.units:
            return f"has no {loss} loss"
        if n != m and not self.rectangular:
            return "takes equal numbers of rows only"
        if device == "cuda" and self.most is not None and max(n, m) > self.most:
            return f"is not measured beyond {self.most} rows"
        if device == "cuda" and not self.shapes(n, d):
            return "is not measured at this shape"
        return ""

    def missing(self, device: str) -> str:
        """Return why it cannot run here at all, or nothing."""
        if device not in self.devices:
            return f"has no {device} path"
        if not self.package:
            return ""
        try:
            importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return f"not installed; run: pip install --no-deps {self.package}"
        return ""


def gradients(problem: Problem, call: Call) -> list[Tensor | None]:
    """Run forward and backward; None for an input to which no gradient is given."""
    return list(torch.autograd.grad(call(), problem.inputs, allow_unused=True))


def unit_rows(problem: Problem) -> tuple[Tensor, Tensor]:
    """Normalise in torch, for who has no normalisation of its own."""
    if not problem.raw:
        return problem.a, problem.b
    return unit(problem.a, dim=-1), unit(problem.b, dim=-1)


def dense(problem: Problem) -> Tensor:
    """Both losses as their definitions read, all logits stored.

    CLIP's takes two products of all pairs, one for each direction, and two cross entropies.
    """
    a, b = unit_rows(problem)
    scale = problem.log_scale.exp()
    if problem.loss == "sigmoid":
        logits_NN = scale * a @ b.T + problem.bias
        labels_NN = 2 * torch.eye(len(a), device=a.device, dtype=logits_NN.dtype) - 1
        return -logsigmoid(labels_NN * logits_NN).sum() / len(a)
    partner_N = torch.arange(len(a), device=a.device)
    by_row = cross_entropy(scale * a @ b.T, partner_N)
    by_column = cross_entropy(scale * b @ a.T, partner_N)
    return (by_row + by_column) / 2


def naive(problem: Problem, *, function: Callable[[Problem], Tensor] = dense) -> Call:
    """Call ``dense`` as trainers do: features of half precision under autocast."""

    def call() -> Tensor:
        half = problem.dtype != "fp32"
        with torch.autocast(problem.a.device.type, torch.bfloat16, enabled=half):
            return function(problem)

    return call


def compiled(problem: Problem) -> Call:
    """Call ``dense`` through torch.compile, one graph for each shape."""
    torch._dynamo.config.cache_size_limit = 64  # each shape is a graph here
    return naive(problem, function=torch.compile(dense, dynamic=False))


def by_execution(name: Any, problem: Problem) -> Call:
    """Call our public functions with an execution."""
    given = {
        "log_scale": problem.log_scale,
        "positives": IDS[problem.ids],
        "normalize": problem.raw,
        "execution": name,
    }
    if problem.loss == "sigmoid":
        given["bias"] = problem.bias
        return partial(execution.sigmoid, problem.a, problem.b, *problem.groups, **given)
    given["direction"] = "both" if problem.loss == "infonce" else "a_to_b"
    return partial(execution.infonce, problem.a, problem.b, *problem.groups, **given)


def by_default(problem: Problem) -> Call:
    """Call the module that a spec builds which names a loss and nothing more."""
    one_sided = {"direction": "a_to_b"} if problem.loss == "one-sided" else {}
    name = "sigmoid" if problem.loss == "sigmoid" else "infonce"
    module = losses[name](positives=IDS[problem.ids], **one_sided).build()
    given = {"log_scale": problem.log_scale, "bias": problem.bias}
    for parameter in [x for x, _ in module.named_parameters()]:
        delattr(module, parameter)
        setattr(module, parameter, given[parameter])
    ids = problem.groups
    return lambda: module(problem.a, problem.b, *ids)[0]


def by_backend(make: Callable[..., LossBackend], problem: Problem) -> Call:
    """Call a backend of ours, for settings that the public functions do not have."""
    how = make(**({"matmul_dtype": torch.bfloat16} if problem.dtype == "amp" else {}))
    positives, ids = IDS[problem.ids], problem.groups

    def call() -> Tensor:
        a, b, device = problem.a, problem.b, problem.a.device
        if problem.loss == "infonce" and hasattr(how, "infonce"):
            choices = {"positives": positives, "normalize": problem.raw}
            return how.infonce(a, b, problem.log_scale, *ids, **choices)
        labels = PairLabels.of(len(a), len(b), *ids, positives=positives, device=device)
        given = {"backend": how, "normalize": problem.raw}
        if problem.loss == "sigmoid":
            return engine.sigmoid(a, b, problem.log_scale, problem.bias, labels, **given)
        loss_of = engine.infonce if problem.loss == "infonce" else engine.one_sided
        return loss_of(a, b, problem.log_scale, labels, **given)

    return call


def sized(
    infonce: tuple[int, int],
    sigmoid: tuple[int, int] | None = None,
    one_sided: tuple[int, int] | None = None,
) -> dict:
    """Return units from pairs (forward, forward and backward)."""
    pairs = {"infonce": infonce, "sigmoid": sigmoid, "one-sided": one_sided}
    return {x: dict(zip(("forward", "both"), y, strict=True)) for x, y in pairs.items() if y}


NAIVE = Implementation("naive", naive, sized((2, 6), (1, 3)), rectangular=False)
LEAST = sized((1, 4), (1, 3), (1, 3))
"""The fewest units without storing all pairs."""

PLAIN = [
    Implementation(
        "eager",
        partial(by_execution, "eager"),
        sized((1, 3), (1, 3), (1, 3)),
        ours=True,
        most=16384,
    ),
    Implementation("chunked", partial(by_execution, "chunked"), LEAST, ours=True),
    Implementation(
        "chunked-bf16",
        partial(by_backend, partial(ChunkedBackend, matmul_dtype=torch.bfloat16)),
        LEAST,
        devices=("cpu",),
        ours=True,
        products="bf16",
    ),
    Implementation("default", by_default, LEAST, ours=True, raw=False),
]


def ours() -> list[Implementation]:
    """Return our executions, the fused one in each of its modes."""
    return PLAIN + fused()


FUSED_MODES: dict[str, dict[str, Any]] = {
    "fused": {},
    "fused-low-memory": {"low_memory": True},
    "fused-cache": {"cache_bytes": 2**36},
}
"""Names and the settings of ``FusedBackend`` that they stand for."""
TILE_NAME = "fused-{rows}x{columns}x{depth}-{warps}w-{stages}s"
"""``fused`` with one tile for all kernels, which keeps nothing, so that each of them is called."""


def fused() -> list[Implementation]:
    """Return the modes that ``FusedBackend`` has; none without Triton."""
    if not HAS_TRITON:
        return []
    known = inspect.signature(_backend()).parameters
    return [
        _fused(name, **settings)
        for name, settings in FUSED_MODES.items()
        if settings.keys() <= known.keys()
    ]


def with_tile(name: str) -> Implementation | None:
    """Return what ``TILE_NAME`` calls so, if it is such a name."""
    found = re.fullmatch(r"fused-(\d+)x(\d+)x(\d+)-(\d+)w-(\d+)s", name)
    if found is None or not HAS_TRITON:
        return None
    return _fused(name, tile=Tile(*map(int, found.groups())), cache_bytes=0)


def _fused(name: str, **settings: Any) -> Implementation:
    interpreted = importlib.import_module(_backend().__module__).launch_rows.INTERPRETED
    made = partial(by_backend, partial(_backend(), **settings))
    return Implementation(
        name,
        made if settings else partial(by_execution, "fused"),
        sized((1, 3), (1, 3), (1, 3)) if settings.get("cache_bytes") else LEAST,
        devices=("cpu",) if interpreted else ("cuda",),
        ours=True,
        kernels=True,
    )


def _backend() -> type[LossBackend]:
    return importlib.import_module("contrastive.losses.backends.triton.fused").FusedBackend


def resolve(name: str) -> Implementation:
    """Return the implementation of that name, or the object ``module:attribute`` by that name.

    Raises:
        ValueError: there is none.
    """
    from benchmarks.losses.peers import PEERS

    if ":" in name:
        module, _, attribute = name.partition(":")
        return replace(getattr(importlib.import_module(module), attribute), name=name)
    known = {x.name: x for x in [NAIVE, *PEERS, *ours()]}
    if tiled := with_tile(name):
        return tiled
    if name not in known:
        msg = f"{name}: unknown; there are {', '.join(known)}, and module:attribute"
        raise ValueError(msg)
    return known[name]
