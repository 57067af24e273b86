"""Encoders, one of which holds another, and a head with two names."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from contrastive.encoders import Encoder
from contrastive.heads import Head


class GoodImage(Encoder):
    """Looks at images."""

    modality: ClassVar[str] = "image"

    size: Literal["s", "b"] = "b"
    """How many parameters: small or base."""

    def build(self) -> Any:
        raise NotImplementedError


class GoodText(Encoder):
    """Reads."""

    modality: ClassVar[str] = "text"

    name: str
    """Whose weights."""

    def build(self) -> Any:
        raise NotImplementedError


class Wrapper(Encoder):
    """An encoder around another."""

    modality: ClassVar[str] = "image"

    base: Encoder
    """The one inside."""

    def build(self) -> Any:
        raise NotImplementedError


class Bottle(Head):
    """A narrow head, under two names."""

    neck: Annotated[int, Field(gt=0, alias="lambda")] = 4
    """Width inside; ``lambda`` in a spec, which is no name in Python."""

    def build(self, in_dim: int, out_dim: int) -> Any:
        raise NotImplementedError
