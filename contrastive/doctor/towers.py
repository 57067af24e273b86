"""Checks of the towers: gradients that do not arrive, embeddings that have collapsed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from contrastive.doctor.run_record import NO_PROGRESS, TARGETS, Finding, RunLog, above_chance

AS_ONE = 0.95
"""Mean cosine above which embeddings are nearly one point."""
ONE = 1e-6
"""What rounding leaves of a number that is 1 by definition, or of its logarithm."""
ALIKE = 1e-4
"""1 - mean cosine at the start below which samples may be all the same."""

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


def no_gradient(log: RunLog) -> Iterator[Finding]:
    """A part that is trained, but that the loss does not reach."""
    noted = [line["gradients"] for line in log.lines if "gradients" in line]
    if not noted or len(log.steps) < 5:  # a layer that begins with zeros has passed by then
        return
    for part in noted[-1]:
        values = [norms.get(part, 0.0) for norms in noted]
        if not any(values) and any(noted[-1].values()):  # else the loss itself is flat
            modality, _, kind = part.partition(".")
            yield Finding(
                "no-gradient",
                f"the {kind} of the {modality} tower is not frozen, yet its gradient is 0",
                "look for no_grad, detach or numpy in its forward pass, or set "
                f"model.towers.{modality}.frozen to {'encoder' if kind == 'encoder' else 'all'}",
                {"part": part, "gradients": dict(noted[-1])},
            )


def zero_embeddings(log: RunLog) -> Iterator[Finding]:
    """Embeddings that are all 0, which have no direction; one measurement tells."""
    last = log.measured[-1].get("geometry", {}) if log.measured else log.start
    zero = {m: g for m, g in last.items() if _is_zero(g)}
    if zero:
        yield Finding(
            "zero-embeddings",
            f"all {_and(zero)} embeddings are 0",
            f"look for what makes them so in the head of the {_and(zero)} tower or behind it: "
            "weights that begin at 0, a ReLU at the end, a mask",
            zero,
        )


def same_at_start(geometry: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which embeddings are all the same before the first step; nothing if none are."""
    same = [m for m, g in geometry.items() if not _is_zero(g) and 1 - g["mean_cosine"] < ONE]
    if not same:
        return ""
    return (
        f"all {_and(same)} embeddings are the same before the first step; see that {_and(same)} "
        "samples differ when they reach the model and its head"
    )


def _is_zero(g: Mapping[str, Any]) -> bool:
    """Whether embeddings are 0: no other ones have these cosines without a direction."""
    return g["mean_cosine"] == 0 and g["effective_rank"] < 1 + ONE


def collapsed(log: RunLog) -> Iterator[Finding]:
    """Embeddings of a modality that are one point, and which of them is the reason."""
    points = {m: g for m, g in _last_geometry(log).items() if _is_point(m, g, log)}
    if not points:
        return
    first = {m: log.start[m]["mean_cosine"] for m in points if m in log.start}
    cosines = ", ".join(f"{g['mean_cosine']:.3f}" for g in points.values())
    began = ", ".join(f"{cosine:.3f}" for cosine in first.values())
    why, remedy = _cause(points, log)
    yield Finding(
        "collapsed",
        f"all {_and(points)} embeddings are nearly one point (mean cosine {cosines}"
        f"{f'; {began} before the first step' if began else ''}){why}",
        remedy,
        points | ({"start": first} if first else {}),
    )


def _cause(points: Mapping[str, Mapping[str, Any]], log: RunLog) -> tuple[str, str]:
    """Return why embeddings are one point, as far as that is known, and what to do.

    One tower that gives a point draws the others after it, and so does a learning rate.
    """
    if differing := [m for m, g in points.items() if _modes_differ(g, log)]:
        return _because_modes_differ(differing, log)
    spread = {m: 1 - log.start[m]["mean_cosine"] for m in points if m in log.start}
    alike = [m for m, spread_of_it in spread.items() if spread_of_it < ALIKE]
    if alike or not spread:
        which = _and(alike or points)
        return "", (
            f"see that {which} samples differ when they reach the model and its head; if they do, "
            "try another training.lr"
        )
    if any(1 - points[m]["mean_cosine"] < 0.5 * spread[m] for m in spread):
        return "", "lower training.lr"
    return (
        ", and have not moved from where they began",
        "train for more epochs or raise training.lr",
    )


