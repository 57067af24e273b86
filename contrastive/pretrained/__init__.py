"""Pretrained models as models of ours: the interface, the registry, and what comes built in.

A name ``SOURCE:REST`` is a model that others have published; its source turns the rest into
the spec of that model. Config classes only; torch is imported in ``spec()``.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from contrastive.config.base import Config
from contrastive.config.registry import Registry
from contrastive.errors import SpecError, UnknownComponent

if TYPE_CHECKING:
    from contrastive.spec import ModelSpec

NAME = re.compile(r"([A-Za-z][\w-]+):(.+)", re.DOTALL)  # two letters at least: C:/runs is a folder


class Pretrained(Config):
    """A model that others have published, by its name within one source.

    Example:
        >>> sources["hf"](name="openai/clip-vit-base-patch32").name
        'openai/clip-vit-base-patch32'
    """

    kind: ClassVar[str] = "pretrained source"

    name: str
    """What follows the source and its colon."""

    @abstractmethod
    def spec(self) -> ModelSpec:
        """Return the spec of the model; building it gives the model as it was published.

        Raises:
            MissingExtra: a library that it needs is not installed.
            SpecError: the model is not of a kind that can be loaded so.
            WeightsError: a file is missing; says which and how to supply it.
        """


sources = Registry(
    Pretrained, group="contrastive.pretrained", plugin_hints={"open_clip": "contrastive-openclip"}
)
"""Sources of pretrained models by the prefix of their names: ``hf`` of ``hf:OWNER/NAME``.

Example:
    >>> sources["hf"](name="openai/clip-vit-base-patch32").name
    'openai/clip-vit-base-patch32'
"""


@sources.register("hf")
class HF(Pretrained):
    """A dual model of transformers: whatever embeds images and texts, such as CLIP and SigLIP."""

    name: str = Field(examples=["openai/clip-vit-base-patch32"])
    """`OWNER/NAME` or `OWNER/NAME@REVISION` of the Hugging Face Hub, or a local folder."""

    def spec(self) -> ModelSpec:
        """Return the spec of the model."""
        from contrastive.pretrained.hf import spec_of

        return spec_of(self.name)


def is_pretrained(name: str | Path) -> bool:
    """Return whether a model's name is that of a pretrained one, rather than of a folder.

    Only the name is looked at, not who offers its source: a folder that exists is a folder.
    """
    return bool(NAME.fullmatch(_text(name))) and not Path(name).exists()


def pretrained_spec(name: str | Path) -> ModelSpec:
    """Return the spec of a pretrained model; building it gives the model as it was published.

    Args:
        name: ``hf:OWNER/NAME`` or ``hf:OWNER/NAME@REVISION`` of the Hugging Face Hub, or
            ``hf:FOLDER``; or ``SOURCE:REST`` of a source that a plugin offers.

    Raises:
        UnknownComponent: nothing that is installed offers the source.
        SpecError: the model is not of a kind that can be loaded so.
        WeightsError: a file is missing; says which and how to supply it.

    Example:
        >>> try:
        ...     pretrained_spec("elsewhere:clip")
        ... except ContrastiveError as error:
        ...     print(str(error).partition(";")[0])
        elsewhere:clip: unknown pretrained source 'elsewhere'
    """
    parts = NAME.fullmatch(text := _text(name))
    if not parts:
        msg = f"{text}: a pretrained model's name begins with {' or '.join(sources)} and a colon"
        raise SpecError(msg)
    source, rest = parts.groups()
    try:
        chosen = sources[source]
    except UnknownComponent as error:
        msg = f"{text}: {error}"
        raise UnknownComponent(msg) from None
    return chosen(name=rest).spec()


def _text(name: str | Path) -> str:
    return name if isinstance(name, str) else name.as_posix()
