"""Towers, batches and gradients for tests of micro-batches."""

import torch
from torch import nn
from torch.nn.functional import normalize

from contrastive.training.gradient_cache import forward_in_micro_batches

B, WIDTH = 12, 6
IDS = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8])


class Tower(nn.Module):
    """What is asked for, between layers that need gradients."""

    def __init__(self, *between, inputs=10, hidden=16):
        super().__init__()
        first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, WIDTH)
        self.net = nn.Sequential(first, nn.GELU(), *between, last)

    def forward(self, x):
        return normalize(self.net(x), dim=1)


def pair(*make, dtype=torch.float64, shared=False):
    """Return two towers, or one twice; ``make`` makes what is between their layers."""
    a = Tower(*(f() for f in make)).to(dtype)
    return (a, a) if shared else (a, Tower(*(f() for f in make)).to(dtype))


def batch(dtype=torch.float64, seed=1):
    noise = torch.Generator().manual_seed(seed)
    return [torch.randn(B, 10, generator=noise, dtype=dtype) for _ in "ab"]


def scalar(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def by(rows, **options):
    """Return what embeds by micro-batches of so many rows; None calls the module by itself."""

    def of(tower, x):
        return (
            tower(x)
            if rows is None
            else forward_in_micro_batches(tower, {"x": x}, rows=rows, **options)
        )

    return of


def gradients(loss, *owners):
    """Return the gradients that ``backward`` leaves, each parameter once."""
    loss.backward()
    leaves = [p for owner in owners for p in getattr(owner, "parameters", lambda o=owner: [o])()]
    found = [leaf.grad.clone() for leaf in dict.fromkeys(leaves)]
    for leaf in leaves:
        leaf.grad = None
    return found


def assert_equal(found, right, *, within=1e-10):
    assert len(found) == len(right)
    for x, y in zip(found, right, strict=True):
        assert y.norm() > 0, "nothing would be shown"
        assert float((x - y).norm() / y.norm()) < within
