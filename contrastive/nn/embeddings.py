"""Embeddings in any form as rows of finite numbers, or one line that says why they are not.

Nothing is ranked or measured by numbers that are not finite: a NaN is never less, so that it would
count as a hit.

Shapes: N rows, D wide.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from contrastive.errors import DataError, a_type
from contrastive.nn.device import widest_float

NOT_FINITE = "its {} not finite; is its content out of range, or do the weights hold NaN?"
"""The problem of a sample whose features or embedding hold a NaN or an infinity."""


def check_finite(rows_ND: Tensor, what: str) -> None:
    """Insist that every number is finite.

    Args:
        rows_ND: embeddings or features.
        what: they are, for the message.

    Raises:
        DataError: some are not; says how many rows, and which is the first.
    """
    finite_N = rows_ND.isfinite().all(-1)
    if finite_N.all():
        return
    odd = (~finite_N).nonzero().flatten()
    many = f"{len(odd)} of {len(rows_ND)} rows"
    msg = (
        f"{what}: {many} are not finite, the first is row {int(odd[0])}; "
        "look for weights of a run that diverged, or for samples out of range"
    )
    raise DataError(msg)


def embedding_sides(device: torch.device | str = "cpu", **sides: Any) -> list[Tensor]:
    """Return embeddings ``[N, D]`` of each side as tensors of one width.

    Args:
        device: where they are to be.
        sides: tensors, arrays or lists of rows; their names are for messages.

    Raises:
        DataError: a side is no matrix of finite numbers, or the widths differ.
    """
    matrices = {name: _matrix(given, name, device) for name, given in sides.items()}
    if len({rows.shape[1] for rows in matrices.values()}) > 1:
        widths = ", ".join(f"{name} {rows.shape[1]}" for name, rows in matrices.items())
        msg = f"embeddings differ in width ({widths}); give those of one model"
        raise DataError(msg)
    return list(matrices.values())


def _matrix(given: Any, name: str, device: torch.device | str) -> Tensor:
    if np.ma.is_masked(given):
        msg = f"{name} is a masked array; fill it or leave rows out, since masks are not looked at"
        raise DataError(msg)
    try:
        rows = given if isinstance(given, Tensor) else torch.tensor(np.ascontiguousarray(given))
    except (TypeError, ValueError, RuntimeError):
        msg = f"{name} is {a_type(given)} that holds no matrix of numbers; give [N, D]"
        raise DataError(msg) from None
    if rows.ndim != 2 or rows.is_complex() or rows.dtype == torch.bool:
        found = (
            f"has shape {tuple(rows.shape)} and {str(rows.dtype).removeprefix('torch.')} numbers"
        )
        msg = f"{name} {found}; give embeddings [N, D], such as model.embed returns"
        raise DataError(msg)
    rows = rows.detach()
    narrow = rows.dtype == torch.float64 and widest_float(device) != torch.float64
    rows = (rows.float() if narrow or not rows.is_floating_point() else rows).to(device)
    check_finite(rows, name)
    return rows
