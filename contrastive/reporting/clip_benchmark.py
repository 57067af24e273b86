"""Results as CLIP_benchmark writes them, for tables that hold its results too.

One mapping a task, with its keys and the names of its metrics; ``split`` is added. A file with one
of them is what ``clip_benchmark build`` takes.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.data.storage.atomic_files import replace_file
from contrastive.data.storage.folders import named_file
from contrastive.datasets import Flickr30k, ImageFolder
from contrastive.datasets.known_files import ANNOTATIONS, PLACES, first_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.datasets import Dataset
    from contrastive.evaluation.caption_choice import PairAccuracy
    from contrastive.evaluation.evaluate import EvaluationReport
    from contrastive.evaluation.probe import ProbeReport

NAMED = re.compile(rb'"dataset":\s*"([a-z0-9-]+)"\s*}\s*$')
NAME_BYTES = 200  # bytes of a name, of the 255 that file systems take
Result = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """What was measured, in CLIP_benchmark's words."""

    dataset: str
    model: str
    pretrained: str
    """Which weights of the model."""
    split: str
    language: str = "en"

    def result(self, task: str, metrics: Mapping[str, Any]) -> Result:
        """Return the result of a task."""
        return {
            "dataset": self.dataset,
            "model": self.model,
            "pretrained": self.pretrained,
            "task": task,
            "metrics": dict(metrics),
            "language": self.language,
            "split": self.split,
        }


def dataset_name(data: Dataset) -> str:
    """Return what to call a dataset: by its type, or by its folder if anything may be in it.

    Files in the form of Flickr30k say themselves what they are.
    """
    if isinstance(data, ImageFolder):
        return Path(data.folder).absolute().name
    if isinstance(data, Flickr30k) and data.folder and (said := _said_by(data)):
        return said
    return type(data).registry.name_of(type(data))


def _said_by(data: Flickr30k) -> str:
    """Return the name at the end of Karpathy's JSON in a folder; "" without such a file."""
    folder = Path(data.folder or "").expanduser()
    given = data.annotations
    file = folder / given if given else first_file(folder, ANNOTATIONS, PLACES)
    if file is None or file.suffix != ".json" or not file.is_file():
        return "flickr8k" if file and file.name.startswith("Flickr8k") else ""
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - NAME_BYTES))
            found = NAMED.search(opened.read())
    except OSError:  # told by whoever reads its captions
        return ""
    return found[1].decode() if found else ""


def evaluation_results(report: EvaluationReport, subject: Subject) -> list[Result]:
    """Return retrieval between images and texts, and zero-shot classification, if measured."""
    results: list[Result] = []
    names = {"text_to_image": "image", "image_to_text": "text"}  # what is retrieved
    if recalls := {
        f"{name}_retrieval_recall@{k}": estimate.value
        for direction, name in names.items()
        if direction in report.retrieval
        for k, estimate in report.retrieval[direction].recall.items()
    }:
        results.append(subject.result("zeroshot_retrieval", recalls))
    if found := report.classification:
        metrics = {
            "acc1": found.accuracy.value,
            "acc5": found.top5,
            "mean_per_class_recall": found.mean_per_class,
        }
        results.append(subject.result("zeroshot_classification", metrics))
    return results


def probe_results(report: ProbeReport, subject: Subject) -> list[Result]:
    """Return the linear probe, a result for each number of shots; -1 is all samples."""
    return [
        subject.result(
            "linear_probe",
            {
                "lp_acc1": point.accuracy.top1.value,
                "lp_acc5": point.accuracy.top5,
                "lp_mean_per_class_recall": point.accuracy.mean_per_class,
                "fewshot_k": point.shots or -1,
            },
        )
        for point in report.linear
    ]


def pair_results(found: PairAccuracy, subject: Subject) -> list[Result]:
    """Return the choices between captions, and between images where there are two."""
    metrics = {"text_acc": found.text.value, "acc": (found.group or found.text).value}
    if found.image:
        metrics["image_acc"] = found.image.value
    return [subject.result("image_caption_selection", metrics)]


def write_results(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write a file for each result and return their paths; that of an earlier call is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for result in results:
        keys = ("dataset", "split", "pretrained", "model", "language", "task")
        parts = [str(result[key]) for key in keys]
        if "fewshot_k" in result["metrics"]:
            parts.append(str(result["metrics"]["fewshot_k"]))
        name = _short(re.sub(r"[^\w.-]+", "-", "_".join(parts)).lstrip("."))
        names = (folder / f"{name}{f'-{i}' if i else ''}.json" for i in range(len(results)))
        path = next(path for path in names if path not in paths)
        with named_file(path):
            replace_file(path, f"{json.dumps(result, indent=1)}\n".encode())
        paths.append(path)
    return paths


def _short(name: str) -> str:
    """Return a name that a disk takes: the middle of a long one, that of a path, becomes a hash."""
    if len(name.encode()) <= NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    start, end = (
        part.decode(errors="ignore") for part in (name.encode()[:90], name.encode()[-90:])
    )
    return f"{start}-{digest}-{end}"
