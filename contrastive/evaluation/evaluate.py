"""How good a model is: recall both ways by the any-hit rule, and zero-shot accuracy.

The definitions are those of CLIP_benchmark: for text to image, a caption scores if an image of its
group is among the first k; for image to text, an image scores if *any* of its captions is. Ties
count against the model, so embeddings that have all collapsed to one point score nothing.

Shapes: Q queries, T targets, D the shared width, K the values of k.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.arguments import check_model, count
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.sample_lists import text_list
from contrastive.data.samples import check_modalities, class_indices, rows_of
from contrastive.evaluation.geometry import Geometry, geometry
from contrastive.evaluation.intervals import Estimate, bootstrap
from contrastive.evaluation.leakage import held_out_rows, left_out
from contrastive.evaluation.retrieval import Direction, has_companions, recall
from contrastive.evaluation.tabular import Tabular
from contrastive.inference.embed_distinct import EmbeddedModality, embed_modality
from contrastive.inference.zero_shot import classify_embeddings, embed_classes
from contrastive.prompts import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared


@dataclass(frozen=True)
class Classification:
    """Zero-shot classification by the classes' names."""

    accuracy: Estimate
    """Top-1; chance is the majority class."""
    mean_per_class: float
    """Mean of the classes' recalls, so that a large class counts no more than a small one."""
    images: int
    classes: int
    top5: float | None = None
    """Share of images whose class is among the likeliest five; None for fewer than five classes."""
    modality: str = "image"
    """What was classified, if not images."""


@dataclass(frozen=True, repr=False)
class EvaluationReport(Tabular):
    """What ``evaluate`` found."""

    split: str
    retrieval: dict[str, Direction]
    """By ``query_to_target``: ``text_to_image`` is CLIP_benchmark's image_retrieval_recall. Nothing
    if the data have no captions."""
    classification: Classification | None = None
    faults: list[str] = field(default_factory=list[str])
    geometry: dict[str, Geometry] = field(default_factory=dict[str, Geometry])
    """Geometry of the embeddings of each modality."""
    captions: int = 0
    """Captions, each counted once for a group."""
    equal_captions: int = 0
    """Those of them that stand at another group, word for word: they tie."""
    notes: list[str] = field(default_factory=list[str])
    """What to know about the numbers, such as what was not measured."""
    dropped: int = 0
    """Rows left out since training has them, or others of their groups."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def summary(self) -> str:
        """Return the main metrics in one line, shares in per cent."""
        parts = [
            f"{name.replace('_', ' ')} "
            + " ".join(f"R@{k} {estimate.value:.1%}" for k, estimate in direction.recall.items())
            for name, direction in self.retrieval.items()
        ]
        if self.classification:
            parts.append(f"zero-shot top-1 {self.classification.accuracy.value:.1%}")
        if not parts:  # one modality without groups: nothing to retrieve
            parts = [
                f"{modality} uniformity {x.uniformity:.2f}, effective rank {x.effective_rank:.1f}"
                for modality, x in self.geometry.items()
            ]
        return "; ".join(parts)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric: what, its value, its interval, and that of chance."""
        found = {
            f"{name} R@{k}": estimate
            for name, direction in self.retrieval.items()
            for k, estimate in direction.recall.items()
        }
        if self.classification:
            found["zero-shot top-1"] = self.classification.accuracy
        return [{"split": self.split, "metric": name} | asdict(e) for name, e in found.items()]

    def metrics(self) -> dict[str, float]:
        """Return the value of each metric by its name, such as ``image_to_text.R@1``."""
        return {str(row["metric"]).replace(" ", "."): row["value"] for row in self.rows()}

    def __repr__(self) -> str:
        return f"EvaluationReport({self.split or 'no split'}: {self.summary()})"


