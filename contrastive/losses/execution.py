"""The losses of ``functional`` by any execution: same arguments, same values, same gradients.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar, assert_never, cast

import torch
from torch.nn.functional import normalize as unit_rows

from contrastive.config.extras import require
from contrastive.config.renamed import renamed_parameters
from contrastive.distributed.global_batch import pair_shards
from contrastive.losses import functional
from contrastive.losses.arguments import (
    as_log_scale,
    as_scalar,
    check_devices,
    check_embeddings,
    check_options,
)
from contrastive.losses.auto_execution import choose_for, common_dtype, reduced_dtype
from contrastive.losses.backends import all_pairs as engine
from contrastive.losses.backends import ring as rings
from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.empty_shard import EmptyShardBackend
from contrastive.losses.backends.label_smoothing import smoothing
from contrastive.losses.backends.products import cosines
from contrastive.losses.global_labels import gather_ids, labels_of, swap_sides

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup, PairShards
    from contrastive.losses import Direction, Exchange, Execution, MatmulDtype, Positives
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.chunked_operators import ChunkedOperators
    from contrastive.losses.backends.pair_labels import PairLabels
    from contrastive.losses.backends.triton.fused import FusedBackend


F = TypeVar("F")


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
    matmul_dtype: MatmulDtype = "auto",
    exchange: Exchange = "gather",
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
        execution: how; ``auto_execution.choose`` says what ``auto`` is.
        matmul_dtype: type in which fp32 embeddings are multiplied; auto is bf16 on a GPU within
            ``torch.autocast`` in bf16, else fp32. Sums are fp32 in any case.
        exchange: how several ranks compare rows: gather, each holds all rows of b; ring, those of
            two ranks at a time (``backends.ring``), not with ``eager`` or ``label_smoothing``.
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
    check_embeddings(a, b, a_ids, b_ids)
    check_options(
        positives=positives,
        direction=direction,
        label_smoothing=label_smoothing,
        execution=execution,
        matmul_dtype=matmul_dtype,
        exchange=exchange,
    )
    log_scale = as_log_scale(log_scale, temperature, a, b)
    shards = pair_shards(a, b, group)
    if direction == "b_to_a":
        a_ids, b_ids = (a_ids if b_ids is None else b_ids), a_ids
        a, b, direction = b, a, "a_to_b"
        shards = None if shards is None else shards.swapped()
    if exchange == "ring" and shards is not None:
        if label_smoothing:
            msg = "exchange ring has no label_smoothing; take exchange gather"
            raise ValueError(msg)
        sides = True, direction == "both"
        if not shards.rows.all_matched:  # they are swapped
            sides = sides[1], sides[0]
        a, b, ring, backend = _around(
            a, b, a_ids, b_ids, positives, shards, execution, matmul_dtype, normalize=normalize
        )
        return rings.infonce(a, b, log_scale, ring, sides=sides, backend=backend)
    execution = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards)
    if execution == "eager":
        a, b, a_ids, b_ids = _gather_global_batch(a, b, a_ids, b_ids, shards, normalize=normalize)
        return functional.infonce_from_logits(
            all_logits(a, b, log_scale=log_scale, matmul_dtype=matmul_dtype),
            a_ids,
            b_ids,
            positives=positives,
            direction=direction,
            label_smoothing=label_smoothing,
        )
    check_devices(a, log_scale=log_scale)
    if execution == "fused" and direction == "both" and shards is None and not label_smoothing:
        backend = _fused_backend()(matmul_dtype=_reduced(matmul_dtype, a, b))
        return backend.infonce(
            a, b, log_scale, a_ids, b_ids, positives=positives, normalize=normalize
        )
    if direction == "both":
        a, b, a_ids, b_ids, shards = swap_sides(a, b, a_ids, b_ids, shards)
    labels, mine = labels_of(a, b, a_ids, b_ids, positives, shards)
    backend = backend_of(execution, matmul_dtype, a, b, mine)
    if label_smoothing:  # two gradients meet: they are rounded to half precision as one
        a, b = (x.to(accumulation_dtype(x, x)) for x in (a, b))
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
    matmul_dtype: MatmulDtype = "auto",
    exchange: Exchange = "gather",
    group: BatchGroup | PairShards | None = None,
) -> Tensor:
    """Return ``functional.sigmoid``; arguments as in ``infonce``, and the scalar ``bias``."""
    check_embeddings(a, b, a_ids, b_ids)
    check_options(
        positives=positives, execution=execution, matmul_dtype=matmul_dtype, exchange=exchange
    )
    log_scale = as_log_scale(log_scale, temperature, a, b)
    bias = as_scalar(bias, a, b)
    shards = pair_shards(a, b, group)
    if exchange == "ring" and shards is not None:
        a, b, ring, backend = _around(
            a, b, a_ids, b_ids, positives, shards, execution, matmul_dtype, normalize=normalize
        )
        return rings.sigmoid(a, b, log_scale, bias, ring, backend=backend)
    execution = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards)
    if execution == "eager":
        a, b, a_ids, b_ids = _gather_global_batch(a, b, a_ids, b_ids, shards, normalize=normalize)
        logits_NM = all_logits(a, b, log_scale=log_scale, bias=bias, matmul_dtype=matmul_dtype)
        return functional.sigmoid_from_logits(logits_NM, a_ids, b_ids, positives=positives)
    check_devices(a, log_scale=log_scale, bias=bias)
    a, b, a_ids, b_ids, shards = swap_sides(a, b, a_ids, b_ids, shards)
    _, mine = labels_of(a, b, a_ids, b_ids, positives, shards)
    return engine.sigmoid(
        a,
        b,
        log_scale,
        bias,
        mine,
        backend=backend_of(execution, matmul_dtype, a, b, mine),
        normalize=normalize,
        columns=None if shards is None else shards.columns,
    )


def _around(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    positives: Positives,
    shards: PairShards,
    execution: Execution,
    matmul_dtype: MatmulDtype,
    *,
    normalize: bool,
) -> tuple[Tensor, Tensor, rings.Ring, LossBackend]:
    """Return this rank's rows, all of a being matched, the ring, and what makes the passes."""
    if execution == "eager":
        msg = "exchange ring holds no logits of all ranks; take execution auto, chunked or fused"
        raise ValueError(msg)
    if normalize:
        a, b = (unit_rows(x.to(accumulation_dtype(x, x)), dim=1) for x in (a, b))
    how = choose_for(execution, a, b, matmul_dtype=matmul_dtype, shards=shards)
    a, b, a_ids, b_ids, swapped = swap_sides(a, b, a_ids, b_ids, shards)
    assert swapped is not None
    labels, mine = labels_of(a, b, a_ids, b_ids, positives, swapped)
    backend = backend_of("chunked" if how == "eager" else how, matmul_dtype, a, b, mine)
    return a, b, rings.Ring(swapped, labels), backend


