"""Checks of the temperature: multiplied by, at a bound, or so high that nothing can be learned."""

from __future__ import annotations

import math
from statistics import median
from typing import TYPE_CHECKING

from contrastive.doctor.run_record import (
    ENOUGH,
    WINDOW,
    Finding,
    RunLog,
    above_chance,
    first_recall,
    floor,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def multiplied(log: RunLog) -> Iterator[Finding]:
    """Cosines that are multiplied by the temperature, where they should be divided."""
    scale, loss, accuracy = (log.recent(n) for n in ("log_scale", "loss", "accuracy"))
    if not (log.enough and log.batch and scale is not None and loss is not None):
        return
    remedy = "divide the cosines by the temperature: logits = cosines * log_scale.exp()"
    if scale < -1e-3:  # s < 1: no loss of ours gets there, they clamp at 1
        s = math.exp(scale)
        yield Finding(
            "multiplied-temperature",
            f"the cosines are multiplied by {s:.2g}, less than 1, so that the loss cannot fall "
            f"below {floor(s, log.batch):.2f} of ln B = {log.uniform_loss:.2f}",
            remedy,
            {"scale": s, "floor": floor(s, log.batch), "uniform": log.uniform_loss},
        )
        return
    # what is logged as s may be used as 1 / s: then no batch's loss can leave ln B +- 2 / s,
    # though matched pairs are found
    band = 2 * math.exp(-scale)
    losses = log.series("loss")
    found = (accuracy or 0.0) > 0.5 or (log.measured and above_chance(log.measured[-1]))
    within = all(abs(x - log.uniform_loss) <= band for x in losses)
    if within and found and band < 0.2 * log.uniform_loss:
        yield Finding(
            "multiplied-temperature",
            f"matched pairs are found, yet the loss stays within {band:.2f} of ln B = "
            f"{log.uniform_loss:.2f}, as it does if cosines are multiplied by the temperature",
            remedy,
            {"scale": math.exp(scale), "loss": loss, "uniform": log.uniform_loss},
        )


def scale_at_one(log: RunLog) -> Iterator[Finding]:
    """A temperature that leaves little to learn."""
    scales, learned = log.series("log_scale"), log.innermost.get("learn_temperature", True)
    if not (log.is_infonce and log.enough and log.batch and scales):
        return
    s, first = math.exp(median(scales[-WINDOW:])), math.exp(scales[0])
    least = floor(s, log.batch)
    # s < 1.5 is a temperature above 2/3, which no published recipe has; a learned one that has
    # halved and leaves less than half of the loss to learn is on its way there
    falling = learned and s < 0.5 * first and least > 0.5 * log.uniform_loss
    if s >= 1 - 1e-3 and (s < 1.5 or falling):
        yield Finding(
            "scale-at-one",
            f"the logit scale is {s:.2f} (it began at {first:.2f}), so that the softmax is nearly "
            f"uniform and the loss cannot fall below {least:.2f} of ln B = {log.uniform_loss:.2f}",
            "look whether the pairs match, as it falls where they do not; if they do, set "
            f"{log.loss_field}.temperature to 0.07",
            {"scale": s, "first": first, "floor": least, "uniform": log.uniform_loss},
        )


def scale_at_bound(log: RunLog) -> Iterator[Finding]:
    """A temperature that would go on falling if it could."""
    scales, most = log.series("log_scale"), log.innermost.get("max_scale")
    learned = log.innermost.get("learn_temperature", True)
    if not scales or not learned or not isinstance(most, (int, float)) or most <= 0:
        return
    at = [x >= math.log(most) - 1e-4 for x in scales]
    if not all(at[-WINDOW:]) or sum(at) < max(ENOUGH, len(at) / 2):
        return
    bounded = [line["step"] for line, there in zip(log.steps, at, strict=False) if there]
    # a large CLIP ends at its bound and is well: so only if recall stands still there
    gain = _gain(log, since=bounded[len(bounded) // 2])
    if gain is None or gain <= 0:
        so = "" if gain is None else " and recall has stopped rising"
        yield Finding(
            "scale-at-bound",
            f"the logit scale has been at its bound of {most:g} for {sum(at)} of {len(at)} steps"
            f"{so}",
            f"raise {log.loss_field}.max_scale; or, if all training pairs are learned, train for "
            "fewer epochs or on more data",
            {"max_scale": most, "steps": sum(at), "of": len(at), "gain": gain},
        )


def _gain(log: RunLog, *, since: int) -> float | None:
    """Return how much recall has gained since a step, if it was measured then."""
    evaluations = [line for line in log.lines if "evaluation" in line]
    before = [line["evaluation"] for line in evaluations if line["step"] <= since]
    if not before:
        return None
    last, then = (
        [first_recall(direction)["value"] for direction in report["retrieval"].values()]
        for report in (evaluations[-1]["evaluation"], before[-1])
    )
    return sum(last) / len(last) - sum(then) / len(then)
