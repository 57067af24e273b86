"""Checks of the towers: gradients that do not arrive, embeddings that have collapsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.doctor.run_record import NO_PROGRESS, TARGETS, Finding, RunLog, above_chance

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
                "look for no_grad, detach or numpy in its forward pass, or freeze it",
                {"part": part, "gradients": dict(noted[-1])},
            )


def collapsed(log: RunLog) -> Iterator[Finding]:
    """Embeddings of a modality that are one point."""
    points = {m: g for m, g in _last_geometry(log).items() if _is_point(m, g, log)}
    if points:
        cosines = ", ".join(f"{g['mean_cosine']:.3f}" for g in points.values())
        yield Finding(
            "collapsed",
            f"all {_and(points)} embeddings are nearly one point (mean cosine {cosines})",
            f"see that {_and(points)} samples differ when they reach the model; if they do, "
            "training.lr is too high",
            points,
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
    if flat:
        ranks = ", ".join(f"{g['effective_rank']:.1f} of {room[m]}" for m, g in flat.items())
        yield Finding(
            "low-rank",
            f"{_and(flat)} embeddings differ in few directions (effective rank {ranks}), a "
            "dimensional collapse",
            f"look for a bottleneck in the {_and(flat)} tower; if there is none, lower training.lr "
            "or use larger batches",
            flat,
        )


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
    loss = log.recent("loss") if log.is_infonce and log.batch else None
    guessing = loss is not None and loss > NO_PROGRESS * log.uniform_loss
    if above_chance(log.measured[-1]) and not guessing:
        return False
    first = log.measured[0].get("geometry", {}).get(modality, g)
    dissolving = 1 - g["mean_cosine"] > 1.2 * (1 - first["mean_cosine"])
    return g["mean_cosine"] > 0.95 and not dissolving
