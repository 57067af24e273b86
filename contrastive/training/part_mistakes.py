"""What a part of somebody else's may do to the gradients of a step, told in one line."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from contrastive.config.provenance import components, described, is_ours
from contrastive.errors import SpecError, TrainingError
from contrastive.losses.module import LossModule

if TYPE_CHECKING:
    from collections.abc import Generator

    import torch

    from contrastive.model.model import ContrastiveModel

SAID = {
    "modified by an inplace operation": "changes a tensor in place that its gradient needs; let "
    "it compute new ones",
    "Inference tensors": "runs in torch.inference_mode, whose tensors have no gradients; let it "
    "not, or use torch.no_grad",
}
"""What torch says, in no code of the part, and what it means."""
SHARDED = "mixed torch.Tensor and DTensor"
"""What torch says where a weight is used while it is in shards."""


@contextmanager
def told_by_part(model: ContrastiveModel) -> Generator[None]:
    """Within a block, name the parts that may have spoiled what a backward pass needs.

    Raises:
        SpecError: one has; or a loss has lost its logit scale.
    """
    try:
        yield
        check_scale(model)
    except AttributeError:
        check_scale(model)
        raise
    except RuntimeError as error:
        _check_whole(model, error)
        what = next((remedy for text, remedy in SAID.items() if text in str(error)), "")
        found = dict.fromkeys(type(part) for part in components(model.spec))
        parts = [described(cls) for cls in found if not is_ours(cls)]
        if not what or not parts:
            raise
        msg = f"{' or '.join(parts)} {what}"
        raise SpecError(msg) from error


def _check_whole(model: ContrastiveModel, error: RuntimeError) -> None:
    """Tell of an encoder that uses a weight where its block has not gathered it.

    Raises:
        SpecError: there is one.
    """
    if SHARDED not in str(error):
        return
    found = [modality for modality in model.towers if not model.tower(modality).encoder_frozen]
    msg = (
        "training.parallel.strategy: fsdp gathers the weights of a block when that is called, and "
        f"the {' or the '.join(found)} encoder uses some elsewhere; set it to ddp"
    )
    raise SpecError(msg) from error


def check_scale(model: ContrastiveModel) -> None:
    """Insist that the loss still has the logit scale that it was built with.

    Raises:
        SpecError: it has not.
    """
    for module in model.loss.modules():
        if isinstance(module, LossModule) and not hasattr(module, "log_scale"):
            msg = (
                f"model.loss: {described(type(model.spec.loss))}: {type(module).__name__} has no "
                "log_scale any more; let it keep the one of build, and change its number in place"
            )
            raise SpecError(msg)


def check_same_weights(model: ContrastiveModel, optimizer: torch.optim.Optimizer) -> None:
    """Insist that the weights of a model are those that its optimizer trains.

    Raises:
        TrainingError: a part has made new ones since, which would not be trained; or lost some.
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    there = dict(model.named_parameters())
    lost = trained - {id(p) for p in there.values()}
    new = [name for name, p in there.items() if p.requires_grad and id(p) not in trained]
    if not (lost or new):
        return
    what = f"{new[0]}{_of(model, new[0])} is new" if new else "a weight is no longer there"
    msg = (
        f"{what} since training began, so that it is not trained; let a part make all its weights "
        "in build, and change their numbers in place"
    )
    raise TrainingError(msg)


def _of(model: ContrastiveModel, name: str) -> str:
    """Return the component that a weight belongs to, in brackets."""
    match name.split("."):
        case ["towers", modality, "encoder", *_]:
            return f" ({described(type(model.spec.towers[modality].encoder))})"
        case ["towers", modality, "head", *_]:
            return f" ({described(type(model.spec.towers[modality].head))})"
        case _:
            return ""
