"""What losses need to know of rows that choose among candidates: a few sums over each row.

From the sums follow the losses and, by autograd, their gradients. Eagerly, all logits are held; in
chunks, those of some rows at a time, and the backward pass computes them again.

Shapes: N anchors, C candidates, M rows of the other side, R rows of a chunk, D wide.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, final

import torch
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]

from contrastive.losses import AnchorConfig, SupCon
from contrastive.losses.backends.pair_labels import matched_ids
from contrastive.losses.execution import choose, gather_global_batch
from contrastive.losses.functional import MASKED_LOGIT, accuracy, similarity
from contrastive.losses.module import ScaledLoss

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import BatchGroup
    from contrastive.losses import Candidates, Direction, Positives, Unfused

CHUNK_BYTES = 16 * 2**20  # of logits; masks and powers of them are held some six times over

A = TypeVar("A", bound=AnchorConfig | SupCon)

AnchorLabels = Callable[[int, int], "tuple[Tensor, Tensor]"]
"""First row and the row after the last, to masks ``[R, C]`` of their positives and negatives."""


@dataclass(frozen=True)
class AnchorSums:
    """What is known of each anchor."""

    positives_N: Tensor
    """How many positives it has."""
    negatives_N: Tensor
    """How many negatives it has."""
    target_N: Tensor
    """Mean logit of its positives; 0 if it has none."""
    positive_logs: tuple[Tensor, ...]
    """``[N]`` for each power p that was asked for: the logarithm of the sum of exp(p x) over the
    positives, about ``functional.MASKED_LOGIT`` for an empty sum."""
    negative_logs: tuple[Tensor, ...]
    """The same over the negatives."""


class AnchorLoss(ScaledLoss[A]):
    """A loss of such sums, which every rank computes in full."""

    options: ClassVar[tuple[str, ...]] = ("positives", "direction", "candidates")
    """Fields of the config that go to ``of_batch``."""

    @abstractmethod
    def of_batch(self, *batch: Any, **how: Any) -> Tensor:
        """Return the loss of a global batch.

        Args:
            batch: a, b, a_ids and b_ids.
            how: log_scale, execution and the ``options``.
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
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=group)
        execution = chosen(self.config.execution, *self.anchors_and_candidates(len(a), len(b)))
        options = {name: getattr(self.config, name) for name in self.options}
        how = {"log_scale": self.log_scale, "execution": execution, **options}
        loss = self.of_batch(a, b, a_ids, b_ids, **how)
        if execution == "chunked":
            return loss, {}
        with torch.no_grad():
            return loss, {"accuracy": accuracy(self.logits(a, b), a_ids, b_ids)}

    @final
    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return the execution that such a batch gets."""
        del dim, dtype, device
        return chosen(self.config.execution, *self.anchors_and_candidates(n, m))


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
    positive_powers: tuple[float, ...] = (),
    negative_powers: tuple[float, ...] = (1.0,),
    chunked: bool,
) -> list[AnchorSums]:
    """Return the sums of the rows of a, and those of the rows of b, as ``direction`` says.

    Raises:
        ValueError: the ids do not fit the embeddings.
    """
    a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
    there, back = (a, b, a_ids, b_ids), (b, a, b_ids, a_ids)
    sides = {"both": (there, back), "a_to_b": (there,), "b_to_a": (back,)}[direction]
    return [
        row_sums(
            own,
            other if candidates == "other" else torch.cat([other, own]),
            _across(own, other, own_ids, other_ids, positives, candidates),
            log_scale=log_scale,
            positive_powers=positive_powers,
            negative_powers=negative_powers,
            chunked=chunked,
        )
        for own, other, own_ids, other_ids in sides
    ]


def row_sums(
    anchors_ND: Tensor,
    candidates_CD: Tensor,
    roles: AnchorLabels,
    *,
    log_scale: Tensor,
    positive_powers: tuple[float, ...] = (),
    negative_powers: tuple[float, ...] = (1.0,),
    chunked: bool,
) -> AnchorSums:
    """Return the sums of the anchors.

    Args:
        anchors_ND: who chooses.
        candidates_CD: among whom.
        roles: what they are to each other.
        log_scale: scalar.
        positive_powers: the p of ``AnchorSums.positive_logs``.
        negative_powers: the p of ``AnchorSums.negative_logs``.
        chunked: take ``CHUNK_BYTES`` of logits at a time.
    """

    def of(start: int, stop: int) -> tuple[Tensor, ...]:
        x_RC = similarity(anchors_ND[start:stop], candidates_CD, log_scale=log_scale)
        positive_RC, negative_RC = roles(start, stop)
        positives_R = positive_RC.sum(1)
        target_R = torch.where(positive_RC, x_RC, 0).sum(1) / positives_R.clamp(min=1)
        logs = [
            (x_RC * p).masked_fill(~mask_RC, MASKED_LOGIT).logsumexp(1)
            for mask_RC, powers in ((positive_RC, positive_powers), (negative_RC, negative_powers))
            for p in powers
        ]
        return positives_R, negative_RC.sum(1), target_R, *logs

    n = len(anchors_ND)
    size = CHUNK_BYTES // (4 * len(candidates_CD)) if chunked else n
    starts = range(0, max(1, n), max(1, size))
    ends = [*starts[1:], n]
    parts = [
        checkpoint(of, start, end, use_reentrant=False, preserve_rng_state=False)
        if chunked
        else of(start, end)
        for start, end in zip(starts, ends, strict=True)
    ]
    positives_N, negatives_N, target_N, *logs = (torch.cat(x) for x in zip(*parts, strict=True))
    split = len(positive_powers)
    return AnchorSums(positives_N, negatives_N, target_N, tuple(logs[:split]), tuple(logs[split:]))


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


def chosen(execution: Unfused, n: int, m: int) -> Literal["eager", "chunked"]:
    """Return what ``auto`` is for N anchors and M candidates: ``choose``, without the kernels."""
    return "eager" if choose(execution, n, m, 0) == "eager" else "chunked"


def _across(
    own: Tensor,
    other: Tensor,
    own_ids: Tensor | None,
    other_ids: Tensor | None,
    positives: Positives,
    candidates: Candidates,
) -> AnchorLabels:
    """Return the roles of the other side's rows, then maybe of the own side's, to the own rows."""
    if positives == "ignore":
        own_ids = other_ids = None

    def same(start: int, stop: int, ids: Tensor | None, partner_R: Tensor) -> Tensor:
        if own_ids is None or ids is None:
            return partner_R
        return own_ids[start:stop, None] == ids

    def roles(start: int, stop: int) -> tuple[Tensor, Tensor]:
        partner_RM = _diagonal(start, stop, len(other), own.device)
        same_RM = same(start, stop, other_ids, partner_RM)
        positive_RC = same_RM if positives == "multi" else partner_RM
        negative_RC = ~(positive_RC | same_RM)
        if candidates == "both":  # the own side has no positives: equal ids there are left out
            itself_RN = _diagonal(start, stop, len(own), own.device)
            own_RN = itself_RN | same(start, stop, own_ids, itself_RN)
            positive_RC = torch.cat([positive_RC, torch.zeros_like(own_RN)], 1)
            negative_RC = torch.cat([negative_RC, ~own_RN], 1)
        return positive_RC, negative_RC

    return roles


def among(ids_N: Tensor) -> AnchorLabels:
    """Return the roles of rows to each other: equal ids are positives, but of oneself."""

    def roles(start: int, stop: int) -> tuple[Tensor, Tensor]:
        same_RN = ids_N[start:stop, None] == ids_N
        return same_RN & ~_diagonal(start, stop, len(ids_N), ids_N.device), ~same_RN

    return roles


def _diagonal(start: int, stop: int, columns: int, device: torch.device) -> Tensor:
    """Return the mask ``[R, columns]`` of the pairs with the same index."""
    rows_R = torch.arange(start, stop, device=device)
    return rows_R[:, None] == torch.arange(columns, device=device)
