"""What losses need to know of rows that choose among candidates: a few sums over each row.

From the sums follow the losses and, by autograd, their gradients. Eagerly, the sums are those of a
matrix of all logits; else the passes of a backend take them (``backends.pair_sums``,
``backends.power_sums``), and several ranks share the rows.

Shapes: N anchors, C candidates, M rows of the other side, D wide, K powers.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, final

import torch
from torch.nn.functional import logsigmoid

from contrastive.distributed.global_batch import PairShards, pair_shards
from contrastive.losses import AnchorConfig, SupCon
from contrastive.losses.arguments import (
    check_devices,
    check_options,
)
from contrastive.losses.auto_execution import (
    choose,
    choose_for,
    described,
    global_sizes,
    in_common_dtype,
)
from contrastive.losses.backends.chunked import ChunkedBackend
from contrastive.losses.backends.empty_shard import EmptyShardBackend
from contrastive.losses.backends.pair_labels import PairLabels, check_pair_counts, matched_ids
from contrastive.losses.backends.pair_sums import LineSums, own_labels, own_sums, pair_sums
from contrastive.losses.backends.power_sums import power_sums
from contrastive.losses.execution import (
    all_logits,
    backend_of,
    gather_global_batch,
)
from contrastive.losses.functional import MASKED_LOGIT, accuracy
from contrastive.losses.global_labels import labels_of, swap_sides
from contrastive.losses.module import ScaledLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup, RowShards
    from contrastive.losses import Candidates, Direction, Execution, MatmulDtype, Positives
    from contrastive.losses.auto_execution import Chosen
    from contrastive.losses.backends.base import LossBackend
    from contrastive.losses.backends.chunked_operators import ChunkedOperators

A = TypeVar("A", bound=AnchorConfig | SupCon)


@dataclass(frozen=True)
class AnchorSums:
    """What is known of each anchor."""

    positives_N: Tensor
    """How many positives it has."""
    negatives_N: Tensor
    """How many negatives it has."""
    target_N: Tensor
    """Mean logit of its positives; 0 if it has none."""
    negative_logs: Tensor
    """``[K, N]``, for each power p that was asked for: the logarithm of the sum of exp(p x) over
    its negatives, about ``functional.MASKED_LOGIT`` for an empty sum."""
    positive_logs: Tensor | None
    """The same over its positives, if asked for."""


class AnchorLoss(ScaledLoss[A]):
    """A loss of such sums."""

    options: ClassVar[tuple[str, ...]] = ("positives", "direction", "candidates")
    """Fields of the config that go to ``of_batch``."""
    fused: ClassVar[bool] = False
    """Whether the kernels have what the loss needs."""

    reads_autocast = True  # ``matmul_dtype: auto`` does

    @abstractmethod
    def of_batch(self, *batch: Any, **how: Any) -> Tensor:
        """Return the loss of a global batch.

        Args:
            batch: a, b, a_ids and b_ids, of this rank.
            how: log_scale, execution, matmul_dtype, group and the ``options``.
        """

    def anchors_and_candidates(self, n: int, m: int) -> tuple[int, int]:
        """Return the numbers of anchors and of candidates among N rows of a and M of b."""
        return n, m

    @final
    def compute(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        group: BatchGroup | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss; metric, where all logits are at hand: accuracy between the sides."""
        shards = pair_shards(a, b, group)
        sizes = global_sizes(a, b, shards)
        execution = self._chosen(*sizes, a.shape[1], a.dtype, a.device)
        if execution == "eager":
            a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=shards)
            shards = None
        loss = self.of_batch(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=self.log_scale,
            execution=execution,
            matmul_dtype=self.config.matmul_dtype,
            group=shards,
            **{name: getattr(self.config, name) for name in self.options},
        )
        if execution != "eager":
            return loss, {}
        with torch.no_grad():
            return loss, {"accuracy": accuracy(self.logits(a, b), a_ids, b_ids)}

    @final
    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return the execution that such a batch gets."""
        how = self._chosen(n, m, dim, dtype, device)
        return described(how, self.config.matmul_dtype, device)

    def _chosen(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> Chosen:
        return choose(
            self.config.execution,
            *self.anchors_and_candidates(n, m),
            dim,
            dtype=dtype,
            device=device,
            matmul_dtype=self.config.matmul_dtype,
            fused=self.fused,
        )


def both_sides(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    log_scale: Tensor,
    positives: Positives,
    direction: Direction,
    candidates: Candidates,
    powers: tuple[float, ...] | None = None,
    execution: Execution,
    matmul_dtype: MatmulDtype,
    group: BatchGroup | PairShards | None,
) -> list[AnchorSums]:
    """Return the sums of the rows of a, and those of the rows of b, as ``direction`` says.

    Args:
        a: ``[N, D]``; of several ranks, the rows of this one, and so are the next three.
        b: ``[M, D]``.
        a_ids: ``[N]``.
        b_ids: ``[M]``.
        log_scale: scalar.
        positives: what rows of one group are to each other.
        direction: whose sums.
        candidates: where negatives come from.
        powers: of the exps, for sums over the positives too; if None, 1, and none over them.
        execution: how.
        matmul_dtype: as in ``execution.infonce``.
        group: the ranks that share the batch.

    Raises:
        ValueError: the ids do not fit the embeddings.
    """
    check_options(
        positives=positives,
        direction=direction,
        candidates=candidates,
        execution=execution,
        matmul_dtype=matmul_dtype,
    )
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    check_devices(a, log_scale=log_scale)
    if positives == "ignore":
        a_ids = b_ids = None
    shards = pair_shards(a, b, group)
    check_pair_counts(*global_sizes(a, b, shards))
    how = choose_for(
        execution, a, b, matmul_dtype=matmul_dtype, shards=shards, fused=powers is None
    )
    if how == "eager":
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=shards)
        there, back = (a, b, a_ids, b_ids), (b, a, b_ids, a_ids)
        sides = {"both": (there, back), "a_to_b": (there,), "b_to_a": (back,)}[direction]
        return [
            _of_all_logits(
                *side,
                positives,
                candidates,
                log_scale=log_scale,
                matmul_dtype=matmul_dtype,
                powers=powers,
            )
            for side in sides
        ]
    sides = _by_passes(
        a,
        b,
        a_ids,
        b_ids,
        log_scale=log_scale,
        positives=positives,
        candidates=candidates,
        powers=powers,
        backend_for=partial(backend_of, how, matmul_dtype),
        shards=shards,
    )
    return {"both": [*sides], "a_to_b": [sides[0]], "b_to_a": [sides[1]]}[direction]


def _by_passes(
    a: Tensor,
    b: Tensor,
    a_ids: Tensor | None,
    b_ids: Tensor | None,
    *,
    log_scale: Tensor,
    positives: Positives,
    candidates: Candidates,
    powers: tuple[float, ...] | None,
    backend_for: Callable[..., LossBackend],
    shards: PairShards | None,
) -> tuple[AnchorSums, AnchorSums]:
    """Return the sums of the rows of a and of the rows of b."""
    swapped = shards is not None and not shards.rows.all_matched
    a, b, a_ids, b_ids, shards = swap_sides(*in_common_dtype(a, b), a_ids, b_ids, shards)
    labels, mine = labels_of(a, b, a_ids, b_ids, positives, shards)
    lines = _between(a, b, log_scale, mine, powers, backend_for(a, b, mine), shards)
    of_each = (
        (a, a_ids, None if shards is None else shards.rows, labels),
        (b, b_ids, None if shards is None else shards.columns, labels.transposed()),
    )
    sides: list[AnchorSums] = []
    for line, (x, ids, rows, roles) in zip(lines, of_each, strict=True):
        count_N, logs = roles.row_count_N, line.logs
        negatives_N = roles.negative_count
        if candidates == "both":
            own, own_negatives_N = _within(x, ids, log_scale, powers, backend_for, rows)
            logs = torch.logaddexp(logs, own.logs)
            negatives_N = negatives_N + own_negatives_N
        target_N = line.positive / count_N.clamp(min=1)
        sides.append(AnchorSums(count_N, negatives_N, target_N, logs, line.positive_logs))
    first, second = sides
    return (second, first) if swapped else (first, second)


def _between(
    a: Tensor,
    b: Tensor,
    log_scale: Tensor,
    labels: PairLabels,
    powers: tuple[float, ...] | None,
    backend: LossBackend,
    shards: PairShards | None,
) -> tuple[LineSums, LineSums]:
    """Return the sums of rows of a over rows of b, and those of rows of b over rows of a."""
    if powers is None:  # of a row that has one positive, sums are of its negatives alone
        one = {"row_count_N": labels.row_count_N.clamp(max=1)}
        one["column_count_M"] = labels.column_count_M.clamp(max=1)
        return pair_sums(a, b, log_scale, replace(labels, **one), backend=backend, shards=shards)
    if isinstance(backend, EmptyShardBackend):  # of a rank without rows
        backend = ChunkedBackend()
    chunked = cast("ChunkedBackend | ChunkedOperators", backend)
    return power_sums(a, b, log_scale, labels, powers=powers, backend=chunked, shards=shards)


def _within(
    x: Tensor,
    ids: Tensor | None,
    log_scale: Tensor,
    powers: tuple[float, ...] | None,
    backend_for: Callable[..., LossBackend],
    rows: RowShards | None,
) -> tuple[LineSums, Tensor]:
    """Return the sums of rows over the other rows of their side with other ids; and how many."""
    labels, mine, order = own_labels(x, ids, rows, positives="mask")
    backend = backend_for(x, x, mine)
    ranks = None if rows is None else rows.contiguous
    if powers is None:
        found = own_sums(x, log_scale, mine, backend=backend, rows=ranks)
    else:
        shards = None if ranks is None else PairShards(ranks, ranks)
        # a view, since torch.compile refuses to hand one tensor to a function twice
        found, _ = _between(x, x.view_as(x), log_scale, mine, powers, backend, shards)
    return found.in_order(order), labels.negative_count if order is None else labels.negative_count[
        order
    ]


def _of_all_logits(
    own: Tensor,
    other: Tensor,
    own_ids: Tensor | None,
    other_ids: Tensor | None,
    positives: Positives,
    candidates: Candidates,
    *,
    log_scale: Tensor,
    matmul_dtype: MatmulDtype,
    powers: tuple[float, ...] | None,
) -> AnchorSums:
    """Return the sums of the own rows, among the other side's and maybe the own side's."""
    partner_NM = torch.eye(len(own), len(other), dtype=torch.bool, device=own.device)
    same_NM = _equal(own_ids, other_ids, partner_NM)
    positive_NC = same_NM if positives == "multi" else partner_NM
    negative_NC = ~(positive_NC | same_NM)
    if candidates == "both":  # the own side has no positives: equal ids there are left out
        itself_NN = torch.eye(len(own), dtype=torch.bool, device=own.device)
        own_NN = itself_NN | _equal(own_ids, own_ids, itself_NN)
        positive_NC = torch.cat([positive_NC, torch.zeros_like(own_NN)], 1)
        negative_NC = torch.cat([negative_NC, ~own_NN], 1)
        other = torch.cat([other, own])
    x_NC = all_logits(own, other, log_scale=log_scale, matmul_dtype=matmul_dtype)
    return sums_of_logits(x_NC, positive_NC, negative_NC, powers=powers)


def _equal(a_ids: Tensor | None, b_ids: Tensor | None, without_ids: Tensor) -> Tensor:
    if a_ids is None or b_ids is None:
        return without_ids
    return a_ids[:, None] == b_ids


def sums_of_logits(
    x_NC: Tensor, positive_NC: Tensor, negative_NC: Tensor, *, powers: tuple[float, ...] | None
) -> AnchorSums:
    """Return the sums of anchors from all logits and from masks of positives and negatives."""

    def logs(mask_NC: Tensor) -> Tensor:
        return torch.stack(
            [(x_NC * p).masked_fill(~mask_NC, MASKED_LOGIT).logsumexp(1) for p in powers or (1.0,)]
        )

    positives_N = positive_NC.sum(1)
    target_N = torch.where(positive_NC, x_NC, 0).sum(1) / positives_N.clamp(min=1)
    positive_logs = None if powers is None else logs(positive_NC)
    return AnchorSums(positives_N, negative_NC.sum(1), target_N, logs(negative_NC), positive_logs)


def softmax_loss(sums: AnchorSums, positive_log_N: Tensor, negative_log_N: Tensor) -> Tensor:
    """Return the mean cross entropy of the anchors that have a positive; 0 if none has.

    Args:
        sums: of the anchors.
        positive_log_N: logarithm of what positives add to the denominator; not used for an anchor
            with one positive, whose loss and gradient are exact however small they are.
        negative_log_N: logarithm of what negatives add.
    """
    of_one = -logsigmoid(sums.target_N - negative_log_N)
    of_many = torch.logaddexp(positive_log_N, negative_log_N) - sums.target_N
    loss_N = torch.where(sums.positives_N > 1, of_many, of_one)
    return mean(loss_N, sums.positives_N > 0)


def mean(loss_N: Tensor, counted_N: Tensor) -> Tensor:
    """Return the mean over what counts; 0 if nothing does."""
    return torch.where(counted_N, loss_N, 0).sum() / counted_N.sum().clamp(min=1)
