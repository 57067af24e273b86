"""Heads of other packages, tried on features at random before their embeddings are relied on.

Shapes: B rows, F features, D the shared width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import torch
from torch import Tensor, nn

from contrastive.config.provenance import described, is_ours
from contrastive.encoders.trial import SHARE, gap_on
from contrastive.errors import SpecError
from contrastive.nn.device import device_of
from contrastive.nn.modes import eval_mode
from contrastive.nn.rng import RngState

if TYPE_CHECKING:
    from contrastive.model.tower import TowerModule

ROWS = 3  # the fewest of which an order of any kind is seen
_tried: WeakSet[nn.Module] = WeakSet()


@torch.no_grad()
def check_head(tower: TowerModule) -> None:
    """Insist that a head makes each row of its own features alone, the same each time.

    One that fails on features at random is left to those of samples.

    Raises:
        SpecError: it does not; names the head.
    """
    head, spec = tower.head, tower.spec.head
    if is_ours(type(spec)) or head in _tried:
        return
    problem, remedy = _problem(tower, head)
    if problem:
        msg = f"{described(type(spec))}: its embeddings {problem}; let it {remedy}"
        raise SpecError(msg)
    _tried.add(head)


def _problem(tower: TowerModule, head: nn.Module) -> tuple[str, str]:
    """Return what a head does to features at random, and what it should do; or nothing."""
    generator = torch.Generator().manual_seed(0)
    features_BF = torch.randn(ROWS, tower.encoder.out_dim, generator=generator)
    weight = next(head.parameters(), features_BF)
    features_BF = features_BF.to(device_of(tower), weight.dtype)
    with eval_mode(head), RngState():
        try:
            found = [head(features_BF), *(head(row[None]) for row in features_BF)]
            again = head(features_BF)
        except Exception:  # of features that it never meets; else it is told where they are
            return "", ""
    together, *alone = found
    if not all(_are_rows(x, n) for x, n in zip(found, (ROWS, *(1 for _ in alone)), strict=True)):
        return "", ""
    if share := gap_on(head, again, together):
        problem = f"differ between two calls in eval mode, by {SHARE.format(share)}"
        return problem, "draw random numbers only if self.training"
    if share := gap_on(head, torch.cat(alone), together):
        problem = f"change by {SHARE.format(share)} with what else is in the batch"
        return problem, "compute each row from its own features"
    return "", ""


def _are_rows(found: object, number: int) -> bool:
    if not isinstance(found, Tensor) or found.ndim != 2 or found.is_complex():
        return False
    return len(found) == number and bool(found.isfinite().all())
