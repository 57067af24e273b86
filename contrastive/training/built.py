"""The model of a run, as it trains: on its device, with what saves memory turned on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from contrastive.errors import SpecError, TrainingError
from contrastive.model.loading import build_model
from contrastive.training.gradient_cache import check_towers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec, TrainingSpec


def built_for_training(spec: RunSpec, device: torch.device, *, ranks: int = 1) -> ContrastiveModel:
    """Build the model of a run on so many ranks."""
    settings = spec.training
    model = build_model(spec.model).to(device)
    _checkpoint_activations(model, settings.checkpoint_activations)
    check_towers(model, rows=settings.micro_batch, batch_norm=settings.batch_norm, ranks=ranks)
    return model


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