def evaluate(
    model: ContrastiveModel,
    samples: Samples,
    *,
    split: str = "",
    templates: Sequence[str] = TEMPLATES,
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> EvaluationReport:
    """Measure retrieval both ways, and zero-shot classification if the samples have labels.

    Samples with labels and without captions are classified alone.

    Args:
        model: the model.
        samples: a built dataset; rows with equal ids belong together.
        split: what to call it in the report.
        templates: sentences for the classes.
        shared: ``refuse`` rows that the model was trained on, or ``drop`` them and their groups.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.

    Raises:
        DataError: the model was trained on some of these images, too many samples are bad, these
            are no rows of data, or an embedding is not finite.

    Example:
        >>> report = evaluate(model, rows)
        >>> report.retrieval["image_to_text"].recall[5].value  # R@5 of two samples
        1.0
    """
    check_model(model)
    workers, templates = count("workers", workers, least=0), text_list(templates, "template")
    rows = rows_of(samples)
    classes: Sequence[str] = getattr(samples, "classes", ())
    index_of = class_indices(classes)
    named = named_modality(model)
    labelled = bool(classes and named) and all(row.get("label") in index_of for row in rows)
    notes: list[str] = []
    modalities = list(model.towers)
    if labelled and not any("text" in row for row in rows):
        modalities.remove("text")
        notes.append("there are no captions, so that retrieval of them is not measured")
    check_modalities(rows, modalities)
    kept = held_out_rows(model.seen, rows, split, shared)
    dropped = len(rows) - len(kept)
    notes += left_out(dropped, len(rows))
    rows = kept
    known = bad_rows_of(samples)
    bad_rows = known.copy()  # the dataset may be measured again
    embedded = {
        modality: embed_modality(model, rows, modality, bad_rows, cache=cache, workers=workers)
        for modality in modalities
    }
    bad_rows.check(len(rows) + known.bad)
    retrieval = {
        f"{query}_to_{target}": recall(a.embeddings_QD, b.embeddings_QD, a.ids_Q, b.ids_Q)
        for query, a in embedded.items()
        for target, b in embedded.items()
        if query != target or (len(model.towers) == 1 and has_companions(a.ids_Q))
    }
    classification = None
    if labelled and named:
        names = embed_classes(model, classes, templates=templates, cache=cache)
        column = embedded[named]
        truth = np.array([index_of[rows[i]["label"]] for i in column.rows])
        classification = _classification(model, column, names, truth, named)
        if len(classes) == 1:
            notes.append("there is one class, so that zero-shot accuracy is always 100 %")
    found = {m: geometry(column.embeddings_QD, column.ids_Q) for m, column in embedded.items()}
    geometry_by_modality = {modality: about for modality, about in found.items() if about}
    texts = [rows[i]["text"] for i in embedded["text"].rows] if "text" in embedded else []
    captions = Counter(text for text in texts if isinstance(text, str))
    equal = sum(groups for groups in captions.values() if groups > 1)
    if retrieval and equal >= 0.01 * max(1, captions.total()):
        notes.append(_bounded_by(equal, captions.total(), classification))
    return EvaluationReport(
        split,
        retrieval,
        classification,
        bad_rows.lines,
        geometry_by_modality,
        captions.total(),
        equal,
        notes,
        dropped,
    )


def _bounded_by(equal: int, captions: int, classification: Classification | None) -> str:
    """Return why no model can reach 100 % in retrieval here, and what to do."""
    or_else = ", or go by zero-shot accuracy" if classification else ""
    return (
        f"{equal:,} of {captions:,} captions stand at several groups, word for word: equal ones "
        "tie, and ties count against the model, so that recall cannot reach 100 %; give rows with "
        f"the same caption the same id (data.group_column, where there is one){or_else}"
    )


def named_modality(model: ContrastiveModel) -> str | None:
    """Return the modality whose classes can be told by their names: images, else the first other.

    None without a text tower, or with nothing else.
    """
    others = [modality for modality in model.towers if modality != "text"]
    if "text" not in model.towers or not others:
        return None
    return "image" if "image" in others else others[0]


def _classification(
    model: ContrastiveModel,
    images: EmbeddedModality,
    names_CD: Tensor,
    truth: np.ndarray,
    modality: str,
) -> Classification:
    probabilities_QC = classify_embeddings(model, images.embeddings_QD, names_CD)
    hits = probabilities_QC.argmax(1).numpy() == truth
    present = np.unique(truth)
    majority = float(np.bincount(truth).max() / len(truth))
    return Classification(
        bootstrap(hits, images.ids_Q.numpy(), majority),
        float(np.mean([hits[truth == c].mean() for c in present])),
        len(truth),
        len(names_CD),
        top5_share(probabilities_QC.numpy(), truth),
        modality,
    )


def top5_share(scores_QC: np.ndarray, truth_Q: np.ndarray) -> float | None:
    """Return the share of rows whose class is among the best five; None if there are fewer."""
    if scores_QC.shape[1] < 5:
        return None
    best_Q5 = np.argsort(-scores_QC, axis=1, kind="stable")[:, :5]
    return float((best_Q5 == truth_Q[:, None]).any(1).mean())
