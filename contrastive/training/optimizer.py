"""The learning rate of each parameter: the run's rate, times what its name and its depth say.

Layer-wise decay is that of Clark et al. 2020, "ELECTRA", arXiv:2003.10555, and of BEiT: with L
layers, what is in layer l (1 to L) has ``decay ** (L - l + 1)``, what comes before them
``decay ** (L + 1)``, and what comes after them the whole rate.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from contrastive.errors import SpecError, TrainingError
from contrastive.nn.layer_stack import depths, layers
from contrastive.nn.name_patterns import matching
from contrastive.nn.sharded_tensors import by_kind, is_sharded, total_norm

CLIP_EPS = 1e-6  # torch adds it to a norm
FUSED = {"cpu", "cuda", "mps", "xpu"}
"""Devices on which AdamW updates all weights in one pass."""
LEAVES_OUT = {"cpu", "cuda", "xpu"}
"""Those whose kernel reads ``found_inf``; that of MPS takes it and updates all the same."""

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec


def optimizer_of(model: ContrastiveModel, settings: TrainingSpec) -> torch.optim.AdamW:
    """AdamW; only matrices decay: not biases, norms, the temperature or the bias of the loss.

    Each group remembers its rate at the peak, for ``set_rates``.

    Raises:
        TrainingError: nothing trains.
        SpecError: a factor is for something that does not train, or a tower has no layers.
    """
    factors = rate_factors(model, settings)
    if not factors:
        msg = "everything is frozen, the temperature too: there is nothing to train"
        raise TrainingError(msg)
    alike: defaultdict[tuple[float, bool, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if name in factors:
            kind = parameter.ndim >= 2, is_sharded(parameter)
            alike[factors[name], *kind].append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
            "peak": settings.lr * factor,
        }
        for (factor, is_matrix, _), parameters in sorted(
            alike.items(), key=lambda g: g[0], reverse=True
        )
    ]
    real = all(p.is_floating_point() for group in groups for p in group["params"])
    fused = (model.device.type in FUSED and real) or None
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98), eps=1e-6, fused=fused)


def takes_one_pass(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimizer updates all weights in one pass."""
    return bool(optimizer.param_groups[0]["fused"])


def leaves_out_itself(optimizer: torch.optim.Optimizer, device: torch.device) -> bool:
    """Return whether a device leaves out an update for which ``found_inf`` is 1."""
    return takes_one_pass(optimizer) and device.type in LEAVES_OUT


def set_rates(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set each group to a share of its peak; return the largest rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
    return max(group["lr"] for group in optimizer.param_groups)


def clip_gradients_(parameters: Sequence[nn.Parameter], most: float | None) -> Tensor:
    """Return the norm of all gradients as one vector; scale them such that it is at most ``most``.

    On a CPU, which need not wait to know it, gradients that are short enough stay untouched.
    """
    norm = total_norm(p.grad for p in parameters if p.grad is not None)
    if most is not None and (norm.device.type != "cpu" or not norm + CLIP_EPS <= most):
        for kind in by_kind(parameters):
            nn.utils.clip_grads_with_norm_(kind, most, norm)
    return norm


def describe(model: ContrastiveModel, settings: TrainingSpec) -> str:
    """Return the peak rates of each part of the model, smallest to largest, in one line."""
    rates: defaultdict[str, set[float]] = defaultdict(set)
    for name, factor in rate_factors(model, settings).items():
        part = ".".join(name.split(".")[1:3]) if name.startswith("towers.") else name.split(".")[0]
        rates[part].add(settings.lr * factor)
    spans = {part: dict.fromkeys((min(of_it), max(of_it))) for part, of_it in rates.items()}
    return ", ".join(f"{p} {' to '.join(f'{r:.2g}' for r in span)}" for p, span in spans.items())


def rate_factors(model: ContrastiveModel, settings: TrainingSpec) -> dict[str, float]:
    """Return what the rate of each parameter that trains is multiplied by, by its name.

    Raises:
        SpecError: a pattern matches nothing that trains, or a tower has no layers.
    """
    factors = {name: 1.0 for name, p in model.named_parameters() if p.requires_grad}
    for modality, decay in settings.layer_decay.items():
        encoder = model.tower(modality).encoder
        if not (found := depths(encoder)):
            msg = (
                f"training.layer_decay: the {modality} encoder has no stack of layers; "
                "use training.lr_factors"
            )
            raise SpecError(msg)
        after = len(layers(encoder)) + 1
        for name, depth in found.items():
            full = f"towers.{modality}.encoder.{name}"
            if full in factors:
                factors[full] *= decay ** (after - depth)
    for pattern, factor in settings.lr_factors.items():
        who, what = "training.lr_factors", "parameter that trains"
        for name in matching([pattern], list(factors), who=who, what=what):
            factors[name] *= factor
    return factors
