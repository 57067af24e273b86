"""Zero-shot classification: which of these names does each image go with?

Shapes: N images, C classes, D the shared width.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.config.arguments import check_cache, check_model
from contrastive.data.sample_lists import sample_list, text_list
from contrastive.errors import SpecError
from contrastive.model.scores import checked_precision, judge_scores
from contrastive.nn.device import batch_size
from contrastive.prompts import TEMPLATES, tell_of_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel


def classify(
    model: ContrastiveModel,
    images: Any,
    classes: Iterable[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    modality: str = "image",
    min_precision: float | None = None,
    cache: FeatureCache | None = None,
) -> Tensor:
    """Return the probability ``[N, C]`` of each class for each image; rows sum to 1.

    With ``min_precision`` each class has a probability of its own, and a row of zeros means that
    the image is none of these.

    Args:
        model: a model with an image and a text tower.
        images: one image or several, in any form that ``ContrastiveModel.embed`` takes.
        classes: the names.
        templates: sentences with ``{}`` for the name; their embeddings are averaged.
        modality: what is classified, if not images; ``images`` are samples of it.
        min_precision: the share of the classes with a probability above 0 that is to be right; 0
            gives all their own. The model has to be calibrated.
        cache: keeps the features that frozen encoders have of the images; those of the sentences
            are looked up there, and not added.

    Raises:
        SpecError: no class is given, one is given twice, or a template has no ``{}``; or a
            precision is asked for that the model is not calibrated for.
        BadSample: an image cannot be read; names it.

    Example:
        >>> classify(model, [red, blue], ["red", "blue", "green"]).shape
        torch.Size([2, 3])
    """
    found = judged_classes(
        model,
        images,
        classes,
        templates=templates,
        modality=modality,
        min_precision=min_precision,
        cache=cache,
    )
    if min_precision is None or found.own_NC is None:
        return found.among_NC
    return found.own_NC.where(found.is_kept_NC, 0)


@dataclass(frozen=True)
class JudgedClasses:
    """What the similarities of N images with C classes are worth."""

    among_NC: Tensor
    """Probabilities of the classes among each other; rows sum to 1."""
    own_NC: Tensor | None
    """The probability of each class by itself; None without a calibration."""
    is_kept_NC: Tensor
    """Whether a class belongs to those of which the asked share is right."""


def judged_classes(
    model: ContrastiveModel,
    images: Any,
    classes: Iterable[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    modality: str = "image",
    min_precision: float | None = None,
    cache: FeatureCache | None = None,
) -> JudgedClasses:
    """Return what ``classify`` does, with and without the other classes; errors are its own."""
    check_cache(cache)
    check_model(model)
    min_precision = checked_precision(model, min_precision)
    texts = cache and cache.reading()
    names_CD = embed_classes(model, classes, templates=templates, cache=texts)
    images_ND = _embedded(model, images, modality, cache)
    return judge_classes(model, images_ND, names_CD, modality=modality, min_precision=min_precision)


def judge_classes(
    model: ContrastiveModel,
    images_ND: Tensor,
    names_CD: Tensor,
    *,
    modality: str = "image",
    min_precision: float | None,
) -> JudgedClasses:
    """Return what ``judged_classes`` does, of images and classes that are embedded."""
    cosines_NC = (images_ND.double() @ names_CD.double().T).numpy()
    judged = judge_scores(
        model,
        (modality, "text"),
        cosines_NC,
        items=len(names_CD),
        queries_QD=images_ND,
        min_precision=min_precision,
        right_targets=1,
    )
    own = judged.probabilities_Qk
    return JudgedClasses(
        classify_embeddings(model, images_ND, names_CD),
        None if own is None else torch.from_numpy(own).float(),
        torch.from_numpy(judged.is_kept_Qk),
    )


def classify_among(
    model: ContrastiveModel,
    images: Any,
    names_CD: Tensor,
    *,
    modality: str = "image",
    cache: FeatureCache | None = None,
) -> Tensor:
    """Return what ``classify`` does, among classes that are embedded: ``[N, C]``."""
    return classify_embeddings(model, _embedded(model, images, modality, cache), names_CD)


def _embedded(
    model: ContrastiveModel, images: Any, modality: str, cache: FeatureCache | None
) -> Tensor:
    images = sample_list(images, modality)
    at_a_time = max(1, min(len(images), batch_size(model)))  # few are not filled up to a batch
    return model.embed(modality, images, cache=cache, batch_size=at_a_time)


def embed_classes(
    model: ContrastiveModel,
    classes: Iterable[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    cache: FeatureCache | None = None,
    what: str = "class",
) -> Tensor:
    """Embed each class as the mean of its templates, L2-normalised before and after: ``[C, D]``.

    This is CLIP's ensemble (Radford et al. 2021, section 3.1.4). Messages call a class ``what``.

    Raises:
        SpecError: no class is given, one is given twice, or a template has no ``{}``.
    """
    check_model(model)
    names, sentences = class_sentences(classes, templates, what)
    return mean_of_templates(model.embed("text", sentences, cache=cache), len(names))


def class_sentences(
    classes: Iterable[str], templates: Sequence[str] = TEMPLATES, what: str = "class"
) -> tuple[list[str], list[str]]:
    """Return the names of the classes, and their sentences: all of the first, then of the next.

    Raises:
        SpecError: no class is given, one is given twice, or a template has no ``{}``.
    """
    names, templates = text_list(classes, what), text_list(templates, "template")
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        msg = f"{what} {twice[0]!r} is given twice; give each once"
        raise SpecError(msg)
    if wrong := [template for template in templates if "{}" not in template]:
        msg = f"template {wrong[0]!r} has no {{}} for the class"
        raise SpecError(msg)
    if what == "class":
        tell_of_names(names, templates)
    return names, [template.replace("{}", name) for name in names for template in templates]


def mean_of_templates(sentences_SD: Tensor, classes: int) -> Tensor:
    """Return the classes ``[C, D]`` of their sentences' embeddings, L2-normalised."""
    width = sentences_SD.shape[1]
    return normalize(sentences_SD.view(classes, -1, width).mean(1), dim=-1)


def classify_embeddings(model: ContrastiveModel, images_ND: Tensor, names_CD: Tensor) -> Tensor:
    """Return probabilities ``[N, C]``: the softmax over classes of the scaled similarities."""
    return torch.softmax(model.similarity(images_ND, names_CD), dim=-1)
