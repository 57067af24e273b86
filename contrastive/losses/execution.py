"""The losses of ``functional`` by any execution: same arguments, same values, same gradients.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, assert_never

import torch
from torch.nn.functional import normalize as unit_rows

from contrastive.config.extras import require
from contrastive.config.renamed import renamed_parameters
from contrastive.distributed.global_batch import BatchGroup
from contrastive.losses import functional
from contrastive.losses.backends import base as engine
from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.empty_shard import EmptyShardBackend
from contrastive.losses.backends.label_smoothing import smoothing
from contrastive.losses.backends.pair_labels import PairLabels, check_embeddings, matched_ids
from contrastive.losses.backends.triton.tiles import WIDEST

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards
    from contrastive.losses import Direction, Execution, MatmulDtype, Positives
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.triton.fused import FusedBackend

Chosen = Literal["eager", "chunked", "fused"]
LARGE = 2**20  # pairs; below, all logits are small and one product is faster than two passes
HAS_TRITON = importlib.util.find_spec("triton") is not None


@renamed_parameters(products="matmul_dtype")
def infonce(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float | None = None,
    temperature: Tensor | float | None = None,
    positives: Positives = "multi",
    direction: Direction = "both",
    label_smoothing: float = 0.0,
    normalize: bool = False,
    execution: Execution = "auto",
    matmul_dtype: MatmulDtype = "fp32",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    """Return ``functional.infonce``.

    Args:
        a: ``[N, D]``, L2-normalised unless ``normalize``.
        b: ``[M, D]``, L2-normalised unless ``normalize``.
        a_ids: ``[N]`` integers, the groups of a.
        b_ids: ``[M]`` integers, the groups of b; the same as ``a_ids`` if None.
        log_scale: the logarithm of the inverse temperature: a scalar tensor or a number.
        temperature: the temperature, in place of ``log_scale``.
        positives: what rows of one group are to each other.
        direction: which side the anchors are from: both, a_to_b or b_to_a.
        label_smoothing: share of the target that is spread over all candidates.
        normalize: give all rows length 1 first.
        execution: how; ``choose`` says what ``auto`` is.
        matmul_dtype: type in which fp32 embeddings are multiplied. Sums are fp32 in any case.
        group: the ranks whose batches form one global batch with this one, or how that is sharded.
            The value is the loss of the global batch, on every rank; the mean of the gradients over
            the ranks is its gradient (what DistributedDataParallel makes of them). Each rank may
            have other numbers of rows; see ``contrastive.distributed.global_batch``.

    Returns:
        Scalar, fp32 (float64 for float64 embeddings).

    Raises:
        ValueError: the ids do not fit the embeddings, or the ranks' rows not each other, or
            there are no pairs; or not one of ``log_scale`` and ``temperature`` is given.
        MissingExtra: ``fused`` without Triton.
    """
    check_embeddings(a, b)
    log_scale = functional.as_log_scale(log_scale, temperature, a)
    shards = pair_shards(a, b, group)
    if direction == "b_to_a":
        a_ids, b_ids = (a_ids if b_ids is None else b_ids), a_ids
        a, b, direction = b, a, "a_to_b"
        shards = None if shards is None else shards.swapped()
    execution = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards)
    if execution == "eager":
        a, b, a_ids, b_ids = _gather_global_batch(a, b, a_ids, b_ids, shards, normalize=normalize)
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
    if direction == "both":
        a, b, a_ids, b_ids, shards = _swap_sides(a, b, a_ids, b_ids, shards)
    labels, mine = _labels(a, b, a_ids, b_ids, positives, shards)
    backend = _backend(execution, matmul_dtype, a, b, mine)
    if label_smoothing:  # two gradients meet: they are rounded to half precision as one
        a, b = (x.to(engine.accumulation_dtype(x, x)) for x in (a, b))
    loss_of = engine.infonce if direction == "both" else engine.one_sided
    loss = loss_of(
        a[: len(mine.row_count_N)],
        b,
        log_scale,
        mine,
        backend=backend,
        normalize=normalize,
        columns=None if shards is None else shards.columns,
    )
    if label_smoothing:
        a, b, _, _ = _gather_global_batch(a, b, None, None, shards, normalize=normalize)
        extra = smoothing(a, b, log_scale, labels)
        if direction == "both":
            extra = (extra + smoothing(b, a, log_scale, labels.transposed())) / 2
        loss = loss + label_smoothing * extra
    return loss


@renamed_parameters(products="matmul_dtype")
def sigmoid(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None = None,
    b_ids: Tensor | None = None,
    *,
    log_scale: Tensor | float | None = None,
    temperature: Tensor | float | None = None,
    bias: Tensor | float,
    positives: Positives = "multi",
    normalize: bool = False,
    execution: Execution = "auto",
    matmul_dtype: MatmulDtype = "fp32",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    """Return ``functional.sigmoid``; arguments as in ``infonce``, and the scalar ``bias``."""
    check_embeddings(a, b)
    log_scale = functional.as_log_scale(log_scale, temperature, a)
    bias = functional.as_scalar(bias, a)
    shards = pair_shards(a, b, group)
    execution = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards)
    if execution == "eager":
        a, b, a_ids, b_ids = _gather_global_batch(a, b, a_ids, b_ids, shards, normalize=normalize)
        return functional.sigmoid(
            a, b, a_ids, b_ids, log_scale=log_scale, bias=bias, positives=positives
        )
    a, b, a_ids, b_ids, shards = _swap_sides(a, b, a_ids, b_ids, shards)
    _, mine = _labels(a, b, a_ids, b_ids, positives, shards)
    return engine.sigmoid(
        a,
        b,
        log_scale,
        bias,
        mine,
        backend=_backend(execution, matmul_dtype, a, b, mine),
        normalize=normalize,
        columns=None if shards is None else shards.columns,
    )


def choose(
    execution: Execution,
    n: int,
    m: int,
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    matmul_dtype: MatmulDtype = "fp32",
) -> Chosen:
    """Return what ``auto`` is for a global batch of N x M pairs of width ``dim``.

    ``eager`` for less than ``LARGE`` pairs. Beyond, ``fused`` on a GPU for products in bf16 or
    fp16, which is what its tensor cores are for, and ``chunked`` for all else.
    """
    if execution != "auto":
        return execution
    if n * m < LARGE:
        return "eager"
    fits = torch.device(device).type == "cuda" and dim <= WIDEST and HAS_TRITON
    return "fused" if fits and _reduced_dtype(dtype, matmul_dtype) else "chunked"


def choose_for(
    execution: Execution,
    a: Tensor,
    b: Tensor,
    *,
    matmul_dtype: MatmulDtype,
    shards: PairShards | None,
) -> Chosen:
    """Return ``choose`` for embeddings of this rank ``[n, D]`` and ``[m, D]``."""
    n, m = (len(a), len(b)) if shards is None else (shards.rows.total, shards.columns.total)
    dtype = _common_dtype(a, b)
    return choose(
        execution, n, m, a.shape[1], dtype=dtype, device=a.device, matmul_dtype=matmul_dtype
    )


def pair_shards(a: Tensor, b: Tensor, group: BatchGroup | PairShards | None) -> PairShards | None:
    """Return how the global batch is sharded: a collective, unless that is known already."""
    return group.pair_shards(a, b) if isinstance(group, BatchGroup) else group


def _backend(
    execution: Literal["chunked", "fused"],
    matmul_dtype: MatmulDtype,
    a: Tensor,
    b: Tensor,
    labels: PairLabels,
) -> LossBackend:
    if not len(labels.row_count_N):
        return EmptyShardBackend()
    # a CPU multiplies bf16 and fp16 as fp32, unless it is asked for bf16
    reduced = a.is_cuda or matmul_dtype == "bf16"
    dtype = _reduced_dtype(_common_dtype(a, b), matmul_dtype) if reduced else None
    match execution:
        case "chunked":
            return ChunkedBackend(matmul_dtype=dtype)
        case "fused":
            return _fused_backend()(matmul_dtype=dtype)
        case _:
            assert_never(execution)


def _common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Return the dtype of both, or that of sums where they differ."""
    return a.dtype if a.dtype == b.dtype else engine.accumulation_dtype(a, b)


