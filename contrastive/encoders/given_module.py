"""An ``nn.Module`` of your own as an encoder, without a config class or a plugin.

Shapes: B samples, D the model's shared width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from contrastive.config.base import Config
from contrastive.data.sample_lists import sample_list
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import SpecError, a_type

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
            SpecError: it is no tensor ``[B, D]`` of floating-point numbers.
        """
        alone = inputs.keys() == {ONLY_INPUT}
        features: Any = self.module(inputs[ONLY_INPUT]) if alone else self.module(**inputs)
        floats = isinstance(features, Tensor) and features.is_floating_point()
        if not floats or features.shape[1:] != (self.out_dim,):
            dtype = getattr(features, "dtype", type(features).__name__)
            what = f"shape {tuple(features.shape)}" if floats else dtype
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
        """Return the keyword arguments of ``forward``.

        Raises:
            SpecError: it returns something else than tensors.
        """
        samples = sample_list(samples, self.modality, least=1)
        found: Any = self.preprocess(samples)
        alone = not isinstance(found, Mapping)
        inputs: dict[str, Any] = {ONLY_INPUT: found} if alone else dict(cast("Any", found))
        for name, tensor in inputs.items():
            if not isinstance(tensor, Tensor):
                what = type(tensor).__name__ + ("" if alone else f" as {name}")
                msg = (
                    f"towers.{self.modality}: preprocess returns {what}; return a tensor, or a "
                    "dict of tensors"
                )
                raise SpecError(msg)
        if isinstance(found, Tensor) and found.shape[:1] != (len(samples),):
            msg = (
                f"towers.{self.modality}: preprocess returns the shape {tuple(found.shape)} for "
                f"{len(samples)} samples; return a row for each"
            )
            raise SpecError(msg)
        return inputs


class Given(Encoder):
    """Stands in a spec for a module that was given, which no spec can rebuild."""

    name: str
    """Its modality."""
    module: str
    """Its class."""

    @property
    def modality(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What it encodes."""
        return self.name

    def build(self) -> EncoderModule:
        """Refuse.

        Raises:
            SpecError: always; says how to come by the model.
        """
        msg = (
            f"this {self.module} was given to from_modules, so no spec can rebuild it; call "
            "from_modules again, or give it a config class (docs/write_a_plugin.md)"
        )
        raise SpecError(msg)


def check_given(modules: object, preprocess: object) -> None:
    """Insist on a module and a preprocess for each name.

    Raises:
        SpecError: names the first that has none, or something else.
    """
    for what, given in {"modules": modules, "preprocess": preprocess}.items():
        if not isinstance(given, Mapping):
            msg = f"from_modules: {what} is {_shown(given)}; give a dict by modality"
            raise SpecError(msg)
    each = cast("Mapping[Any, Any]", modules), cast("Mapping[Any, Any]", preprocess)
    for name in {**each[0], **each[1]}:
        if not isinstance(name, str):
            msg = f"from_modules: {name!r} names no modality; give a text, such as 'image'"
            raise SpecError(msg)
        if not all(name in given for given in each):
            msg = f"from_modules: {name} has a module or a preprocess, but not both; give both"
            raise SpecError(msg)
        module, function = (given[name] for given in each)
        if not isinstance(module, nn.Module):
            msg = f"from_modules: the module of {name} is {_shown(module)}; give an nn.Module"
            raise SpecError(msg)
        if not _is_function(function):
            msg = f"from_modules: the preprocess of {name} is {_shown(function)}; give a function"
            raise SpecError(msg)


def _is_function(value: Any) -> bool:
    if isinstance(value, type):
        return not issubclass(value, nn.Module)
    return callable(value) and not isinstance(value, Config)


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else a_type(value)
