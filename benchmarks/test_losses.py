"""Every registered loss by every execution, on the CPU, small enough for ``make bench``.

Beside the time, ``extra_info`` has the peak memory of a call beyond its inputs, measured in a
process of its own, and the errors of loss and gradients against float64. The comparison with other
packages, and larger sizes, are ``python -m benchmarks.losses``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.losses.memory import on_cpu
from contrastive.losses import losses

WIDTH = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Case:
    """A loss by one execution, of embeddings that are rounded to a type."""

    name: str
    execution: str
    rounded: str
    dtype: str
    """The type they have then."""

    def build(self):
        """Return the loss; one without executions has the one it has."""
        settings = {"execution": self.execution} if executions(self.name) else {}
        return losses[self.name](**settings).build().to(torch.promote_types(self.type, torch.float))

    @property
    def type(self):
        return DTYPES[self.dtype]

    def __call__(self, rows):
        """Make random unit embeddings, and return what computes loss and gradients."""
        generator = torch.Generator().manual_seed(0)
        a, b = (
            normalize(torch.randn(rows, WIDTH, generator=generator), dim=1)
            .to(DTYPES[self.rounded])
            .to(self.type)
            .requires_grad_()
            for _ in range(2)
        )
        return partial(once, self.build(), a, b)


def once(loss, a, b):
    value, _ = loss(a, b)
    return value, *torch.autograd.grad(value, (a, b))


def executions(name):
    """Return the executions that a loss can be asked for."""
    field = losses[name].model_fields.get("execution")
    return [x for x in get_args(field.annotation) if x != "auto"] if field else []


CASES = [(name, execution) for name in losses for execution in executions(name) or ["its own"]]


def relative(x, y):
    return float(torch.linalg.vector_norm(x.double() - y) / torch.linalg.vector_norm(y))


@pytest.mark.parametrize("rows", [256, 1024])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("name", "execution"), CASES, ids=[", ".join(x) for x in CASES])
def test_forward_and_backward(benchmark, name, execution, rows, dtype):
    fields = losses[name].model_fields
    if needed := [field for field, about in fields.items() if about.is_required()]:
        pytest.skip(f"needs {', '.join(needed)}")
    if execution == "fused":
        pytest.skip("needs a GPU")
    case = Case(name, execution, dtype, dtype)
    benchmark.group = f"{name}, {rows} x {WIDTH}, {dtype}"
    run = case(rows)
    found = benchmark.pedantic(run, rounds=10, warmup_rounds=2)
    truth = replace(case, execution="eager", dtype="float64")(rows)()
    memory = on_cpu(case, rows)
    benchmark.extra_info |= {
        "peak_bytes": memory.peak,
        "returned_bytes": memory.gradients,
        "loss_error": relative(found[0].detach(), truth[0].detach()),
        "gradient_error": max(map(relative, found[1:], truth[1:])),
    }
