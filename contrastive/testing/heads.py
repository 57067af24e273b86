"""Checks of heads: widths, rows, saved weights.

Shapes: B samples, F features, D the embedding's width.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import nn

from contrastive.encoders import CBOW
from contrastive.errors import SpecError
from contrastive.spec import Tower
from contrastive.testing.checks import Check, Fault, expect
from contrastive.testing.modules import build_checked
from contrastive.testing.rows import RowsSubject, keeps_its_weights, row_checks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.heads import Head

HEAD_WIDTHS = ((24, 16), (16, 16), (32, 32), (64, 64))  # F and D; a head may refuse some


@dataclass(frozen=True)
class HeadSubject(RowsSubject):
    """The head under test."""

    config: Head
    in_dim: int | None
    embed_dim: int | None

    noun = "embeddings"

    @cached_property
    def widths(self) -> tuple[int, int]:
        """F and D: the author's, or the first that the head takes."""
        if width := self.in_dim or self.embed_dim:
            return self.in_dim or width, self.embed_dim or width
        for widths in HEAD_WIDTHS:
            with suppress(SpecError):
                self.config.build(*widths)
                return widths
        raise Fault(f"it takes none of the widths {HEAD_WIDTHS}", "say in_dim= and embed_dim=")

    def make(self) -> nn.Module:
        """Build the head."""
        return self.config.build(*self.widths)

    @cached_property
    def samples(self) -> list[Tensor]:
        """Features ``[F]``."""
        generator = torch.Generator().manual_seed(0)
        return [*torch.randn(5, self.widths[0], generator=generator)]

    @property
    def width(self) -> int:
        """D."""
        return self.widths[1]

    def forward(self, module: nn.Module, samples: Sequence[Tensor]) -> Tensor:
        """Return embeddings."""
        return module(torch.stack([*samples]))

    def tower(self) -> Tower:
        """Return a tower in which the head is frozen."""
        encoder = CBOW(width=self.widths[0], buckets=64)
        return Tower(encoder=encoder, head=self.config, frozen="all")


def builds(subject: HeadSubject) -> None:
    """Build returns an nn.Module, or refuses the widths by a SpecError of one line."""
    build_checked(lambda: subject.module, nn.Module)
    for in_dim, out_dim in HEAD_WIDTHS:
        try:
            subject.config.build(in_dim, out_dim)
        except SpecError as error:
            expect("\n" not in str(error), "its SpecError has several lines", "write it in one")


HEAD_CHECKS: tuple[Check, ...] = (
    Check("build", builds),
    *row_checks("build"),
    Check("save and load", keeps_its_weights, needs=("eval mode", "round trip", "batch size")),
)
