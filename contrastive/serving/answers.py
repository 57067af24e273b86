"""What each request is answered, from its message to that of the answer.

Shapes: B inputs of a request, C classes, D wide, k results.
"""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import torch
from torch.nn.functional import normalize

from contrastive.console import quiet
from contrastive.inference.hits import judged_hits
from contrastive.inference.index_search import hit_of, low_recall
from contrastive.inference.queries import found_by
from contrastive.inference.zero_shot import class_sentences, judge_classes, mean_of_templates
from contrastive.model.scores import beyond_calibration, checked_precision
from contrastive.prompts import TEMPLATES
from contrastive.serving.messages import (
    ClassifyAnswer,
    ClassScore,
    Embedding,
    EmbeddingsAnswer,
    Hit,
    ImageInput,
    ModelCard,
    ModelList,
    SearchAnswer,
    TextInput,
    Usage,
)
from contrastive.serving.problems import Problem
from contrastive.serving.samples import (
    check_conditions,
    check_total,
    image_in,
    templates_for,
    text_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from contrastive.serving.collections import Served
    from contrastive.serving.messages import (
        ClassifyRequest,
        EmbeddingsRequest,
        Input,
        SearchRequest,
    )
    from contrastive.serving.metrics import Metrics
    from contrastive.serving.settings import Limits


class Server:
    """Answers requests from some models."""

    def __init__(self, served: Sequence[Served], limits: Limits, metrics: Metrics) -> None:
        """Serve these; the first is meant where none is named."""
        self.served, self.limits, self.metrics = {one.name: one for one in served}, limits, metrics
        self.is_ready = True

    def chosen(self, name: str | None, param: str) -> Served:
        """Return the one of a name.

        Raises:
            Problem: there is none.
        """
        found = self.served.get(name) if name else next(iter(self.served.values()))
        if found is None:
            there = ", ".join(self.served)
            raise Problem(404, f"{param}: no {name!r}; there is {there}", code="model", param=param)
        return found

    async def embed(self, served: Served, modality: str, samples: list[Any]) -> Tensor:
        """Return the embeddings ``[B, D]``."""
        self.check_modality(served, modality)
        await asyncio.to_thread(check_total, modality, samples, self.limits)
        try:
            return await asyncio.wrap_future(served.batches.embed(modality, samples))
        finally:
            self.metrics.waiting(served.name, served.batches.count)

    def check_modality(self, served: Served, modality: str) -> None:
        """Refuse a modality that a model has not."""
        if modality not in served.model.towers:
            there = ", ".join(served.model.towers)
            raise Problem(400, f"{served.name}: has no {modality}; it has {there}", code="modality")

    def cards(self) -> ModelList:
        """Return what is served."""
        return ModelList(data=[_card(one) for one in self.served.values()])

    async def embeddings(self, asked: EmbeddingsRequest) -> EmbeddingsAnswer:
        """Answer as OpenAI's API does."""
        served = self.chosen(asked.model, "model")
        inputs = asked.input if isinstance(asked.input, list) else [asked.input]
        if len(inputs) > self.limits.samples:
            message = f"input: {len(inputs)} inputs; at most {self.limits.samples} are taken"
            raise Problem(400, message, code="too_many", param="input")
        width = served.model.spec.embed_dim
        if asked.dimensions and asked.dimensions > width:
            message = f"dimensions: {asked.dimensions} is more than the {width} of {served.name}"
            raise Problem(400, message, code="dimensions", param="dimensions")
        samples = await asyncio.to_thread(
            lambda: [self._sample(one, f"input.{i}") for i, one in enumerate(inputs)]
        )
        rows_BD = torch.empty(len(samples), width)
        for modality in dict.fromkeys(name for name, _ in samples):
            at = [i for i, (name, _) in enumerate(samples) if name == modality]
            rows_BD[at] = await self.embed(served, modality, [samples[i][1] for i in at])
        if asked.dimensions:
            rows_BD = normalize(rows_BD[:, : asked.dimensions], dim=1)
        data = [
            Embedding(index=i, embedding=_encoded(row_D, asked.encoding_format))
            for i, row_D in enumerate(rows_BD)
        ]
        usage = Usage(prompt_tokens=len(inputs), total_tokens=len(inputs))
        return EmbeddingsAnswer(data=data, model=served.name, usage=usage)

    def _sample(self, given: Input, param: str) -> tuple[str, Any]:
        if isinstance(given, ImageInput):
            return "image", image_in(given.image, self.limits, param)
        text = given.text if isinstance(given, TextInput) else given
        return "text", text_of(text, self.limits, param)

    async def search(self, asked: SearchRequest, upload: bytes | None = None) -> SearchAnswer:
        """Search an index by words or an image."""
        served = self.chosen(asked.index, "index")
        index = served.indexed()
        if (asked.text is None) == (asked.image is None and upload is None):
            raise Problem(400, "give either text or image", code="query", param="text")
        if asked.k > self.limits.results:
            message = f"k: {asked.k} is more than {self.limits.results}"
            raise Problem(400, message, code="too_many", param="k")
        check_conditions(asked.where, self.limits)
        if asked.text is not None:
            by, sample = "text", text_of(asked.text, self.limits, "text")
        else:
            by = "image"
            sample = upload or image_in(asked.image or "", self.limits, "image")
        find = asked.find or found_by(by, index.modalities, [*served.model.towers])
        precision = checked_precision(served.model, asked.min_precision)
        query_1D = await self.embed(served, by, [sample])
        answer = partial(_searched, served, query_1D, by, find, asked, precision)
        return await asyncio.to_thread(answer)

    async def classify(self, asked: ClassifyRequest) -> ClassifyAnswer:
        """Classify an image among names."""
        served = self.chosen(asked.model, "model")
        if len(asked.classes) > self.limits.classes:
            message = f"classes: {len(asked.classes)}; at most {self.limits.classes} are taken"
            raise Problem(400, message, code="too_many", param="classes")
        names = [text_of(name, self.limits, "classes") for name in asked.classes]
        self.check_modality(served, "text")
        precision = checked_precision(served.model, asked.min_precision)
        templates = templates_for(names, asked.templates or TEMPLATES, self.limits)
        with quiet():
            names, sentences = class_sentences(names, templates)
        image = image_in(asked.image, self.limits, "image")
        image_1D = await self.embed(served, "image", [image])
        names_CD = mean_of_templates(await self.embed(served, "text", sentences), len(names))
        return _classified(served, image_1D, names, names_CD, precision)


def _card(served: Served) -> ModelCard:
    index = served.index
    return ModelCard(
        id=served.name,
        modalities=[*served.model.towers],
        dim=served.model.spec.embed_dim,
        rows={name: index.rows(name) for name in index.modalities} if index else {},
        columns=index.columns if index else [],
        calibrated=served.model.calibration is not None,
    )


def _encoded(row_D: Tensor, form: str) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(row_D.contiguous().numpy().astype("<f4").tobytes()).decode()
    return cast("list[float]", row_D.tolist())


def _searched(
    served: Served,
    query_1D: Tensor,
    by: str,
    find: str,
    asked: SearchRequest,
    precision: float | None,
) -> SearchAnswer:
    index = served.indexed()
    found = index.search(query_1D, find, k=asked.k, where=asked.where)[0]
    hits = [hit_of(one.row, find, one.similarity) for one in found]
    calibration, items = served.model.calibration, index.rows(find, where=asked.where)
    about: dict[str, Any] = {"items": items, "query_1D": query_1D}
    with quiet():
        judged = judged_hits(served.model, (by, find), hits, min_precision=None, **about)
        kept = judged  # of all, unless some precision is asked for
        if precision is not None:
            kept = judged_hits(served.model, (by, find), hits, min_precision=precision, **about)
    made = [
        Hit(
            similarity=hit.similarity,
            probability=hit.probability,
            found=hit.found,
            source=hit.source,
            image=f"/v1/rows/{quote(served.name, safe='')}/{find}/{one.number}/image"
            f"?version={served.version}"
            if find == "image" and one.row.sample is not None
            else None,
            columns={**one.row.others},
        )
        for hit, one in zip(judged, found, strict=True)
    ]
    recall = low_recall(index, find)
    notes = [f"finds {recall.share:.0%} of the ten nearest"] if recall else []
    if precision and calibration:
        notes += filter(None, [beyond_calibration(calibration, (by, find), items)])
    return SearchAnswer(
        index=served.name,
        query_modality=by,
        modality=find,
        hits=made[: len(kept)],
        nearest=made[0] if made and not kept else None,
        notes=notes,
    )


def _classified(
    served: Served,
    image_1D: Tensor,
    names: list[str],
    names_CD: Tensor,
    precision: float | None,
) -> ClassifyAnswer:
    judged = judge_classes(served.model, image_1D, names_CD, min_precision=precision)
    among, own, kept = judged.among_NC[0], judged.own_NC, judged.is_kept_NC[0]
    scores = [
        ClassScore(
            name=name,
            probability=float(among[i]),
            calibrated=None if own is None else float(own[0, i]),
            chosen=None if precision is None else bool(kept[i]),
        )
        for i, name in enumerate(names)
    ]
    scores.sort(key=lambda one: -one.probability)
    none = None if precision is None else not kept.any()
    return ClassifyAnswer(model=served.name, classes=scores, none_of_these=none)
