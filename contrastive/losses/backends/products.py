"""Matrix products whose result is wider than what is multiplied: bf16 in, fp32 out.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.losses.backends.first_derivative_only import first_derivative_only

if TYPE_CHECKING:
    from torch import Tensor


def multiply(x: Tensor, y: Tensor, *, out: Tensor, add: bool = False) -> None:
    """Write ``x @ y`` to ``out``, or add it; ``out`` may be wider.

    A GPU rounds only what it multiplies. On a CPU a product in bf16 is rounded as well, before it
    is added; one in fp16, whose range sums may leave, is made in the type of ``out``.
    """
    wider: dict[str, Any] = {}
    if x.dtype != out.dtype and x.is_cuda:
        wider = {"out_dtype": out.dtype}
    elif x.dtype != out.dtype:
        if x.dtype == torch.bfloat16:
            out.add_(x @ y) if add else out.copy_(x @ y)
            return
        x, y = x.to(out.dtype), y.to(out.dtype)
    if add:
        torch.addmm(out, x, y, out=out, **wider)
    else:
        torch.mm(x, y, out=out, **wider)


def cosines(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``a @ b.T`` ``[N, M]`` in fp32, and its gradients, by products in half precision.

    In fp16 the gradients are products in fp32: they are smaller than its smallest number.
    """
    return cast("Tensor", _Cosines.apply(a, b, dtype))


class _Cosines(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.dtypes = a.dtype, b.dtype
        a, b = a.to(dtype), b.to(dtype)
        ctx.save_for_backward(a, b)
        out_NM = a.new_empty(len(a), len(b), dtype=torch.float32)
        multiply(a, b.T, out=out_NM)
        return out_NM

    @staticmethod
    @first_derivative_only
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outer: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        a, b = ctx.saved_tensors
        wide = torch.float32 if a.dtype == torch.float16 else a.dtype
        g_NM, a, b = (x.to(wide) for x in (*outer, a, b))
        a_grad, b_grad = (torch.empty_like(x, dtype=torch.float32) for x in (a, b))
        multiply(g_NM, b, out=a_grad)
        multiply(g_NM.T, a, out=b_grad)
        return a_grad.to(ctx.dtypes[0]), b_grad.to(ctx.dtypes[1]), None
