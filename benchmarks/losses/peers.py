"""Losses of other packages, through their public functions, each as its authors mean it to be used.

Nothing is imported before it is called for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.losses.implementations import Call, Implementation, compiled, sized, unit_rows

if TYPE_CHECKING:
    from benchmarks.losses.problems import Problem


def memeff(problem: Problem) -> Call:
    """Call memeff with the true gradient scale; its temperature is a number without gradient."""
    from memeff import MemoryEfficientCLIPLoss

    loss = MemoryEfficientCLIPLoss(
        temperature=1 / problem.scale, normalized_inputs=not problem.raw, stable=False
    )
    return lambda: loss(problem.a, problem.b)


def inf_cl(problem: Problem) -> Call:
    """Call inf-cl for one process, once for each direction."""
    from inf_cl import cal_flash_loss

    def call() -> Tensor:
        a, b = unit_rows(problem)
        scale = problem.log_scale.exp()
        by_row = cal_flash_loss(a, b, scale=scale).mean()
        return (by_row + cal_flash_loss(b, a, scale=scale).mean()) / 2

    return call


def cut_cross_entropy(problem: Problem) -> Call:
    """Call cut-cross-entropy without its gradient filter, once for each direction."""
    from cut_cross_entropy import linear_cross_entropy

    partner_N = torch.arange(len(problem.a), device=problem.a.device)

    def call() -> Tensor:
        a, b = unit_rows(problem)
        scale = problem.log_scale.exp().to(a.dtype)
        by_row = linear_cross_entropy(scale * a, b, partner_N, filter_eps=None)
        by_column = linear_cross_entropy(scale * b, a, partner_N, filter_eps=None)
        return (by_row + by_column) / 2

    return call


def siglip_kernel(problem: Problem) -> Call:
    """Call siglip-kernel with the backend it chooses itself."""
    from siglip_kernel import fused_siglip_loss

    def call() -> Tensor:
        a, b = unit_rows(problem)
        return fused_siglip_loss(a, b, problem.log_scale, problem.bias)

    return call


PEERS = [
    Implementation(
        "naive-compiled",
        compiled,
        sized((2, 6)),
        rectangular=False,
        modes=("both",),
        shapes=lambda n, d: (n, d) in {(4096, 768), (16384, 768), (32768, 768)},
        raw=False,
        compiles=True,
    ),
    Implementation(
        "memeff",
        memeff,
        sized((1, 5)),
        "memeff",
        devices=("cuda",),
        products="tf32",
        rectangular=False,
    ),
    Implementation(
        "inf-cl",
        inf_cl,
        sized((2, 10)),
        "inf-cl",
        devices=("cuda",),
        products="tf32",
        rectangular=False,
        most=16384,
    ),
    Implementation(
        "cut-cross-entropy",
        cut_cross_entropy,
        sized((2, 8)),
        "cut-cross-entropy",
        devices=("cuda",),
        products="tf32",
        rectangular=False,
        most=16384,
    ),
    Implementation(
        "siglip-kernel",
        siglip_kernel,
        {"sigmoid": {"forward": 3, "both": 3}},
        "siglip-kernel",
        devices=("cuda",),
        products="tf32",
        rectangular=False,
    ),
]