def all_logits(
    a: Tensor,
    b: Tensor,
    *,
    log_scale: Tensor,
    bias: Tensor | None = None,
    matmul_dtype: MatmulDtype = "auto",
) -> Tensor:
    """Return ``functional.similarity``; on a GPU, by products in half precision as asked for."""
    dtype = reduced_dtype(common_dtype(a, b), matmul_dtype, a.device)
    if dtype is None or not a.is_cuda:
        return functional.similarity(a, b, log_scale=log_scale, bias=bias)
    with torch.autocast(a.device.type, enabled=False):
        logits_NM = cosines(a, b, dtype) * log_scale.float().exp()
        return logits_NM if bias is None else logits_NM + bias.float()


def backend_of(
    execution: Literal["chunked", "fused"],
    matmul_dtype: MatmulDtype,
    a: Tensor,
    b: Tensor,
    labels: PairLabels,
) -> LossBackend:
    """Return what makes the passes over the pairs of ``labels``."""
    if not len(labels.row_count_N):
        return EmptyShardBackend()
    dtype = _reduced(matmul_dtype, a, b)
    match execution:
        case "chunked":
            backend = ChunkedBackend(matmul_dtype=dtype)
            return _chunked_operators()(backend) if torch.compiler.is_compiling() else backend
        case "fused":
            return _fused_backend()(matmul_dtype=dtype)
        case _:
            assert_never(execution)


def _reduced(matmul_dtype: MatmulDtype, a: Tensor, b: Tensor) -> torch.dtype | None:
    """Return the type of products of embeddings in half precision; None for theirs, or fp32."""
    # a CPU multiplies bf16 and fp16 as fp32, unless it is asked for bf16
    reduced = a.is_cuda or matmul_dtype == "bf16"
    return reduced_dtype(common_dtype(a, b), matmul_dtype, a.device) if reduced else None


def _constant(function: F) -> F:
    """Let ``torch.compile`` take what a function returns, and not look into its import.

    This is ``torch.compiler.assume_constant_result``, which imports the whole compiler, and Triton.
    """
    cast("Any", function)._dynamo_marked_constant = True
    return function


@_constant
def _chunked_operators() -> type[ChunkedOperators]:
    from contrastive.losses.backends.chunked_operators import ChunkedOperators

    return ChunkedOperators


@_constant
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
        a, b = (unit_rows(x.to(accumulation_dtype(x, x)), dim=1) for x in (a, b))
    if shards is None:
        return a, b, a_ids, b_ids
    a_ids, b_ids = gather_ids(a, b, a_ids, b_ids, shards)
    a, b = shards.rows.all_gather_with_gradient(a), shards.columns.all_gather_with_gradient(b)
    return a, b, a_ids, b_ids