def _modes_differ(g: Mapping[str, Any], log: RunLog) -> bool:
    """Whether training had other embeddings than this point: its loss is too low for it.

    The mean over i of s (x_i - mean x) . y_i is at most s sqrt(1 - c), if c is the mean cosine of
    x; so no loss of such x is below ln B - s sqrt(1 - c), as a log-sum-exp is convex.
    """
    loss, scale = log.recent("loss"), log.recent("log_scale")
    if not (log.is_infonce and log.enough and log.batch) or loss is None or scale is None:
        return False
    least = log.uniform_loss - math.exp(scale) * math.sqrt(max(0.0, 1 - g["mean_cosine"]))
    return g["mean_cosine"] > AS_ONE and loss < NO_PROGRESS * least


def _because_modes_differ(modalities: list[str], log: RunLog) -> tuple[str, str]:
    towers = f"{_and(modalities)} tower{'s' if len(modalities) > 1 else ''}"
    why = f", but the training loss is {log.recent('loss'):.2f}, which such embeddings cannot have"
    momenta = [log.run.get("batch_norm", {}).get(modality) for modality in modalities]
    if lagging := [momentum for momentum in momenta if momentum]:
        least = min(lagging)
        return (
            f"{why}: the running statistics of BatchNorm, which evaluation uses, lag behind "
            f"(momentum {least:g})",
            f"train for {5 / least:.0f} steps or more, or give the BatchNorm of the {towers} a "
            "higher momentum",
        )
    return (
        f"{why}: the {towers} does something else in evaluation than in training",
        f"see that held-out {_and(modalities)} samples differ; if they do, look for what depends "
        "on the mode or the batch",
    )


def low_rank(log: RunLog) -> Iterator[Finding]:
    """Embeddings that span few directions: dimensional collapse (arXiv:2110.09348)."""
    room = {
        m: min(log.run.get("embed_dim", g["samples"]), g["samples"] - 1)
        for m, g in _last_geometry(log).items()
        if not _is_point(m, g, log)
    }
    # towers that retrieve use a fifth or more of what they could; a tenth is a bottleneck
    flat = {m: g for m, g in _last_geometry(log).items() if m in room and _is_flat(g, room[m])}
    for remedy in dict.fromkeys(_against_low_rank(m, room[m], log) for m in flat):
        these = {m: g for m, g in flat.items() if _against_low_rank(m, room[m], log) == remedy}
        ranks = ", ".join(f"{g['effective_rank']:.1f} of {room[m]}" for m, g in these.items())
        first = {m: log.start[m]["effective_rank"] for m in these if m in log.start}
        began = ", ".join(f"{rank:.1f}" for rank in first.values())
        yield Finding(
            "low-rank",
            f"{_and(these)} embeddings differ in few directions (effective rank {ranks}"
            f"{f'; {began} before the first step' if began else ''}), a dimensional collapse",
            remedy.format(_and(these)),
            these | ({"start": first} if first else {}),
        )


def _against_low_rank(modality: str, room: int, log: RunLog) -> str:
    start = log.start.get(modality)
    if start is None:
        how = "try another training.lr or larger batches"
    elif _is_flat(start, min(room, start["samples"] - 1)):
        how = "train for more epochs or raise training.lr"
    else:
        how = "lower training.lr or use larger batches"
    return f"look for a bottleneck in the {{}} tower; if there is none, {how}"


def _is_flat(g: Mapping[str, Any], room: int) -> bool:
    return g["effective_rank"] < max(2.5, 0.1 * room)


def _and(names: Iterable[str]) -> str:
    return " and ".join(names)


def _last_geometry(log: RunLog) -> dict[str, Mapping[str, Any]]:
    """Return how the embeddings of each modality lay last, if that can be judged."""
    if not log.enough or not log.measured:
        return {}
    geometry: dict[str, Mapping[str, Any]] = log.measured[-1].get("geometry", {})
    return {modality: g for modality, g in geometry.items() if g["samples"] >= TARGETS}


def _is_point(modality: str, g: Mapping[str, Any], log: RunLog) -> bool:
    """Whether embeddings are one point, more or less, and stay one.

    Features of pretrained encoders may begin at a mean cosine of 0.99, and models survive that
    where the temperature is low; so recall or loss has to be that of guessing, and the point must
    not be dissolving.
    """
    if _modes_differ(g, log):
        return True
    loss = log.recent("loss") if log.is_infonce and log.batch else None
    guessing = loss is not None and loss > NO_PROGRESS * log.uniform_loss
    if above_chance(log.measured[-1]) and not guessing:
        return False
    first = log.start.get(modality) or log.measured[0].get("geometry", {}).get(modality, g)
    dissolving = 1 - g["mean_cosine"] > 1.2 * (1 - first["mean_cosine"])
    return g["mean_cosine"] > AS_ONE and not dissolving
