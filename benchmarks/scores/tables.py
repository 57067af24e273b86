"""The tables of docs/scores.md, from what ``python -m benchmarks.scores`` has measured."""

from __future__ import annotations

import math
from typing import Any

BY = ("cosine", "standardized")


def tables(found: list[dict[str, Any]]) -> str:
    """Return the calibration error, the precision of results and the rejection."""
    errors, precisions, rejections = [], [], []
    for one in found:
        for seed, each in enumerate(one["seeds"]):
            numbers = f"{each['error']:.3f} | {each['of_perfect']:.3f} | {each['pairs']:,}"
            errors.append(f"| {one['data']} | {seed} | {numbers} |")
            rejections += _rejections(f"{one['data']} | {seed}", each["rejection"])
        for name in dict.fromkeys(name.partition(", ")[2] for name in one["returned"]):
            what, images, asked = name.split(", ")
            shares = " | ".join(_share(one["returned"][f"{by}, {name}"]) for by in BY)
            precisions.append(f"| {one['data']}, {what} | {images} | {asked} | {shares} |")
    share = "returned | right | 95 % interval"
    by_both = "cosine | standardised"
    return "\n\n".join(
        "\n".join([header, "|---" * (header.count("|") - 1) + "|", *rows])
        for header, rows in (
            ("| data | seed | expected calibration error | of a perfect score | pairs |", errors),
            (f"| data | images of a fold | asked | {share} | standardised: {share} |", precisions),
            (
                f"| data | seed | query to target | of 50: {by_both} | of all: {by_both} | "
                f"rejected, of 50: {by_both} |",
                rejections,
            ),
        )
    )


def interval(right: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / of
    centre = (share + z * z / 2 / of) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / 4 / of / of)
    return centre - half, centre + half


def _share(counted: dict[str, int]) -> str:
    right, results = counted["right"], counted["results"]
    if not results:
        return "0 | - | -"
    low, high = interval(right, results)
    return f"{results:,} | {100 * right / results:.1f} % | {100 * low:.1f} to {100 * high:.1f} %"


def _rejections(start: str, measured: dict[str, dict[str, float]]) -> list[str]:
    rows: list[str] = []
    for way in dict.fromkeys(name.partition(" ")[2] for name in measured):
        both = [measured[f"{by} {way}"] for by in BY]
        cells = [f"{each[key]:.3f}" for key in ("area_of_folds", "area") for each in both]
        cells += [f"{each['rejected_of_folds']:.0%}".replace("%", " %") for each in both]
        rows.append(f"| {start} | {way.replace('_', ' ')} | {' | '.join(cells)} |")
    return rows