def _reduced_dtype(dtype: torch.dtype, matmul_dtype: MatmulDtype) -> torch.dtype | None:
    """Return the type of products in bf16 or fp16, or None for wider ones."""
    if dtype.itemsize < 4:
        return dtype
    return torch.bfloat16 if matmul_dtype == "bf16" and dtype == torch.float32 else None


@torch.compiler.assume_constant_result  # a compiled loss need not look into an import
def _fused_backend() -> type[FusedBackend]:
    require("triton", extra="kernels")
    from contrastive.losses.backends.triton.fused import FusedBackend

    return FusedBackend


def gather_global_batch(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    group: BatchGroup | PairShards | None,
    normalize: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the global batch, on every rank; each row L2-normalised if asked for.

    For losses that every rank computes in full; ``BatchGroup`` says what their gradients are.

    Args:
        a: ``[n, D]``, the rows of this rank.
        b: ``[m, D]``, likewise.
        a_ids: ``[n]`` integers, the groups of a.
        b_ids: ``[m]`` integers, the groups of b.
        group: the ranks; None for one process.
        normalize: divide each row by its length.

    Returns:
        The four over all ranks: ``[N, D]``, ``[M, D]``, ``[N]`` and ``[M]``.

    Example:
        >>> a, b, _, _ = gather_global_batch(torch.eye(2), torch.eye(2), None, None, group=None)
        >>> a.shape  # one process: the batch itself
        torch.Size([2, 2])
    """
    shards = pair_shards(a, b, group)
    return _gather_global_batch(a, b, a_ids, b_ids, shards, normalize=normalize)


def _gather_global_batch(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    shards: PairShards | None,
    *,
    normalize: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    if normalize:
        a, b = (unit_rows(x.to(engine.accumulation_dtype(x, x)), dim=1) for x in (a, b))
    if shards is None:
        return a, b, a_ids, b_ids
    a_ids, b_ids = _gather_ids(a, b, a_ids, b_ids, shards)
    a, b = shards.rows.all_gather_with_gradient(a), shards.columns.all_gather_with_gradient(b)
    return a, b, a_ids, b_ids


def _gather_ids(
    a: Tensor, b: Tensor, a_ids: Tensor | None, b_ids: Tensor | None, shards: PairShards
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    if a_ids is None or b_ids is None:
        return None, None
    # both, though they are often the same: another rank may have given two
    return shards.rows.all_gather(a_ids), shards.columns.all_gather(b_ids)


def _swap_sides(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    shards: PairShards | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, PairShards | None]:
    """Return a and b such that the rows of a rank are contiguous in the global a."""
    if shards is None or shards.rows.all_matched:
        return a, b, a_ids, b_ids, shards
    return b, a, a_ids if b_ids is None else b_ids, a_ids, shards.swapped()


def _labels(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    positives: Positives,
    shards: PairShards | None,
) -> tuple[PairLabels, PairLabels]:
    """Return the labels of the global batch, and those of this rank's rows of a.

    The latter are the first rows only, where the others have no part in what rows choose.
    """
    if shards is None:
        labels = PairLabels.of(len(a), len(b), a_ids, b_ids, positives=positives, device=a.device)
        return labels, labels
    rows, columns = shards.rows, shards.columns
    ids = _gather_ids(a, b, a_ids, b_ids, shards)
    labels = PairLabels.of(rows.total, columns.total, *ids, positives=positives, device=a.device)
    if labels.kind != "groups":
        return labels, labels.block(rows.start, rows.start + rows.own_matched)
    assert labels.a_ids_N is not None
    mine = replace(
        labels, a_ids_N=rows.own(labels.a_ids_N), row_count_N=rows.own(labels.row_count_N)
    )
    return labels, mine
