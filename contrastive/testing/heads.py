"""What heads promise beside rows: any width that is asked for, or a SpecError.

Shapes: B samples, F features, D the embedding's width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from contrastive.encoders import CBOW
from contrastive.errors import SpecError
from contrastive.heads import Head, Linear
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec, Tower
from contrastive.testing.checks import Check, Fault
from contrastive.testing.counterpart import Counterpart
from contrastive.testing.row_checks import row_checks
from contrastive.testing.rows import RowsSubject
from contrastive.testing.saved import WORDS, keeps_its_weights
from contrastive.testing.settings import same_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

HEAD_WIDTHS = ((24, 16), (16, 16), (32, 32), (64, 64))
"""F and D that are tried: a head may refuse some."""


@dataclass(frozen=True)
class HeadSubject(RowsSubject):
    """A head that is examined."""

    config: Head
    in_dim: int | None
    embed_dim: int | None

    noun = "embeddings"

    @cached_property
    def widths(self) -> tuple[int, int]:
        """F and D: the author's, or the first that the head takes."""
        if self.in_dim or self.embed_dim:
            width = self.in_dim or self.embed_dim or 0
            return self.in_dim or width, self.embed_dim or width
        said = ""
        for in_dim, out_dim in HEAD_WIDTHS:
            try:
                self.config.build(in_dim, out_dim)
            except SpecError as error:
                said = str(error)
            else:
                return in_dim, out_dim
        raise Fault(f"it takes no width that was tried ({said})", "say in_dim= and embed_dim=")

    def make(self) -> nn.Module:
        """Build the head."""
        return self.config.build(*self.widths)

    @cached_property
    def features(self) -> Tensor:
        """``[B, F]``."""
        return torch.randn(5, self.widths[0], generator=torch.Generator().manual_seed(0))

    @property
    def count(self) -> int:
        """B."""
        return len(self.features)

    @property
    def width(self) -> int:
        """D."""
        return self.widths[1]

    @property
    def raw_samples(self) -> Sequence[str]:
        """Texts, as the model's encoder is a bag of words."""
        return WORDS

    def forward(self, module: nn.Module, places: Sequence[int]) -> Tensor:
        """Return embeddings."""
        return module(self.features[list(places)])

    def tower(self) -> Tower:
        """Return a tower in which the head is frozen."""
        encoder = CBOW(width=self.widths[0], buckets=64)
        return Tower(encoder=encoder, head=self.config, frozen="all")

    def model(self, *, frozen: bool) -> ModelSpec:
        """Return a model of two bags of words, the head on the first."""
        tower = self.tower().model_copy(update={} if frozen else {"frozen": "none"})
        other = Tower(encoder=Counterpart(width=8, buckets=64), head=Linear())
        towers = {"text": tower, "counterpart": other}
        return ModelSpec(embed_dim=self.width, towers=towers, loss=InfoNCE())


def builds(subject: HeadSubject) -> None:
    """Build returns an nn.Module, or refuses the widths by a SpecError of one line."""
    with same_settings():
        module: Any = subject.module
    if not isinstance(module, nn.Module):
        raise Fault(f"build() returns a {type(module).__name__}", "return a torch.nn.Module")
    for in_dim, out_dim in HEAD_WIDTHS:
        try:
            subject.config.build(in_dim, out_dim)
        except SpecError as error:
            if "\n" in str(error):
                raise Fault("its SpecError tells several lines", "say it in one") from None


HEAD_CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    *row_checks("build"),
    Check("save and load", keeps_its_weights, needs=("eval mode", "round trip")),
)
