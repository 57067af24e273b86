"""The losses of ``functional`` by any execution: same arguments, same values, same gradients.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Literal, assert_never

import torch
from torch.nn.functional import normalize as unit

from contrastive.errors import require
from contrastive.losses import functional, sweeps
from contrastive.losses.chunked import Chunked
from contrastive.losses.roles import Roles
from contrastive.losses.smoothing import smoothing

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed import World
    from contrastive.losses import Direction, Execution, Positives, Products
    from contrastive.losses.sweeps import Sweeps

LARGE = 2**20  # pairs; below, all logits are small and one product is faster than two sweeps


def infonce(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor,
    positives: Positives = "multi",
    direction: Direction = "both",
    label_smoothing: float = 0.0,
    normalize: bool = False,
    execution: Execution = "auto",
    products: Products = "fp32",
    world: World | None = None,
) -> Tensor:
    """Return ``functional.infonce``.

    Args:
        a: ``[N, D]``, L2-normalised unless ``normalize``.
        b: ``[M, D]``, L2-normalised unless ``normalize``.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: scalar, the logarithm of the inverse temperature.
        positives: what rows of one group are to each other.
        direction: who chooses among whom.
        label_smoothing: share of the target that is spread over all candidates.
        normalize: give all rows length 1 first.
        execution: how; ``choose`` says what ``auto`` is.
        products: type in which fp32 embeddings are multiplied. Sums are fp32 in any case.
        world: the processes whose batches form one batch with this one. The value is the loss of
            the whole batch, on every process; the mean of the gradients over the processes is its
            gradient (what DistributedDataParallel makes of them).

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: the ids do not fit the embeddings.
        MissingExtra: ``fused`` without Triton.
    """
    if direction == "b_to_a":
        a_ids, b_ids = (a_ids if b_ids is None else b_ids), a_ids
        a, b, direction = b, a, "a_to_b"
    execution = choose(execution, a, b, world)
    if execution == "eager":
        a, b, a_ids, b_ids = whole(a, b, a_ids, b_ids, normalize=normalize, world=world)
        return functional.infonce(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=log_scale,
            positives=positives,
            direction=direction,
            label_smoothing=label_smoothing,
        )
    roles, mine = _roles(a, b, a_ids, b_ids, positives, world)
    loss_of = sweeps.infonce if direction == "both" else sweeps.one_sided
    loss = loss_of(
        a,
        b,
        log_scale,
        mine,
        sweeps=_sweeps(execution, products),
        normalize=normalize,
        world=world,
    )
    if label_smoothing:
        a, b, _, _ = whole(a, b, None, None, normalize=normalize, world=world)
        extra = smoothing(a, b, log_scale, roles)
        if direction == "both":
            extra = (extra + smoothing(b, a, log_scale, roles.transposed())) / 2
        loss = loss + label_smoothing * extra
    return loss


def sigmoid(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor,
    bias: Tensor,
    positives: Positives = "multi",
    normalize: bool = False,
    execution: Execution = "auto",
    products: Products = "fp32",
    world: World | None = None,
) -> Tensor:
    """Return ``functional.sigmoid``; arguments as in ``infonce``, and the scalar ``bias``."""
    execution = choose(execution, a, b, world)
    if execution == "eager":
        a, b, a_ids, b_ids = whole(a, b, a_ids, b_ids, normalize=normalize, world=world)
        return functional.sigmoid(
            a, b, a_ids, b_ids, log_scale=log_scale, bias=bias, positives=positives
        )
    _, mine = _roles(a, b, a_ids, b_ids, positives, world)
    return sweeps.sigmoid(
        a,
        b,
        log_scale,
        bias,
        mine,
        sweeps=_sweeps(execution, products),
        normalize=normalize,
        world=world,
    )


def choose(
    execution: Execution, a: Tensor, b: Tensor, world: World | None = None
) -> Literal["eager", "chunked", "fused"]:
    """Return what ``auto`` is for embeddings ``[N, D]`` and ``[M, D]`` on their device.

    ``eager`` for less than ``LARGE`` pairs, all processes counted; beyond, ``fused`` on a GPU that
    the kernels support, else ``chunked``.
    """
    if execution != "auto":
        return execution
    size = 1 if world is None else world.size
    if len(a) * len(b) * size**2 < LARGE:
        return "eager"
    half_or_single = a.dtype.itemsize <= 4 and b.dtype.itemsize <= 4
    return "fused" if a.is_cuda and half_or_single and _has_triton() else "chunked"


def _sweeps(execution: Literal["chunked", "fused"], products: Products) -> Sweeps:
    dtype = torch.bfloat16 if products == "bf16" else None
    match execution:
        case "chunked":
            return Chunked(products=dtype)
        case "fused":
            require("triton", extra="kernels")
            from contrastive.losses.kernels.fused import Fused

            return Fused(products=dtype)
        case _:
            assert_never(execution)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def whole(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    world: World | None,
    normalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the whole batch, on every process; each row L2-normalised if asked for.

    For losses that every process computes in full; their gradients come out as ``World`` says.
    """
    if normalize:
        a, b = (unit(x.to(sweeps.wide(x, x)), dim=1) for x in (a, b))
    if world is None:
        return a, b, a_ids, b_ids
    b_ids = a_ids if b_ids is None else b_ids
    a_ids, b_ids = (None if x is None else world.gather(x) for x in (a_ids, b_ids))
    return world.gather_with_gradient(a), world.gather_with_gradient(b), a_ids, b_ids


def _roles(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    positives: Positives,
    world: World | None,
) -> tuple[Roles, Roles]:
    """Return the roles in the whole batch, and those of this process's rows of a."""
    if world is None:
        roles = Roles.of(len(a), len(b), a_ids, b_ids, positives=positives, device=a.device)
        return roles, roles
    b_ids = a_ids if b_ids is None else b_ids
    a_ids, b_ids = (None if x is None else world.gather(x) for x in (a_ids, b_ids))
    rows, columns = world.counts(len(a), a.device), world.counts(len(b), a.device)
    roles = Roles.of(sum(rows), sum(columns), a_ids, b_ids, positives=positives, device=a.device)
    start = sum(rows[: world.rank])
    return roles, roles.block(start, start + len(a))
