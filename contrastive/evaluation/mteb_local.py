"""Retrieval between the images and texts of a dataset of ours, as tasks of mteb.

They have the rules of ``evaluate``: each distinct sample of a group once, a query scores if any of
the right targets is among the first k, and ties count against the model. mteb's own hit rate breaks
ties by names and is rounded to five digits, so recall by these rules stands beside it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.columns import chosen, ids_of, values_of
from contrastive.data.decodable import undecodable
from contrastive.data.images import StoredImage, encoded, open_image
from contrastive.data.samples import check_modalities, rows_of
from contrastive.evaluation.leakage import held_out_rows
from contrastive.evaluation.retrieval import KS
from contrastive.inference.embed_distinct import distinct_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from contrastive.data.bad_rows import BadRows
    from contrastive.data.samples import Sample, Samples
    from contrastive.spec import Shared

ANY_HIT = "any_hit_recall_at_{}"
"""Recall as ``evaluate`` defines it; mteb's own ``recall`` is of all right targets."""
DIRECTIONS = {"T2I": ("text", "image"), "I2T": ("image", "text")}


def local_tasks(
    samples: Samples,
    *,
    name: str,
    split: str = "test",
    seen: Mapping[str, Tensor] | None = None,
    shared: Shared = "refuse",
    workers: int = 0,
) -> list[Any]:
    """Return two tasks of mteb: images for texts, ``NAME-SPLIT-T2I``, and texts for images.

    Args:
        samples: a built dataset of images and texts; rows with equal ids belong together.
        name: what to call it.
        split: what to call the split.
        seen: hashes of the samples that the model was trained on, as ``model.seen``.
        shared: ``refuse`` rows that it was trained on, or ``drop`` them and their groups.
        workers: processes that look whether images can be decoded.

    Raises:
        DataError: rows have no image or no text, the model was trained on some, or too many images
            cannot be decoded.
        MissingExtra: mteb is not installed.
    """
    require("mteb", extra="mteb")
    rows = rows_of(samples)
    check_modalities(rows, ["image", "text"])
    rows = held_out_rows(seen or {}, rows, split, shared)
    known = bad_rows_of(samples)
    bad = known.copy()
    parts = {modality: _Part(rows, modality, bad, workers) for modality in ("text", "image")}
    bad.check(len(rows) + known.bad)
    for line in bad.lines:
        say(line)
    return [
        _task(f"{name}-{split}-{way}", way.lower(), split, parts[query], parts[target])
        for way, (query, target) in DIRECTIONS.items()
    ]


class _Part:
    """The distinct samples of a modality, named by their number, and the group of each."""

    def __init__(self, rows: Sequence[Sample], modality: str, bad: BadRows, workers: int) -> None:
        found = distinct_rows(rows, modality)
        first: list[int] = found.first_Q.tolist()
        samples = chosen(values_of(rows, modality), first)
        problems = undecodable(samples, workers=workers) if modality == "image" else {}
        times: list[int] = np.bincount(found.which_N).tolist()
        for i, problem in problems.items():
            bad.report(str(rows[first[i]].get("source", "")), problem, rows=times[i])
        good = [i for i in range(len(first)) if i not in problems]
        self.groups: list[int] = ids_of(rows)[[first[i] for i in good]].tolist()
        self.names = [f"{modality}-{i}" for i in good]
        self._samples = [samples[i] for i in good]
        self._modality = modality

    def dataset(self) -> Any:
        datasets = require("datasets", extra="mteb")
        if self._modality == "text":
            return datasets.Dataset.from_dict({"id": self.names, "text": self._samples})
        features = datasets.Features({"id": datasets.Value("string"), "image": datasets.Image()})
        images = [_image(sample) for sample in self._samples]
        return datasets.Dataset.from_dict({"id": self.names, "image": images}, features=features)


def _image(sample: Any) -> Any:
    """Return an image in a form that datasets stores."""
    if isinstance(sample, (str, Path)):
        return str(sample)
    held = isinstance(sample, (bytes, StoredImage))
    return {"bytes": bytes(encoded(sample)), "path": None} if held else open_image(sample)


def _task(name: str, category: str, split: str, queries: _Part, targets: _Part) -> Any:
    retrieval = require("mteb.abstasks.retrieval", extra="mteb")
    task_metadata = require("mteb.abstasks.task_metadata", extra="mteb")

    names_by_group: dict[int, list[str]] = defaultdict(list)
    for target, group in zip(targets.names, targets.groups, strict=True):
        names_by_group[group].append(target)
    most = max(map(len, names_by_group.values()), default=1)

    class LocalRetrieval(retrieval.AbsTaskRetrieval):
        """Data that are there already."""

        # so many targets are kept for a query that ties with those that are not cannot change a hit
        k_values = (*KS, KS[-1] + most)
        metadata = task_metadata.TaskMetadata(
            name=name,
            description="Retrieval between images and texts of a dataset on this machine.",
            dataset={"path": name, "revision": "local"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=["text", "image"],
            eval_splits=[split],
            eval_langs=["eng-Latn"],
            main_score=ANY_HIT.format(1),
        )

        def task_specific_scores(
            self, scores: Any, qrels: Any, results: dict[str, dict[str, float]], **_: Any
        ) -> dict[str, float]:
            """Return the share of queries with a right target among the first k."""
            del scores
            ranks = [_rank(found, qrels[query]) for query, found in results.items()]
            return {ANY_HIT.format(k): sum(r <= k for r in ranks) / len(ranks) for k in KS}

    task: Any = LocalRetrieval()
    task.dataset = {
        "default": {
            split: {
                "queries": queries.dataset(),
                "corpus": targets.dataset(),
                "relevant_docs": {
                    query: dict.fromkeys(names_by_group[group], 1)
                    for query, group in zip(queries.names, queries.groups, strict=True)
                },
                "top_ranked": None,
            }
        }
    }
    task.data_loaded = True
    return task


def _rank(found: Mapping[str, float], right: Collection[str]) -> float:
    """Return 1 plus the number of wrong targets that score as high as the best right one."""
    best = max((score for name, score in found.items() if name in right), default=None)
    if best is None:
        return math.inf
    return 1 + sum(score >= best for name, score in found.items() if name not in right)
