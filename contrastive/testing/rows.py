"""What encoders and heads have in common: a module that gives one row for each sample.

Shapes: B samples, D the width of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from contrastive.nn.modes import eval_mode
from contrastive.testing.generic import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from contrastive.spec import ModelSpec, Tower

FEW = 3  # samples where gradients are taken, which costs most
CLOSE_ROWS = 1e-4  # of the largest number: what the order of sums in fp32 changes in a deep network


class RowsSubject(Subject):
    """A component whose module gives one row for each sample."""

    noun: ClassVar[str]
    """What a row is called: features, embeddings."""

    @abstractmethod
    def make(self) -> nn.Module:
        """Build the module afresh."""

    @abstractmethod
    def forward(self, module: nn.Module, places: Sequence[int]) -> Tensor:
        """Return the rows of some samples, in the mode that the module is in."""

    @property
    @abstractmethod
    def count(self) -> int:
        """How many samples there are."""

    @property
    @abstractmethod
    def raw_samples(self) -> Sequence[Any]:
        """Raw samples for the first tower of ``model``."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, as the module says."""

    @abstractmethod
    def tower(self) -> Tower:
        """Return a tower in which the component is frozen."""

    @abstractmethod
    def model(self, *, frozen: bool) -> ModelSpec:
        """Return a model with the component in one tower, the first."""

    @cached_property
    def module(self) -> nn.Module:
        """The module that checks share, in eval mode; they leave it as it is."""
        torch.manual_seed(0)
        return self.make().eval()

    @cached_property
    def first_state(self) -> dict[str, Tensor]:
        """The first weights under one seed."""
        return self.state_under(1)

    def state_under(self, seed: int) -> dict[str, Tensor]:
        """Return the first weights under a seed of torch."""
        torch.manual_seed(seed)
        return state_of(self.make())

    def mixing(self, place: int) -> tuple[str, str]:
        """Say when others change the row of a sample, and the remedy."""
        del place
        return "with what else is in its batch", "compute each row from its own sample"

    @property
    def places(self) -> list[int]:
        """All samples."""
        return list(range(self.count))

    @cached_property
    def known(self) -> Tensor:
        """The rows of all samples, computed once."""
        return self.rows()

    @torch.no_grad()
    def rows(self, places: Sequence[int] | None = None) -> Tensor:
        """Return the rows of some samples in eval mode, all of them if None."""
        with eval_mode(self.module):
            return self.forward(self.module, self.places if places is None else places)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return copies of a module's parameters and buffers, also of those that are not saved."""
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: x.detach().clone() for name, x in state.items()}


def difference(before: dict[str, Tensor], after: dict[str, Tensor]) -> str:
    """Return the name of a tensor that is not in both states, or not the same, if there is one."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after or not same(before[name], after[name]):
            return name
    return ""


def same(x: Tensor, y: Tensor) -> bool:
    """Tell whether two tensors are equal, NaN being itself."""
    alike = x.shape == y.shape and x.dtype == y.dtype
    return alike and bool(((x == y) | x.isnan() & y.isnan()).all())


def gap(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest number; 0 where rounding explains it.

    Numbers below 1e-3 count as that, so that zeros have a scale.
    """
    if found.shape != expected.shape or not found.numel():
        return 0.0 if found.shape == expected.shape else float("inf")
    found, expected = found.double(), expected.double()
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    return 0.0 if error <= CLOSE_ROWS else error
