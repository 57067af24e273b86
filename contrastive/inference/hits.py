"""What a search finds, and what it is worth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.console import say
from contrastive.model.scores import judge_scores

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.model.model import ContrastiveModel


@dataclass(frozen=True)
class Hit:
    """A sample that was found."""

    similarity: float
    """Cosine with the query."""
    found: str
    """Its path or text; of an image without a name, its caption."""
    source: str
    """Where it came from, such as ``captions.csv:17``."""
    sample: Any
    """The raw sample."""
    probability: float | None = None
    """That it is right, if the model is calibrated."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, without the sample; a probability only if there is one."""
        found = {"similarity": self.similarity, "found": self.found, "source": self.source}
        return found if self.probability is None else found | {"probability": self.probability}


def judged_hits(
    model: ContrastiveModel,
    modalities: tuple[str, str],
    hits: list[Hit],
    *,
    items: int,
    query_1D: Tensor,
    min_precision: float | None,
) -> list[Hit]:
    """Return hits with their probabilities, if the model is calibrated, and those that are kept.

    Args:
        model: the model.
        modalities: of the query, and of what was searched.
        hits: the nearest, best first.
        items: how many were searched.
        query_1D: the query's embedding.
        min_precision: what share of those that are kept is right; all are kept if None.
    """
    if not hits:
        return []
    scores_1k = np.array([[hit.similarity for hit in hits]], np.float64)
    judged = judge_scores(
        model,
        modalities,
        scores_1k,
        items=items,
        queries_QD=query_1D,
        min_precision=min_precision,
    )
    if (known := judged.probabilities_Qk) is not None:
        hits = [replace(hit, probability=p) for hit, p in zip(hits, known[0].tolist(), strict=True)]
    kept = [hit for hit, is_kept in zip(hits, judged.is_kept_Qk[0], strict=True) if is_kept]
    if not kept:
        say(
            f"no match: the nearest of {items:,} {modalities[1]}s, "
            f"{hits[0].found or hits[0].source}, is right with a probability of "
            f"{hits[0].probability:.0%}"
        )
    return kept
