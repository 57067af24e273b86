"""BatchNorm by the statistics of the global batch, of which each rank has some rows.

The forward pass gathers mean, sum of squared deviations and count of each rank, 2 C + 1 numbers;
the backward pass all-reduces two sums, 2 C numbers. On a GPU it is torch's ``SyncBatchNorm``, which
a CPU has not.

Shapes: C channels; x ``[n, C, ...]``, n rows of this rank.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]
from torch.overrides import TorchFunctionMode

from contrastive.distributed.collectives import all_gather, all_reduce

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def global_batch_norm(module: nn.Module, ranks: int) -> Generator[None]:
    """Within the block, BatchNorm in training mode takes the statistics of all ranks' rows.

    Running statistics are updated by them too, and so are the same on all ranks.

    Args:
        module: whose BatchNorm is meant, subclasses such as timm's included.
        ranks: the world size; for one nothing changes.
    """
    norms = [x for x in module.modules() if isinstance(x, _BatchNorm)] if ranks > 1 else []
    own = [norm for norm in norms if not isinstance(norm, nn.SyncBatchNorm)]
    for norm in own:
        vars(norm)["forward"] = _over_all_rows(norm, norm.forward)
    try:
        yield
    finally:
        for norm in own:
            vars(norm).pop("forward")


def _over_all_rows(norm: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    @torch.compiler.disable  # it traces no mode of torch functions
    def call(*args: Any, **kwargs: Any) -> Any:
        if not norm.training:
            return forward(*args, **kwargs)
        with _GlobalStatistics():
            return forward(*args, **kwargs)

    return call


class _GlobalStatistics(TorchFunctionMode):
    """Replaces ``functional.batch_norm``, whatever a module does around it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        if func is torch.nn.functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,  # names and order are torch's
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return what torch's function of this name returns for the rows of all ranks."""
    if not training:
        return nn.functional.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    if input.device.type == "cuda":
        sync = nn.SyncBatchNorm(input.shape[1], eps, momentum, affine=weight is not None)
        given = {"weight": weight, "bias": bias}
        given |= {"running_mean": running_mean, "running_var": running_var}
        there = {name: x for name, x in given.items() if x is not None}
        return cast("Any", torch.func.functional_call)(sync.to(input.device), there, (input,))
    found = cast("Any", _BatchNormOfAllRanks).apply(input, weight, bias, eps)
    y, mean_C, var_C = cast("tuple[Tensor, Tensor, Tensor]", found)
    with torch.no_grad():
        for running, new_C in ((running_mean, mean_C), (running_var, var_C)):
            if running is not None:
                running.lerp_(new_C.to(running.dtype), momentum)
    return y


class _BatchNormOfAllRanks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        x_nC, channels = x.to(wide), x.shape[1]
        rows = [dim for dim in range(x.ndim) if dim != 1]
        var_C, mean_C = torch.var_mean(x_nC, rows, correction=0)
        count = x.numel() // channels
        own = torch.cat([mean_C, var_C * count, mean_C.new_tensor([count])]).double()
        of_all = own.new_empty(torch.distributed.get_world_size() * len(own))
        all_gather(of_all, own, None)
        of_all = of_all.view(-1, len(own))
        mean_WC, squares_WC = of_all[:, :channels], of_all[:, channels : 2 * channels]
        count_W1 = of_all[:, -1:]
        total = count_W1.sum()
        mean_C = (mean_WC * count_W1).sum(0) / total
        squares_C = (squares_WC + count_W1 * (mean_WC - mean_C).square()).sum(0)
        unit_nC = (x_nC - _per_channel(mean_C, x_nC)) * _per_channel(
            (squares_C / total + eps).rsqrt(), x_nC
        )
        y = unit_nC if weight is None else unit_nC * _per_channel(weight, x_nC)
        y = y if bias is None else y + _per_channel(bias, x_nC)
        deviation_C = (squares_C / total + eps).sqrt()
        ctx.save_for_backward(unit_nC, weight, deviation_C, total)
        ctx.rows, ctx.has_bias = rows, bias is not None
        unbiased_C = squares_C / (total - 1).clamp(min=1)
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        return y.to(x.dtype), mean_C, unbiased_C

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor | None, ...]:
        unit_nC, weight, deviation_C, total = ctx.saved_tensors
        grad_nC = outer[0].to(unit_nC.dtype)
        bias_C, weight_C = grad_nC.sum(ctx.rows), (grad_nC * unit_nC).sum(ctx.rows)
        means_2C = torch.cat([bias_C, weight_C]).double()  # gradients are W times a rank's share
        all_reduce(means_2C)
        mean_C, along_C = (means_2C / total).split(len(bias_C))
        scale_C = (1 if weight is None else weight.double()) / deviation_C
        x_grad = grad_nC - _per_channel(mean_C, unit_nC) - unit_nC * _per_channel(along_C, unit_nC)
        x_grad = (x_grad * _per_channel(scale_C, unit_nC)).to(outer[0].dtype)
        return (
            x_grad,
            None if weight is None else weight_C.to(weight.dtype),
            bias_C.to(unit_nC.dtype) if ctx.has_bias else None,
            None,
        )


def _per_channel(x_C: Tensor, like: Tensor) -> Tensor:
    """Return numbers of channels such that they broadcast over ``[n, C, ...]``, in its type."""
    return x_C.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))
