"""Checks of learning: none, undone, or only by heart."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from contrastive.doctor.run_record import (
    NO_PROGRESS,
    WINDOW,
    Finding,
    RunLog,
    above_chance,
    first_recall,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MOVED = 1e-3
"""AdamW moves a weight by about its learning rate a step; weights are of the order of 0.03, so that
rates that add up to this leave them as they are."""


def diverged(log: RunLog) -> Iterator[Finding]:
    """A loss that fell, and has risen again."""
    losses = log.series("loss")
    if len(losses) < 3 * WINDOW or not (log.starts_at_uniform and log.batch):
        return
    medians = [median(losses[i : i + WINDOW]) for i in range(0, len(losses) - WINDOW, WINDOW)]
    best, last = min(medians), median(losses[-WINDOW:])
    reference = log.uniform_loss if log.is_infonce else medians[0]
    # a healthy loss wavers by a few per cent of its fall; a quarter is another course
    if best < 0.8 * reference and last - best > 0.25 * (reference - best):
        at = log.steps[medians.index(best) * WINDOW]["step"]
        yield Finding(
            "diverged",
            f"the loss had fallen from {reference:.2f} to {best:.2f} by step {at} and has risen to "
            f"{last:.2f} again",
            "lower training.lr, or lengthen training.warmup",
            {"best": best, "step": at, "loss": last, "lr": max(log.series("lr"), default=0.0)},
        )


def lr_too_low(log: RunLog) -> Iterator[Finding]:
    """A learning rate that moves nothing."""
    losses, rates = log.series("loss"), log.series("lr")
    if not (log.starts_at_uniform and log.enough and log.batch and rates) or sum(rates) > MOVED:
        return
    loss = median(losses[-WINDOW:])
    reference = log.uniform_loss if log.is_infonce else median(losses[:WINDOW])
    if loss > NO_PROGRESS * reference:
        yield Finding(
            "lr-too-low",
            f"the loss is {loss:.2f} after {len(losses)} steps whose learning rates add up to "
            f"{sum(rates):.1g}, so that no weight has moved by more than about that",
            "raise training.lr",
            {"loss": loss, "lr": max(rates), "sum": sum(rates)},
        )


def no_learning(log: RunLog) -> Iterator[Finding]:
    """A loss that has not begun to fall."""
    loss, accuracy = log.recent("loss"), log.recent("accuracy")
    if not (log.is_infonce and log.enough and log.batch and loss is not None):
        return
    found = above_chance(log.measured[-1]) if log.measured else None
    if loss <= NO_PROGRESS * log.uniform_loss or found:
        return
    yield Finding(
        "no-learning",
        f"the loss is {loss:.2f} after {len(log.steps)} steps, where guessing has ln B = "
        f"{log.uniform_loss:.2f}",
        "check that images and captions are paired correctly, then try another training.lr",
        {"loss": loss, "uniform": log.uniform_loss, "accuracy": accuracy},
    )


def memorised(log: RunLog) -> Iterator[Finding]:
    """Pairs that are learned, by a model that finds no others."""
    loss, accuracy = log.recent("loss"), log.recent("accuracy")
    if not (log.enough and log.batch and log.measured and loss is not None):
        return
    halved = log.is_infonce and loss < 0.5 * log.uniform_loss
    learned = halved if accuracy is None else accuracy > 0.5
    if learned and above_chance(log.measured[-1]) is False:
        shown = (
            ""
            if accuracy is None
            else f", {accuracy:.0%} of the rows are nearest to their matched row"
        )
        yield Finding(
            "memorised",
            f"the training pairs are learned (loss {loss:.2f}{shown}), but retrieval on the "
            "held-out split is guessing",
            "see that captions and samples are paired right; if they are, use more data"
            + ("" if log.all_encoders_frozen else ", augmentation or a frozen encoder"),
            {"loss": loss, "accuracy": accuracy},
        )


def overfitting(log: RunLog) -> Iterator[Finding]:
    """Recall that was clearly better before."""
    if not log.measured or above_chance(log.measured[-1]) is None:
        return
    series = {
        name: [first_recall(report["retrieval"][name]) for report in log.measured]
        for name in log.measured[0]["retrieval"]
    }
    best = {
        name: max(values, key=lambda estimate: estimate["value"]) for name, values in series.items()
    }
    # in each direction the intervals do not overlap: the best of many is partly luck
    if all(best[name]["low"] > values[-1]["high"] for name, values in series.items()):
        name = next(iter(series))
        epoch = 1 + series[name].index(best[name])
        was, last = (estimate["value"] for estimate in (best[name], series[name][-1]))
        yield Finding(
            "overfitting",
            f"recall on the held-out split has fallen: {name.replace('_', ' ')} R@1 was "
            f"{was:.1%} after epoch {epoch} and is {last:.1%}",
            f"train for {epoch} epochs, or on more data"
            + ("" if log.all_encoders_frozen else ", or freeze an encoder"),
            {"best": best, "last": {n: values[-1] for n, values in series.items()}, "epoch": epoch},
        )
