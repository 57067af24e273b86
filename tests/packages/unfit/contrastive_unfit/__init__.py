"""Things that can be imported and still are no encoders; the last is one without a schema."""

from collections.abc import Callable
from typing import Any, ClassVar

from contrastive.encoders import Encoder
from contrastive.heads import Head


class AHead(Head):
    def build(self, in_dim: int, out_dim: int) -> Any:
        raise NotImplementedError


def a_function() -> None: ...


class Unfinished(Encoder):
    modality: ClassVar[str] = "image"


class NoModality(Encoder):
    def build(self) -> Any:
        raise NotImplementedError


class OwnType(NoModality):
    modality: ClassVar[str] = "image"
    type: str = "own"


class NoSchema(NoModality):
    modality: ClassVar[str] = "image"
    activation: Callable[[float], float] = abs
