"""Models side by side: asked the same about the same images, and measured on the same split.

Shapes: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from contrastive.config.arguments import check_model
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.sample_lists import sample_list, text_list
from contrastive.data.samples import rows_of
from contrastive.datasets.single_modality import RowList
from contrastive.errors import DataError, SpecError, a_type
from contrastive.evaluation.evaluate import evaluate
from contrastive.evaluation.leakage import held_out_rows, left_out
from contrastive.evaluation.tabular import Tabular
from contrastive.inference.zero_shot import classify
from contrastive.prompts import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from contrastive.data.samples import Samples
    from contrastive.evaluation.evaluate import EvaluationReport
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import Shared


@dataclass(frozen=True, repr=False, eq=False)  # tensors and images have no equality or hash
class Comparison(Tabular):
    """What each model says about each image, when all are asked in the same words."""

    images: tuple[Any, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    probabilities: dict[str, Tensor]
    """``[N, C]`` by model, as ``classify`` gives them."""

    def top(self, model: str) -> list[tuple[str, float]]:
        """Return a model's likeliest class of each image, and its probability."""
        rows = (zip(self.classes, row, strict=True) for row in self.by_image(model))
        return [max(row, key=lambda pair: pair[1]) for row in rows]

    def by_image(self, model: str) -> list[list[float]]:
        """Return a model's probabilities as plain numbers."""
        return cast("list[list[float]]", self.probabilities[model].tolist())

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each image, model and class, so that names are values, not columns."""
        by_model = {model: self.by_image(model) for model in self.probabilities}
        return [
            {"image": image_name(image, i), "model": model, "class": name, "probability": share}
            for i, image in enumerate(self.images)
            for model, rows in by_model.items()
            for name, share in zip(self.classes, rows[i], strict=True)
        ]

    def __repr__(self) -> str:
        names = ", ".join(self.probabilities)
        return f"Comparison({names}: agree on {self.agreed} of {len(self.images)} images)"

    @property
    def agreed(self) -> int:
        """How many images have the same likeliest class by every model."""
        answers = zip(*([name for name, _ in self.top(m)] for m in self.probabilities), strict=True)
        return sum(len(set(names)) == 1 for names in answers)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = {model: self.by_image(model) for model in self.probabilities}
        images = [
            {
                "image": image_name(image, index),
                "probabilities": {
                    model: dict(zip(self.classes, rows[model][index], strict=True))
                    for model in rows
                },
            }
            for index, image in enumerate(self.images)
        ]
        return {"templates": list(self.templates), "agreed": self.agreed, "images": images}


def compare(
    models: Mapping[str, ContrastiveModel],
    images: Any,
    classes: Iterable[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    cache: FeatureCache | None = None,
) -> Comparison:
    """Ask several models which of the names each image goes with.

    Args:
        models: models with an image and a text tower, by what to call them.
        images: one image or several, in any form that ``ContrastiveModel.embed`` takes.
        classes: the names.
        templates: sentences with ``{}`` for the name, the same for every model.
        cache: keeps the features of frozen encoders.

    Raises:
        SpecError: there are fewer than two models; or as ``classify``.
        BadSample: an image cannot be read; names it.

    Example:
        >>> models = {"one": model, "other": build_model(SPEC)}
        >>> found = compare(models, [red, blue], ["red", "blue"])
        >>> found.probabilities["one"].shape
        torch.Size([2, 2])
    """
    _check_several(models)
    samples, names = tuple(sample_list(images, "image")), text_list(classes, "class")
    templates = text_list(templates, "template")  # an iterator would be used up by the first model
    found = {
        name: classify(model, samples, names, templates=templates, cache=cache)
        for name, model in models.items()
    }
    return Comparison(samples, tuple(names), tuple(templates), found)


@dataclass(frozen=True)
class Measured:
    """A model's metrics on a split, or why it has none."""

    held_out: Literal["yes", "no", "not known"]
    """Whether the model has not been trained on the split's samples. A model that came without a
    record of its training, such as a pretrained one, may have seen them."""
    report: EvaluationReport | None = None
    """None if the model was trained on some of the samples."""
    refusal: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        report = self.report.as_dict() if self.report else None
        return {"held_out": self.held_out, "refusal": self.refusal, "report": report}


def compare_retrieval(
    models: Mapping[str, ContrastiveModel],
    samples: Samples,
    *,
    split: str = "",
    templates: Sequence[str] = TEMPLATES,
    shared: Shared = "refuse",
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> dict[str, Measured]:
    """Evaluate each model on the same samples.

    A model that was trained on some of them is not measured, and its entry says so; the others are.
    If ``shared`` is ``drop``, those samples and their groups are left out for all models alike, and
    only a model that leaves none is not measured.

    Raises:
        SpecError: there are fewer than two models.
        DataError: there are no samples, too many of them are bad, or all are dropped.
    """
    _check_several(models)
    templates = text_list(templates, "template")
    rows = rows_of(samples)
    if not rows:
        msg = f"split {split!r} is empty; there is nothing to measure"
        raise DataError(msg)
    refusals: dict[str, str] = {}
    groups = {row["id"] for row in rows}
    for name, model in models.items():
        try:
            groups &= {row["id"] for row in held_out_rows(model.seen, rows, split, shared)}
        except DataError as error:
            refusals[name] = str(error)
    kept = [row for row in rows if row["id"] in groups]
    if not kept and len(refusals) < len(models):
        msg = f"split {split!r} has no group that none of the models has seen; take another split"
        raise DataError(msg)
    dropped = len(rows) - len(kept)
    samples = RowList(kept, bad_rows_of(samples), classes=tuple(getattr(samples, "classes", ())))

    def measured(name: str, model: ContrastiveModel) -> Measured:
        if name in refusals:
            return Measured("no", refusal=refusals[name])
        report = evaluate(
            model, samples, split=split, templates=templates, cache=cache, workers=workers
        )
        notes = [*left_out(dropped, len(rows)), *report.notes]
        report = replace(report, dropped=dropped, notes=notes)
        return Measured("yes" if model.seen else "not known", report)

    return {name: measured(name, model) for name, model in models.items()}


def image_name(image: Any, index: int) -> str:
    """Return what to call an image: its path, or its index if it has none."""
    return str(image) if isinstance(image, (str, Path)) else f"image {index}"


def _check_several(models: Any) -> None:
    if not isinstance(models, Mapping):
        msg = f"models are {a_type(models)}; give a dict, such as {{'one': model, 'two': other}}"
        raise SpecError(msg)
    for model in cast("Mapping[str, Any]", models).values():
        check_model(model)
    if len(cast("Mapping[str, Any]", models)) < 2:
        msg = "give at least two models to compare, of different names"
        raise SpecError(msg)
