"""An ``nn.Module`` of your own as an encoder, without a config class or a plugin.

Shapes: B samples, D the model's shared width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field
from torch import Tensor, nn

from contrastive.data.raw_samples import sample_list
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ONLY_INPUT = "x"  # what a single tensor of a preprocess is called


class GivenModule(EncoderModule):
    """A module of your own that returns ``[B, D]``."""

    def __init__(
        self, module: nn.Module, preprocess: Callable[[Sequence[Any]], Any], modality: str, dim: int
    ) -> None:
        """Hold the module."""
        super().__init__()
        self.module = module
        self.modality = modality
        self.out_dim = dim
        self.preprocess = NamedInputs(preprocess, modality)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return what the module returns.

        Raises:
            SpecError: it is not ``[B, D]``.
        """
        alone = inputs.keys() == {ONLY_INPUT}
        features: Any = self.module(inputs[ONLY_INPUT]) if alone else self.module(**inputs)
        shape = tuple(getattr(features, "shape", ()))
        if shape[1:] != (self.out_dim,):
            what = f"shape {shape}" if shape else type(features).__name__
            msg = (
                f"towers.{self.modality}: the module returns {what}, not [B, {self.out_dim}]; set "
                "embed_dim to its width, or add a projection"
            )
            raise SpecError(msg)
        return features


@dataclass(frozen=True)
class NamedInputs:
    """A preprocess that may return one tensor instead of a dict."""

    preprocess: Callable[[Sequence[Any]], Any]
    modality: str

    def __call__(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the keyword arguments of ``forward``."""
        inputs = self.preprocess(sample_list(samples, self.modality, least=1))
        return {ONLY_INPUT: inputs} if isinstance(inputs, Tensor) else inputs


class Given(Encoder):
    """A module of your own as a part of a spec, which no file can hold."""

    module: Any = Field(exclude=True, repr=False)
    """The ``GivenModule``, ready to use."""

    @property
    def modality(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What it encodes."""
        return self.module.modality

    def build(self) -> EncoderModule:
        """Return the module."""
        return self.module


def given_encoder(
    module: nn.Module, preprocess: Callable[[Sequence[Any]], Any], modality: str, dim: int
) -> Encoder:
    """Return the config of a module that is there already.

    Raises:
        SpecError: the module is none, or the preprocess is no function.
    """
    if not isinstance(cast("object", module), nn.Module):
        what = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
        msg = f"from_modules: {modality} is {what}; give an nn.Module, such as {modality}=net"
        raise SpecError(msg)
    if not callable(preprocess):
        msg = f"from_modules: preprocess[{modality!r}] is {type(preprocess).__name__}, no function"
        raise SpecError(msg)
    return Given(module=GivenModule(module, preprocess, modality, dim))
