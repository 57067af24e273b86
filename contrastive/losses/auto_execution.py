"""Which execution ``auto`` is, and in which type embeddings are multiplied.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from contrastive.losses.backends.base import accumulation_dtype
from contrastive.losses.backends.triton.tiles import WIDEST

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.global_batch import PairShards
    from contrastive.losses import Execution, MatmulDtype

Chosen = Literal["eager", "chunked", "fused"]
HAS_TRITON = importlib.util.find_spec("triton") is not None
# pairs; below, all logits are small and one product is faster than two passes. The number for a GPU
# is predicted: each launch costs its host as much as some 10**6 pairs
LARGE = {"cpu": 2**20, "cuda": 2**25}


def choose(
    execution: Execution,
    n: int,
    m: int,
    dim: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    matmul_dtype: MatmulDtype = "auto",
    fused: bool = True,
) -> Chosen:
    """Return what ``auto`` is for a global batch of N x M pairs of width ``dim``.

    ``eager`` for less than ``LARGE`` pairs. Beyond, ``fused`` on a GPU for products in bf16 or
    fp16, which is what its tensor cores are for, and ``chunked`` for all else. ``fused`` says
    whether the loss can be.
    """
    if execution != "auto":
        return execution
    where = torch.device(device)
    if n * m < LARGE.get(where.type, LARGE["cuda"]):
        return "eager"
    fits = fused and where.type == "cuda" and dim <= WIDEST and HAS_TRITON
    return "fused" if fits and reduced_dtype(dtype, matmul_dtype, where) else "chunked"


def choose_for(
    execution: Execution,
    a: Tensor,
    b: Tensor,
    *,
    matmul_dtype: MatmulDtype,
    shards: PairShards | None,
    sizes: tuple[int, int] | None = None,
    fused: bool = True,
) -> Chosen:
    """Return ``choose`` for embeddings of this rank ``[n, D]`` and ``[m, D]``.

    ``sizes`` are the numbers of anchors and of candidates; those of all rows if None.

    Raises:
        ValueError: a transform of ``torch.func`` asks for what is not ``eager``.
    """
    how = choose(
        execution,
        *(global_sizes(a, b, shards) if sizes is None else sizes),
        a.shape[1],
        dtype=common_dtype(a, b),
        device=a.device,
        matmul_dtype=matmul_dtype,
        fused=fused,
    )
    transforms = not torch.compiler.is_compiling() and cast("Any", torch)._C
    if how != "eager" and transforms and transforms._are_functorch_transforms_active():
        msg = f"transforms of torch.func take no loss by execution {how}; take execution eager"
        raise ValueError(msg)
    return how


def global_sizes(a: Tensor, b: Tensor, shards: PairShards | None) -> tuple[int, int]:
    """Return how many rows the global batch has of a, and of b."""
    return (len(a), len(b)) if shards is None else (shards.rows.total, shards.columns.total)


def multiplied_in(matmul_dtype: MatmulDtype, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return what ``auto`` is: bf16 on a GPU under autocast in bf16, else fp32."""
    if matmul_dtype != "auto":
        return matmul_dtype
    kind = device.type
    cast = kind == "cuda" and torch.is_autocast_enabled(kind)
    return "bf16" if cast and torch.get_autocast_dtype(kind) == torch.bfloat16 else "fp32"


def check_precision(dtype: torch.dtype, matmul_dtype: MatmulDtype, device: torch.device) -> None:
    """Warn where products that are asked for in fp32 are made in TF32."""
    if device.type != "cuda" or torch.get_float32_matmul_precision() == "highest":
        return
    if dtype == torch.float32 and multiplied_in(matmul_dtype, device) == "fp32":
        msg = (
            "the loss multiplies fp32 embeddings in TF32, which torch.set_float32_matmul_precision "
            "has allowed: at a scale of 100 a logit is off by about 0.003; set "
            '"highest", or take matmul_dtype bf16, which is faster'
        )
        warnings.warn(msg, stacklevel=5)


def described(how: Chosen, matmul_dtype: MatmulDtype, device: torch.device) -> str:
    """Return an execution for the log, with the type of its products if that is not fp32."""
    found = multiplied_in(matmul_dtype, device)
    plain = found == "fp32" or (how == "eager" and device.type == "cpu")
    return how if plain else f"{how}, products in {found}"


def common_dtype(a: Tensor, b: Tensor) -> torch.dtype:
    """Return the dtype of both, or that of sums where they differ."""
    return a.dtype if a.dtype == b.dtype else accumulation_dtype(a, b)


def in_common_dtype(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in ``common_dtype``, so that what one side adds up alone is as exact."""
    dtype = common_dtype(a, b)
    return a.to(dtype), b.to(dtype)


def reduced_dtype(
    dtype: torch.dtype, matmul_dtype: MatmulDtype, device: torch.device
) -> torch.dtype | None:
    """Return the type of products in bf16 or fp16, or None for wider ones."""
    if dtype.itemsize < 4:
        return dtype
    bf16 = multiplied_in(matmul_dtype, device) == "bf16"
    return torch.bfloat16 if bf16 and dtype == torch.float32 else None
