"""What ``classify`` and ``answer`` found, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.inference.zero_shot import JudgedClasses


def class_results(
    images: Sequence[Path], names: Sequence[str], judged: JudgedClasses, *, chosen: bool
) -> list[dict[str, Any]]:
    """Return the probabilities of the names for each image.

    ``calibrated`` are those of each name by itself, if the model is calibrated; ``chosen``, if that
    is asked for, are the names that reach the precision: none of these, where it is empty.
    """
    results: list[dict[str, Any]] = [
        {"image": str(image), "probabilities": dict(zip(names, row, strict=True))}
        for image, row in zip(
            images, cast("list[list[float]]", judged.among_NC.tolist()), strict=True
        )
    ]
    own = judged.own_NC
    for n, result in enumerate(results):
        if own is not None:
            result["calibrated"] = dict(
                zip(names, cast("list[float]", own[n].tolist()), strict=True)
            )
        if chosen:
            kept = cast("list[bool]", judged.is_kept_NC[n].tolist())
            result["chosen"] = [name for name, is_kept in zip(names, kept, strict=True) if is_kept]
    return results
