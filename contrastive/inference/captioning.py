"""Captions by retrieval: the sentences of a corpus that go with an image.

The nearest sentences of a large corpus are often one sentence in several wordings. On request,
maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) takes them one by one, each for
what it adds. That is paid with right captions, so the default is the nearest.

Shapes: N images, P sentences of a pool, D the shared width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contrastive.config.arguments import check_model, count, number
from contrastive.data.sample_lists import text_list
from contrastive.inference.nearest import top_k
from contrastive.model.scores import checked_precision, judge_scores

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel

POOL = 50  # nearest sentences that are chosen among: what is farther does not describe the image


@dataclass(frozen=True)
class Caption:
    """A sentence for an image."""

    text: str
    similarity: float
    """Cosine with the image."""
    index: int
    """Where it first stands in the corpus."""
    probability: float | None = None
    """That it describes the image, if the model is calibrated."""


def caption(
    model: ContrastiveModel,
    images: Any,
    corpus: Iterable[str],
    *,
    top: int = 3,
    diversity: float = 0.0,
    min_precision: float | None = None,
    cache: FeatureCache | None = None,
) -> list[list[Caption]]:
    """Return the sentences of a corpus that describe each image, at most ``top`` for each.

    They are in the order in which they were chosen, so the first is the nearest one. Among the
    nearest 50 (or ten times ``top``), each further one has the greatest
    ``(1 - diversity) * relevance - diversity * redundancy``; see ``scaled`` for the two.

    Args:
        model: a model with an image and a text tower.
        images: one image or several, in any form that ``ContrastiveModel.embed`` takes.
        corpus: sentences; one that stands twice counts once.
        top: sentences for each image; all, if the corpus has fewer.
        diversity: 0 takes the nearest, 1 takes what is least like those already taken.
        min_precision: return only sentences of which so many are right, as a share; an image may
            have none. The model has to be calibrated.
        cache: keeps the features of frozen encoders.

    Raises:
        SpecError: ``top`` is below 1, ``diversity`` is not from 0 to 1, or the corpus is empty;
            or the model is not calibrated for a precision.
        BadSample: an image or a sentence cannot be used; names it.

    Example:
        >>> found = caption(model, red, ["a red square", "a blue square"], top=1)
        >>> len(found), len(found[0])
        (1, 1)
    """
    check_model(model)
    top = count("top", top)
    what = "from 0 (the nearest) to 1"
    diversity = number("diversity", diversity, least=0, most=1, what=what)
    min_precision = checked_precision(model, min_precision)
    first: dict[str, int] = {}
    for index, text in enumerate(text_list(corpus, "sentence")):
        first.setdefault(text, index)
    texts = list(first)
    texts_ND = model.embed("text", texts, cache=cache)
    images_ND = model.embed("image", images, cache=cache)
    cosines_NP, indices_NP = top_k(images_ND, texts_ND, max(POOL, 10 * top))
    judged = judge_scores(
        model,
        ("image", "text"),
        cosines_NP.double().numpy(),
        items=len(texts),
        queries_QD=images_ND,
        min_precision=min_precision,
    )
    found: list[list[Caption]] = []
    for n, (cosines_P, indices_P) in enumerate(zip(cosines_NP, indices_NP, strict=True)):
        pool_PD = texts_ND[indices_P]
        chosen = mmr(*scaled(cosines_P, pool_PD @ pool_PD.T), top, diversity=diversity)
        worth = judged.probabilities_Qk
        captions: list[Caption] = []
        for i in (i for i in chosen if judged.is_kept_Qk[n, i]):
            text = texts[int(indices_P[i])]
            probability = None if worth is None else float(worth[n, i])
            captions.append(Caption(text, float(cosines_P[i]), first[text], probability))
        found.append(captions)
    return found


def scaled(cosines_P: Tensor, alike_PP: Tensor) -> tuple[Tensor, Tensor]:
    """Return relevance ``[P]`` and redundancy ``[P, P]``, both from 0 to 1 within the pool.

    Images and texts lie apart in the shared space, so that a caption's cosine with its image
    may be 0.3 where unlike captions have 0.6 with each other; weighed as they are, the redundancy
    would decide alone. Relevance is 1 for the nearest of the pool and 0 for the farthest;
    redundancy is 1 for the same embedding and 0 for the two of the pool that are least alike.
    """
    least, most = cosines_P.min(), cosines_P.max()
    relevance = (cosines_P - least) / (most - least).clamp_min(1e-6)
    unlike = alike_PP.min()
    return relevance, (alike_PP - unlike) / (1 - unlike).clamp_min(1e-6)


def mmr(relevance_P: Tensor, redundancy_PP: Tensor, top: int, *, diversity: float) -> list[int]:
    """Choose up to ``top`` indices by maximal marginal relevance, in the order of the choice.

    The next is the one with the greatest
    ``(1 - diversity) * relevance - diversity * (redundancy with the most alike that is chosen)``,
    and the first one the most relevant. Equal ones come in their order.
    """
    open_P = torch.ones_like(relevance_P, dtype=torch.bool)
    nearest_P = torch.full_like(relevance_P, -torch.inf)
    score_P = relevance_P
    chosen: list[int] = []
    while len(chosen) < min(top, len(relevance_P)):
        best = int(score_P.masked_fill(~open_P, -torch.inf).argmax())
        chosen.append(best)
        open_P[best] = False
        nearest_P = torch.maximum(nearest_P, redundancy_PP[:, best])
        score_P = (1 - diversity) * relevance_P - diversity * nearest_P
    return chosen
