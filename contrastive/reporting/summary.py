"""An evaluation in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrastive.evaluation.evaluate import EvaluationReport


def summary(report: EvaluationReport) -> str:
    """Return the figures that matter in one line, in per cent where they are shares."""
    parts = [
        f"{name.replace('_', ' ')} "
        + " ".join(f"R@{k} {figure.value:.1%}" for k, figure in direction.recall.items())
        for name, direction in report.retrieval.items()
    ]
    if report.classification:
        parts.append(f"zero-shot top-1 {report.classification.accuracy.value:.1%}")
    if not parts:  # one modality without groups: nothing to retrieve
        parts = [
            f"{modality} uniformity {x.uniformity:.2f}, effective rank {x.effective_rank:.1f}"
            for modality, x in report.geometry.items()
        ]
    return "; ".join(parts)
