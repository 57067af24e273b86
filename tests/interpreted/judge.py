"""The fused losses in Triton's interpreter against the plain functions in float64."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import normalize

from contrastive.losses import functional
from contrastive.losses.backends import all_pairs as engine
from contrastive.losses.backends.pair_labels import PairLabels
from contrastive.losses.backends.triton.fused import FusedBackend
from contrastive.losses.backends.triton.tiles import Tile

torch.set_num_threads(1)

TILE = Tile(16, 32, 16, 4, 1)
N, M, D = 21, 37, 24  # more than a tile, and no multiple of one
# the last is InfoNCE as several ranks compute it, in passes between which they exchange sums
LOSSES = ["infonce", "one_sided", "sigmoid", "infonce_in_passes"]
KINDS = {"diagonal": "ignore", "masked": "mask", "groups": "multi"}
BIAS = -3.0


def fused(**choices):
    return FusedBackend(tile=TILE, **{"rows": 16, **choices})


def embeddings(n=N, m=M, *, fit=0.0, dtype=torch.float32, seed=0, unit=True):
    """Return a and b of some type; with ``fit`` b is like a."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(x, D, generator=generator, dtype=torch.float64) for x in (n, m))
    if fit:
        k = min(n, m)
        b[:k] = fit * a[:k] + (1 - fit) * b[:k]
    return tuple((normalize(x, dim=1) if unit else x).to(dtype) for x in (a, b))


def ids(kind, n=N, m=M, *, seed=1):
    """Return ids with duplicates, and unmatched rows and columns."""
    if kind == "diagonal":
        return None, None
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 20, (n,), generator=generator),
        torch.randint(0, 25, (m,), generator=generator),
    )


def labels_of(a, b, kind, a_ids, b_ids):
    return PairLabels.of(
        len(a), len(b), a_ids, b_ids, positives=KINDS[kind], device=torch.device("cpu")
    )


def found(loss, a, b, kind, a_ids, b_ids, *, scale, sweep, normalize=False):
    """Return the value and the gradients by ``sweep``."""
    inputs = leaves(a, b, scale)
    a, b, log_scale, bias = inputs
    if loss == "infonce":
        given = {"positives": KINDS[kind], "normalize": normalize}
        return gradients(sweep.infonce(a, b, log_scale, a_ids, b_ids, **given), inputs)
    loss = loss.removesuffix("_in_passes")
    labels = labels_of(a, b, kind, a_ids, b_ids)
    extra = [bias] if loss == "sigmoid" else []
    value = getattr(engine, loss)(
        a, b, log_scale, *extra, labels, backend=sweep, normalize=normalize
    )
    return gradients(value, inputs)


def wanted(loss, a, b, kind, a_ids, b_ids, *, scale, normalize=False):
    """Return the value and the gradients by ``functional``, in float64."""
    inputs = leaves(a, b, scale, torch.float64)
    a, b, log_scale, bias = inputs
    if normalize:
        a, b = (torch.nn.functional.normalize(x, dim=1) for x in (a, b))
    if loss == "sigmoid":
        value = functional.sigmoid(
            a, b, a_ids, b_ids, log_scale=log_scale, bias=bias, positives=KINDS[kind]
        )
    else:
        direction = "a_to_b" if loss == "one_sided" else "both"
        value = functional.infonce(
            a, b, a_ids, b_ids, log_scale=log_scale, positives=KINDS[kind], direction=direction
        )
    return gradients(value, inputs)


def leaves(a, b, scale, dtype=None):
    scalars = torch.tensor(math.log(scale)), torch.tensor(BIAS)
    return [x.detach().to(dtype or x.dtype, copy=True).requires_grad_() for x in (a, b, *scalars)]


def gradients(value, inputs):
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.detach(), *(x for x in grads if x is not None)


def worst(found, wanted):
    """Return the largest relative error of a value and its gradients."""
    assert len(found) == len(wanted)
    errors = [
        float((x.double() - y).norm() / y.norm().clamp(min=1e-300))
        for x, y in zip(found, wanted, strict=True)
    ]
    assert all(map(math.isfinite, errors)), errors
    return max(errors)
