"""The model of a run, as it trains: on its device, with what saves memory turned on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from contrastive.encoders import ResNet, Timm
from contrastive.errors import SpecError, TrainingError
from contrastive.model.loading import build_model
from contrastive.training.gradient_cache import check_towers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec, TrainingSpec


CONVOLUTIONAL = 4  # convolutions; a vision transformer has one, or a stem of three


def built_for_training(spec: RunSpec, device: torch.device, *, ranks: int = 1) -> ContrastiveModel:
    """Build the model of a run on so many ranks."""
    settings = spec.training
    model = build_model(spec.model).to(device)
    _checkpoint_activations(model, settings.checkpoint_activations)
    check_towers(model, rows=settings.micro_batch, batch_norm=settings.batch_norm, ranks=ranks)
    if takes_channels_last(autocast_dtype(settings, device), device):
        lay_out_convolutions_(model, torch.channels_last)
    return model


def takes_channels_last(dtype: torch.dtype | None, device: torch.device) -> bool:
    """Whether convolutions are faster with channels last: of a GPU's tensor cores, which read so.

    On a CPU in fp32 a ResNet is slower with them.
    """
    return device.type == "cuda" and dtype is not None


def lay_out_convolutions_(model: ContrastiveModel, memory_format: torch.memory_format) -> None:
    """Store the weights of convolutional encoders that train in a memory format.

    Their outputs follow. Frozen encoders stay as they are: their features are cached, and the last
    bits depend on it. Of other packages' networks, some reshape what they take for contiguous.
    """
    for modality in model.towers:
        tower = model.tower(modality)
        if tower.encoder_frozen or not isinstance(tower.spec.encoder, (ResNet, Timm)):
            continue
        convolutions = [m for m in tower.encoder.modules() if isinstance(m, nn.Conv2d)]
        if len(convolutions) >= CONVOLUTIONAL:
            for each in convolutions:
                each.to(memory_format=memory_format)


def _checkpoint_activations(model: ContrastiveModel, towers: Iterable[str]) -> None:
    """Turn on activation checkpointing in the encoders of towers.

    Raises:
        SpecError: an encoder has no layers to checkpoint; names its tower.
    """
    for name in towers:
        try:
            model.tower(name).encoder.checkpoint_activations()
        except SpecError as error:
            msg = f"training.checkpoint_activations: the {name} encoder {error}"
            raise SpecError(msg) from error


DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What towers are autocast to, by precision."""


def autocast_dtype(settings: TrainingSpec, device: torch.device) -> torch.dtype | None:
    """Return what the towers are autocast to, by the spec or by what the hardware has; or None."""
    if settings.precision != "auto":
        return DTYPES[settings.precision]
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        tensor_cores = (7, 0) <= torch.cuda.get_device_capability() < (8, 0)
        return torch.float16 if tensor_cores else None


def precision_name(dtype: torch.dtype | None) -> str:
    """Return the precision that autocasts to a type.

    Example:
        >>> precision_name(torch.float16)
        'fp16'
    """
    return next(name for name, each in DTYPES.items() if each is dtype)


BACKEND = "inductor"  # of torch.compile


@contextmanager
def compiled_towers(
    model: ContrastiveModel, settings: TrainingSpec, live: Iterable[str]
) -> Generator[None]:
    """Within a block, run the encoders of ``live`` towers compiled, if the spec asks for it.

    They are compiled in place, so that no name in a saved model changes.

    Raises:
        TrainingError: one cannot be compiled.
    """
    encoders = [model.tower(name).encoder for name in live if settings.compile == "towers"]
    for encoder in encoders:  # dynamic: kernels do not depend on which sizes came before
        encoder.compile(backend=BACKEND, dynamic=True)
    try:
        yield
    except Exception as error:
        if encoders and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = " ".join(lines[:2])  # who says it, and what
            msg = f"training.compile: an encoder cannot be compiled ({why}); set it to off"
            raise TrainingError(msg) from error
        raise
    finally:
        for encoder in encoders:
            vars(encoder).pop("_compiled_call_impl")  # the model that is returned is a plain one
