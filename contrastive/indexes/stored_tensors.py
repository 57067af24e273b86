"""Tensors of a structure's file, which may be anybody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor


def checked(
    tensors: dict[str, Tensor], name: str, dtype: torch.dtype, shape: Sequence[int | None]
) -> Tensor:
    """Return one of the tensors; None stands for any number.

    Raises:
        DataError: it is not there, or another.
    """
    found = tensors.get(name)
    fits = found is not None and found.dtype == dtype and found.ndim == len(shape)
    if (
        found is None
        or not fits
        or any(wanted not in (None, size) for wanted, size in zip(shape, found.shape, strict=True))
    ):
        sizes = ", ".join("any" if size is None else str(size) for size in shape)
        msg = f"no tensor {name!r} of {dtype} and [{sizes}]"
        raise DataError(msg)
    return found
