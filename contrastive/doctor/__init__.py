"""What is wrong with a run, judged by its log alone: one sentence each, with what to do.

``diagnose`` is a pure function of the lines of a log. It needs no torch, no data and no model, so
that it serves during a run, after it, and for the log of a training loop of your own. A check
that lacks a metric, or has too few steps to tell, says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.arguments import count
from contrastive.doctor.data import duplicates, few_groups, ignored_groups, leak
from contrastive.doctor.learning import diverged, lr_too_low, memorised, no_learning, overfitting
from contrastive.doctor.run_record import Finding, RunLog
from contrastive.doctor.temperature import multiplied, scale_at_bound, scale_at_one
from contrastive.doctor.towers import collapsed, low_rank, no_gradient, zero_embeddings
from contrastive.errors import DataError, a_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from contrastive.reporting.run_log import LogLine

__all__ = ["Finding", "RunLog", "diagnose"]


def diagnose(
    lines: Sequence[Mapping[str, Any]], *, batch: int | None = None, loss: str = "infonce"
) -> list[Finding]:
    """Return what is wrong, causes before their effects; effects of what is found are left out.

    Args:
        lines: of a run's ``log.jsonl``, as ``read_log`` gives them; or of a loop of your own:
            dicts with ``step``, ``loss`` and what there is of ``lr``, ``log_scale``, ``accuracy``.
        batch: rows of a batch, for lines that do not say it.
        loss: the name of the loss, for lines that do not say it.

    Raises:
        DataError: these are no lines of a log.

    Example:
        >>> lines = [{"step": i, "loss": 2.08, "lr": 1e-3} for i in range(1, 201)]  # ln 8
        >>> [finding.code for finding in diagnose(lines, batch=8)]
        ['no-learning']
    """
    lines = _log_lines(lines)
    batch = None if batch is None else count("batch", batch)
    if batch is not None and not any("run" in line for line in lines):
        lines = [{"step": 0, "run": {"batch": batch, "loss": {"type": loss}}}, *lines]
    log = RunLog(cast("Sequence[LogLine]", lines))
    found = [finding for check in CHECKS for finding in check(log)]
    explained = {code for finding in found for code in EXPLAINS.get(finding.code, ())}
    return [finding for finding in found if finding.code not in explained]


def _log_lines(lines: Any) -> list[Mapping[str, Any]]:
    """Return the lines of a log, which may be an iterator.

    Raises:
        DataError: they are something else.
    """
    several = isinstance(lines, Iterable) and not isinstance(lines, (str, bytes, Mapping))
    found = list(cast("Iterable[Any]", lines)) if several else []
    if several and all(isinstance(line, Mapping) for line in found):
        if lacking := [i for i, line in enumerate(found) if "loss" in line and "step" not in line]:
            msg = f"line {lacking[0]} of the log has a loss without a step; give {{'step': 1, ...}}"
            raise DataError(msg)
        return found
    what = f"{a_type(found[0])} in a list" if found else a_type(cast("Any", lines))
    msg = (
        f"{what} is no line of a log; give dicts, such as contrastive.reporting.run_log.read_log("
        "Path('runs/clip/log.jsonl')) returns"
    )
    raise DataError(msg)


CHECKS: tuple[Callable[[RunLog], Iterator[Finding]], ...] = (
    leak,
    few_groups,
    ignored_groups,
    duplicates,
    zero_embeddings,
    no_gradient,
    multiplied,
    lr_too_low,
    diverged,
    collapsed,
    low_rank,
    scale_at_one,
    scale_at_bound,
    no_learning,
    memorised,
    overfitting,
)

EXPLAINS: Mapping[str, tuple[str, ...]] = {
    "few-groups": ("no-learning", "memorised", "low-rank", "scale-at-one"),
    "ignored-groups": ("scale-at-one",),
    "duplicate-captions": ("no-learning", "scale-at-one", "low-rank"),
    "zero-embeddings": ("no-gradient", "no-learning", "low-rank", "scale-at-one", "memorised"),
    "no-gradient": ("no-learning", "memorised", "collapsed", "low-rank", "scale-at-one"),
    "multiplied-temperature": ("no-learning", "scale-at-one", "memorised"),
    "lr-too-low": ("collapsed", "low-rank", "scale-at-one", "no-learning"),
    "diverged": ("collapsed", "low-rank", "no-learning", "scale-at-one", "overfitting"),
    "collapsed": ("low-rank", "no-learning", "scale-at-one", "memorised", "overfitting"),
    "low-rank": ("no-learning", "memorised"),
    "scale-at-one": ("no-learning",),
    "memorised": ("scale-at-bound",),
    "overfitting": ("memorised", "scale-at-bound"),  # pairs that do not match never gave recall
}
"""Findings that another one is the reason of."""
