"""An evaluation in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contrastive.evaluation.evaluate import EvaluationReport


def summary(report: EvaluationReport) -> str:
    """Return the main metrics in one line, shares in per cent."""
    parts = [
        f"{name.replace('_', ' ')} "
        + " ".join(f"R@{k} {estimate.value:.1%}" for k, estimate in direction.recall.items())
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
