r"""Another loss whose batches also meet the embeddings of the batches before.

With past rows A of a and B of b, without gradients, the loss of a batch is what the loss within
makes of the pairs that have a row of the batch:

- A loss with a ``direction`` is a mean over rows that choose. The rows of a choose among b and B,
  those of b among a and A; past rows do not choose:

  .. math:: L = (\ell_{a \to b}(a, b \cup B) + \ell_{b \to a}(a \cup A, b)) / 2

- Any other is taken as a sum over pairs, like ``sigmoid``; each pair counts once:

  .. math:: L = \ell(a, b \cup B) + \ell(a \cup A, b) - \ell(a, b)

(Cross-batch memory: Wang et al. 2020, arXiv:1912.06798. The queue of MoCo: He et al. 2020,
arXiv:1911.05722, but of embeddings of the towers themselves.) Past rows keep
their ids, so that what comes again finds its positives among them, or does not mistake them for
negatives, as ``positives`` of the loss within says. Those first in are first out.

Shapes: N rows of a and of b, Q past rows, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call  # pyright: ignore[reportUnknownVariableType]

from contrastive.distributed.global_batch import BatchGroup
from contrastive.errors import SpecError
from contrastive.losses import Direction, Loss
from contrastive.losses.arguments import check_embeddings
from contrastive.losses.backends.pair_labels import matched_ids
from contrastive.losses.execution import gather_global_batch
from contrastive.losses.wrapper import WrapperLoss

if TYPE_CHECKING:
    from contrastive.losses import Queue

UNKNOWN = torch.iinfo(torch.int64).min  # id of a past row that came without one
PAST = "a_past", "b_past", "a_past_ids", "b_past_ids"


class QueueLoss(WrapperLoss):
    """A loss with a memory; the module's docstring has the equations.

    In eval mode it is the inner loss, and the queue stays as it is. Every rank has the same
    queue: the rows of all, in the order of their ranks.
    """

    a_past: Tensor
    """``[Q, D]``, the newest first."""
    b_past: Tensor
    a_past_ids: Tensor
    """``[Q]`` int64."""
    b_past_ids: Tensor

    def __init__(self, config: Queue) -> None:
        """Build the loss within and an empty queue."""
        super().__init__(config.loss)
        self.config = config
        self.direction: Direction | None = getattr(_innermost(config.loss), "direction", None)
        directions = ("a_to_b", "b_to_a") if self.direction else (None, None)
        # They share the parameters of the loss within by call, so they are no modules of this one.
        self._sides = tuple(
            _one_direction(config.loss, direction).build() for direction in directions
        )
        self.register_buffer("a_past", torch.empty(0, 0))
        self.register_buffer("b_past", torch.empty(0, 0))
        self.register_buffer("a_past_ids", torch.empty(0, dtype=torch.int64))
        self.register_buffer("b_past_ids", torch.empty(0, dtype=torch.int64))
        self.register_load_state_dict_pre_hook(_make_room)

    def forward(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None = None, b_ids: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and remember the batch; metrics: also how many pairs are in the queue.

        Raises:
            ValueError: the sides have different numbers of rows, or ids that do not fit.
            SpecError: the queue is of embeddings of another width.
        """
        check_embeddings(a, b, a_ids, b_ids)
        filled = {"queue": torch.full((), float(len(self.a_past)), device=a.device)}
        if not (self.training and self.config.size):
            loss, metrics = self.inner(a, b, a_ids, b_ids)
            return loss, {**metrics, **filled}
        if len(a) != len(b):
            msg = f"queue: {len(a)} rows of a and {len(b)} of b; it takes pairs"
            raise ValueError(msg)
        a_ids, b_ids = matched_ids(len(a), len(b), a_ids, b_ids)
        if a_ids is not None and b_ids is not None:
            a_ids, b_ids = a_ids.long(), b_ids.long()  # as those of past rows are
        group = self.batch_group()
        a, b, a_ids, b_ids = gather_global_batch(a, b, a_ids, b_ids, group=group)
        self._check_width(a.shape[1])
        loss, metrics = self._compute(a, b, a_ids, b_ids)
        # the queue holds the rows of all ranks, also where the loss sees those of one
        self._remember(a, b, a_ids, b_ids, group=BatchGroup.current() if group is None else None)
        return loss, {**metrics, **filled}

    def describe(self, n: int, m: int, dim: int, dtype: torch.dtype, device: torch.device) -> str:
        """Return the execution of the inner loss, of a batch and a full queue."""
        return self.inner.describe(n, m + self.config.size, dim, dtype, device)

    def _compute(
        self, a: Tensor, b: Tensor, a_ids: Tensor | None, b_ids: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a whole batch with the queue."""
        a_all, b_all = (_joined(x, past) for x, past in ((a, self.a_past), (b, self.b_past)))
        a_all_ids = None if a_ids is None else _joined(a_ids, self.a_past_ids)
        b_all_ids = None if b_ids is None else _joined(b_ids, self.b_past_ids)
        there, back = self._sides
        ahead = (there, (a, b_all, a_ids, b_all_ids))
        behind = (back, (a_all, b, a_all_ids, b_ids))
        once = (there, (a, b, a_ids, b_ids))
        match self.direction:
            case "a_to_b":
                terms = [(1.0, *ahead)]
            case "b_to_a":
                terms = [(1.0, *behind)]
            case "both":
                terms = [(0.5, *ahead), (0.5, *behind)]
            case None:
                terms = [(1.0, *ahead), (1.0, *behind), (-1.0, *once)]
        state = {**dict(self.inner.named_parameters()), **dict(self.inner.named_buffers())}
        results = [(weight, *functional_call(side, state, batch)) for weight, side, batch in terms]
        loss = torch.stack([weight * loss for weight, loss, _ in results]).sum()
        _, _, metrics = results[0]
        parts = {
            name: torch.stack([weight * each[name] for weight, _, each in results]).sum()
            for name in metrics
            if name.startswith("loss_")
        }
        return loss, {**metrics, **parts}

    @torch.no_grad()
    def _remember(
        self,
        a: Tensor,
        b: Tensor,
        a_ids: Tensor | None,
        b_ids: Tensor | None,
        *,
        group: BatchGroup | None,
    ) -> None:
        """Put a batch into the queue, first gathered from ``group``."""
        a_ids, b_ids = (_ids_or_unknown(ids, len(a), a.device) for ids in (a_ids, b_ids))
        new = gather_global_batch(a.detach(), b.detach(), a_ids, b_ids, group=group)
        for name, rows in zip(PAST, new, strict=True):
            past = cast("Tensor", getattr(self, name))
            setattr(self, name, _joined(cast("Tensor", rows), past)[: self.config.size].clone())

    def _check_width(self, width: int) -> None:
        if len(self.a_past) and self.a_past.shape[1] != width:
            msg = f"queue: its embeddings are {self.a_past.shape[1]} wide, the batch's {width}"
            raise SpecError(msg)


def _innermost(loss: Loss) -> Loss:
    within = getattr(loss, "loss", None)
    return _innermost(within) if isinstance(within, Loss) else loss


def _one_direction(loss: Loss, direction: Direction | None) -> Loss:
    """Return a loss of one direction, for a batch that is whole already."""
    changes = {"direction": direction, "negatives": "local"}
    known: dict[str, Any] = {
        name: value for name, value in changes.items() if name in type(loss).model_fields
    }
    within = getattr(loss, "loss", None)
    if isinstance(within, Loss):
        known["loss"] = _one_direction(within, direction)
    return loss.model_copy(update=known)


def _joined(new: Tensor, past: Tensor) -> Tensor:
    """Return new rows and past ones; the rows' type and device are the new ones'."""
    return torch.cat([new, past.to(new)]) if len(past) else new


def _ids_or_unknown(ids: Tensor | None, n: int, device: torch.device) -> Tensor:
    return torch.full((n,), UNKNOWN, device=device) if ids is None else ids


def _make_room(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Give the queue the shape of the one that is about to be loaded."""
    for name in PAST:
        if isinstance(saved := state.get(prefix + name), Tensor):
            setattr(module, name, torch.empty_like(saved, device=getattr(module, name).device))
