"""The backward pass of a loss that has a first derivative only, and says so."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Backward = Callable[..., tuple[Tensor | None, ...]]


def first_derivative_only(backward: Backward) -> Backward:
    """Refuse the derivative of a gradient, which torch alone takes for a constant, in silence."""
    first = cast("Backward", once_differentiable(backward))

    @wraps(backward)
    def call(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        found = first(ctx, *outer)
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # create_graph asks for it
            return found
        return tuple(
            None
            if x is None
            else cast("Tensor", _Refused.apply(x.detach().requires_grad_(), *ctx.saved_tensors))
            for x in found
        )

    return call


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, *of: Tensor) -> Tensor:
        del ctx, of  # what it is a function of is in the graph
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, outer
        msg = "executions chunked and fused have no second derivative; take execution eager"
        raise RuntimeError(msg)
