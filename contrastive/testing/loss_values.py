"""What the value of a loss promises: pairs, temperature, precision, order and group ids.

``check_loss`` judges two losses to the last digit; this is what any contrastive loss keeps.

Shapes: N pairs, D wide.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.testing.checks import Check, Fault, Skipped

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.testing.subjects import LossSubject

CLOSE_LOSSES = 1e-4  # of the value: sums in another order


def same(found: float, expected: float) -> bool:
    """Tell whether rounding explains the difference of two losses."""
    return abs(found - expected) <= CLOSE_LOSSES * max(abs(expected), 1e-2)


def knows_pairs(subject: LossSubject) -> None:
    """Matched pairs cost less than the same rows in another order."""
    a, b = subject.pairs(apart=True)
    right, wrong = subject.value(a, b), subject.value(a, b.roll(1, 0))
    if not right < wrong:
        problem = f"matched pairs cost {right:.3g}, mismatched ones {wrong:.3g}"
        raise Fault(problem, "pull row i of a to row i of b; mind the sign")


def knows_its_scale(subject: LossSubject) -> None:
    """Well matched pairs cost less at a larger log_scale, the logarithm of 1 / temperature."""
    a, b = subject.pairs(4, apart=True)
    low, high = (subject.value(a, b, log_scale=x) for x in (-1.0, 0.0))  # smoothing bounds more
    if same(low, high) and not isinstance(subject.make().log_scale, torch.nn.Parameter):
        raise Skipped("its log_scale is fixed, and not used")
    if not high < low:
        problem = f"as log_scale grows from -1 to 0, matched pairs cost {high:.3g} after {low:.3g}"
        raise Fault(problem, "multiply cosines by log_scale.exp(), which is 1 / temperature")


def keeps_precision(subject: LossSubject) -> None:
    """It is finite at a logit scale of 100, and computed in fp32 under autocast too."""
    a, b = subject.pairs()
    highest = math.log(100)
    for other in (a.clone(), b, -a):
        row = a.clone().requires_grad_()
        loss, _ = subject.call(row, other, log_scale=highest)
        (gradient,) = cast(
            "tuple[Tensor | None]", torch.autograd.grad(loss, row, allow_unused=True)
        )
        if not loss.isfinite() or (gradient is not None and not gradient.isfinite().all()):
            problem = f"at a logit scale of 100 the loss is {float(loss.detach())}, or its gradient"
            raise Fault(problem, "compute in logarithms: logsumexp, logsigmoid, log_softmax")
    expected = subject.value(a, b.roll(1, 0), log_scale=highest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = subject.value(a, b.roll(1, 0), log_scale=highest)
    if not same(found, expected):
        problem = f"under autocast to bf16 the loss is {found:.6g} instead of {expected:.6g}"
        raise Fault(problem, "take logits from contrastive.losses.functional.similarity")


def ignores_order(subject: LossSubject) -> None:
    """The order of the pairs, with their ids, does not matter; nor do two calls differ."""
    a, b = subject.pairs()
    ids = torch.arange(8) // 2
    expected, again = (subject.value(a, b, ids) for _ in range(2))
    if again != expected:
        problem = f"two builds under one seed give {expected:.6g} and {again:.6g} for one batch"
        raise Fault(problem, "draw from torch's global generator, if at all")
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    found = subject.value(a[order], b[order], ids[order])
    if not same(found, expected):
        problem = f"the loss is {found:.6g} for pairs that gave {expected:.6g} in another order"
        raise Fault(problem, "let no pair's place matter, nor that of its id")


def honours_ids(subject: LossSubject) -> None:
    """Rows with equal ids are no negatives of each other; ids that all differ mean none."""
    a, b = subject.pairs()
    plain = subject.value(a, b)
    for what, ids in {"small": torch.arange(8), "large": 2**40 + 3 * torch.arange(8)}.items():
        if not same(found := subject.value(a, b, ids), plain):
            problem = f"with {what} ids that all differ it is {found:.6g}, without ids {plain:.6g}"
            raise Fault(problem, "compare ids with each other, and use them for nothing else")
    if subject.ignores_ids:
        raise Skipped("its fields, or ids='unused', say that ids are not looked at")
    if same(subject.value(a, b, torch.arange(8) // 2), plain):
        problem = "rows of one group are negatives of each other: ids change nothing"
        remedy = "honour a_ids and b_ids; if the loss has no negatives, check it with ids='unused'"
        raise Fault(problem, remedy)


VALUE_CHECKS: tuple[Check[Any], ...] = (
    Check("pairs", knows_pairs, needs=("inputs",)),
    Check("temperature", knows_its_scale, needs=("pairs",)),
    Check("precision", keeps_precision, needs=("inputs",)),
    Check("batch order", ignores_order, needs=("inputs",)),
    Check("ids", honours_ids, needs=("batch order",)),
)
