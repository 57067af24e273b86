"""Checks of the data: leaks, captions that stand twice, group ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from contrastive.doctor.run_record import Finding, RunLog

if TYPE_CHECKING:
    from collections.abc import Iterator


def leak(log: RunLog) -> Iterator[Finding]:
    """Held-out groups that are in training too."""
    for split, about in log.run.get("held_out", {}).items():
        groups, known = about["groups"], about["known"]
        # below a twentieth, recall is wrong by less than its interval; one may be a coincidence
        if known >= 3 and known / groups >= 0.05:
            by_sample = about.get("by_sample", 0)
            ways = {"the same sample": by_sample, "two of their captions": known - by_sample}
            how = ", ".join(f"{number} by {way}" for way, number in ways.items() if number)
            yield Finding(
                "leak",
                f"{known} of {groups} groups of {split!r} are in the training split too ({how}), "
                f"the first is {about['first']}, so that its recall is too good",
                "remove them from one of the two splits",
                {"split": split, **about},
            )


def few_groups(log: RunLog) -> Iterator[Finding]:
    """Ids that make most of a batch positives: with n of them the loss is ln n or more."""
    captions, kind = log.run.get("captions", {}), log.innermost
    bound = captions.get("floor", 0.0)
    if kind.get("type") != "infonce" or kind.get("positives") != "multi" or not log.batch:
        return
    if bound > 0.5 * log.uniform_loss:  # less than half of the loss is left to learn
        yield Finding(
            "few-groups",
            f"the {captions['rows']} training rows have {captions['groups']} group ids, so that "
            f"much of a batch is a positive of each row and the loss cannot fall below {bound:.2f} "
            f"of ln B = {log.uniform_loss:.2f}",
            f"{_unless_fixed('give ids to images rather than to classes', log)}set "
            f"{_place_of_supcon(log)} to {{type: supcon}}",
            {**captions, "uniform": log.uniform_loss},
        )


def ignored_groups(log: RunLog) -> Iterator[Finding]:
    """Rows of one group in a batch, which the loss takes for negatives."""
    kind = log.innermost
    rows, collisions = log.run.get("batch_of_process"), log.series("collisions")
    if rows and collisions and kind.get("positives") == "ignore":
        share = sum(collisions) / len(collisions) / rows
        if share > 0.05:  # such a row's loss cannot fall below ln 2: 0.03 nats in all
            yield Finding(
                "ignored-groups",
                f"{share:.0%} of the rows of a batch share their group id with another row, which "
                "'positives: ignore' takes for a negative",
                f"set {log.loss_field}.positives to multi or mask",
                {"share": share, "positives": "ignore"},
            )


def duplicates(log: RunLog) -> Iterator[Finding]:
    """Rows with the same caption under different ids."""
    captions = log.run.get("captions", {})
    if (met := captions.get("met", 0.0)) > 0.05:  # as in ignored-groups
        ids = _unless_fixed("give rows with the same caption the same id", log)
        yield Finding(
            "duplicate-captions",
            f"{captions['duplicated']} of {captions['rows']} training rows have a caption that "
            f"stands at another group id too, such as {captions['example']!r}, so that {met:.0%} "
            "of the rows of a batch have their own words among the negatives",
            f"{ids}drop captions that do not tell samples apart",
            dict(captions),
        )


def _place_of_supcon(log: RunLog) -> str:
    """Return the field of the innermost loss, or of a queue around it, which cannot hold supcon."""
    path, loss = "model.loss", log.loss
    while loss.get("type") != "queue" and isinstance(inner := loss.get("loss"), Mapping):
        path, loss = f"{path}.loss", cast("Mapping[str, Any]", inner)
    return path


def _unless_fixed(remedy: str, log: RunLog) -> str:
    """Return a remedy for the ids, and "or", unless the dataset gives no way to choose them."""
    if log.has_field("group_column"):
        return f"{remedy} (data.group_column), or "
    return "" if log.run.get("data_fields") else f"{remedy}, or "
