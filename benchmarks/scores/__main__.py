"""What calibrated scores are worth on unseen emoji and on scenes, with two seeds.

``python -m benchmarks.scores`` trains, calibrates on one part of what training has not seen, and
searches the rest in folds, by ``contrastive.train``, ``calibrate``, ``caption`` and what ``search``
judges by. It prints the tables of docs/scores.md. A run whose model is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import contrastive
from benchmarks.scores.scenes import write_scenes
from contrastive import FeatureCache, RunSpec, load_model, load_spec
from contrastive.console import quiet, say
from contrastive.data.samples import rows_of
from contrastive.evaluation.calibration_error import Rejection, rejection
from contrastive.model.scores import judge_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from contrastive import ContrastiveModel
    from contrastive.evaluation.calibration import CalibrationReport

Rows = list[dict[str, Any]]
Counts = dict[str, Counter[bool]]
EMOJI = Path(__file__).parents[2] / "examples" / "emoji" / "emoji.yaml"
FOLD = 50  # images of which the rejection is measured
SCENES: dict[str, Any] = {
    "model": {
        "embed_dim": 64,
        "towers": {
            "image": {
                "encoder": {"type": "resnet", "width": 16, "image_size": 32},
                "head": {"type": "linear"},
            },
            "text": {
                "encoder": {"type": "cbow", "width": 64, "buckets": 4096},
                "head": {"type": "linear"},
            },
        },
        "loss": {"type": "infonce"},
    },
    "training": {"epochs": 12, "batch_size": 128, "lr": 3e-3, "workers": 0},
    "evaluation": {"split": "0"},
}


@dataclass(frozen=True)
class Data:
    """Two parts of a dataset, and what is asked of them: what 400 results can have."""

    parts: tuple[str, str]
    """The first is fitted on and the second judged on; then, for the results, the other way."""
    captions: tuple[tuple[int, float], ...]
    """Images of a fold, and the precision that is asked for."""
    searches: tuple[tuple[int, float], ...]


DATA = {
    "emoji": Data(
        ("val", "test"),
        captions=((50, 0.5), (10, 0.8), (500, 0.3)),
        searches=((50, 0.5), (10, 0.8), (500, 0.3)),
    ),
    "scenes": Data(
        ("0+1+2+3+4", "5+6+7+8+9"),
        captions=((30, 0.9), (15, 0.95)),
        searches=((50, 0.7), (10, 0.9)),
    ),
}


def spec_of(data: str, folder: Path, seed: int) -> RunSpec:
    """Return the run of a dataset; scenes are drawn if need be."""
    if data == "emoji":
        return load_spec(RunSpec, EMOJI, [f"training.seed={seed}"])
    if not (folder / "scenes").exists():
        write_scenes(folder / "scenes")
    data_spec = {"type": "flickr30k", "folder": str(folder / "scenes")}
    training = SCENES["training"] | {"seed": seed}
    return RunSpec.model_validate(SCENES | {"data": data_spec, "training": training})


def folds(rows: Rows, images: int) -> Iterator[Rows]:
    """Yield the rows of so many images at a time, with all their captions, drawn at random.

    Neighbours of the data may be of one kind, which is other data than those of the fit.
    """
    by_image: dict[Any, Rows] = {}
    for row in rows:
        by_image.setdefault(row["id"], []).append(row)
    groups = list(by_image.values())
    random.Random(0).shuffle(groups)
    for start in range(0, len(groups) - images + 1, images):
        yield [row for group in groups[start : start + images] for row in group]


def interval(right: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / of
    centre = (share + z * z / 2 / of) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / 4 / of / of)
    return centre - half, centre + half


def measure(data: str, folder: Path, seeds: int) -> dict[str, Any]:
    """Train, calibrate and search with each seed, by cosines and by standardised scores."""
    about = DATA[data]
    returned: Counts = {}
    found: dict[str, Any] = {"data": data, "seeds": []}
    for seed in range(seeds):
        spec, run = spec_of(data, folder, seed), folder / f"{data}-{seed}"
        if not (run / "model").exists():
            contrastive.train(spec, run)
        model, cache = load_model(run), FeatureCache()
        measured: dict[str, Any] = {"rejection": {}}
        for fit, test in (about.parts, about.parts[::-1]):
            rows = list(rows_of(samples := spec.data.build(test)))
            for name, background in (("cosine", None), ("standardized", spec.data.build("train"))):
                report = contrastive.calibrate(
                    model,
                    spec.data.build(fit),
                    samples,
                    background=background,
                    fit_split=fit,
                    split=test,
                    cache=cache,
                )
                with quiet():
                    count_results(model, about, rows, name, returned, cache)
                if fit == about.parts[0]:
                    add_measures(measured, name, report, rejections(model, rows, cache))
        found["seeds"].append(measured)
        say(f"{data}, seed {seed}: {json.dumps(measured)}")
    found["returned"] = {
        name: {"results": counts.total(), "right": counts[True]}
        for name, counts in returned.items()
    }
    return found


def add_measures(
    measured: dict[str, Any],
    name: str,
    report: CalibrationReport,
    of_folds: dict[str, Rejection],
) -> None:
    """Add the calibration error and the rejection, of folds and of all."""
    (error,) = report.reliability.values()
    measured |= {"error": error.error, "of_perfect": error.of_perfect, "pairs": error.pairs}
    for way, one in (report.standardized_rejection or report.rejection).items():
        measured["rejection"][f"{name} {way}"] = {
            "area": one.area,
            "rejected": one.rejected,
            "area_of_folds": of_folds[way].area,
            "rejected_of_folds": of_folds[way].rejected,
        }


def rejections(model: ContrastiveModel, rows: Rows, cache: FeatureCache) -> dict[str, Rejection]:
    """Return how the best results' probabilities tell true hits from absent answers, by direction.

    The answer of a query is taken away by a cosine of -1 in its place.
    """
    found: dict[str, Rejection] = {}
    for query, target in (("image", "text"), ("text", "image")):
        hits: list[np.ndarray] = []
        absent: list[np.ndarray] = []
        for fold in folds(rows, FOLD):
            (queries_QD, ids_Q), (targets_TD, ids_T) = (
                embedded(model, fold, modality, cache) for modality in (query, target)
            )
            scores_QT = (queries_QD @ targets_TD.T).double().numpy()
            right_QT = ids_Q[:, None] == ids_T
            wrong_QT = np.where(right_QT, -1.0, scores_QT)
            is_right_Q = np.where(right_QT, scores_QT, -1.0).max(1) > wrong_QT.max(1)
            about = {"items": len(ids_T), "queries_QD": queries_QD}
            there, taken_away = (
                judge_scores(model, (query, target), each_QT, **about).probabilities_Qk.max(1)
                for each_QT in (scores_QT, wrong_QT)
            )
            hits.append(there[is_right_Q])
            absent.append(taken_away)
        found[f"{query}_to_{target}"] = rejection(np.concatenate(hits), np.concatenate(absent))
    return found


def embedded(
    model: ContrastiveModel, fold: Rows, modality: str, cache: FeatureCache
) -> tuple[Tensor, np.ndarray]:
    """Return the embeddings and ids of the distinct images or captions of a fold."""
    own = [
        row for i, row in enumerate(fold) if modality == "text" or row["id"] != fold[i - 1]["id"]
    ]
    samples = [row[modality] for row in own]
    return model.embed(modality, samples, cache=cache), np.array([row["id"] for row in own])


def count_results(
    model: ContrastiveModel,
    about: Data,
    rows: Rows,
    name: str,
    returned: Counts,
    cache: FeatureCache,
) -> None:
    """Count what is right among the best results that are returned of each fold."""
    draw = random.Random(0)
    for size, asked in about.captions:
        counts = returned.setdefault(f"{name}, captions of {size} images, {asked:g}", Counter())
        for fold in folds(rows, size):
            images = {row["id"]: row["image"] for row in fold}
            texts = [row["text"] for row in fold]
            fits = [{row["text"] for row in fold if row["id"] == one} for one in images]
            captions = contrastive.caption(
                model, [*images.values()], texts, top=1, min_precision=asked, cache=cache
            )
            for one, right in zip(captions, fits, strict=True):
                counts.update(each.text in right for each in one)
    for size, asked in about.searches:
        counts = returned.setdefault(f"{name}, search of {size} images, {asked:g}", Counter())
        for fold in folds(rows, size):
            drawn = [draw.choice([*group]) for _, group in groupby(fold, key=lambda row: row["id"])]
            texts_QD, images_TD = (
                model.embed(modality, [row[modality] for row in drawn], cache=cache)
                for modality in ("text", "image")
            )
            scores_QT = (texts_QD @ images_TD.T).double().numpy()
            judged = judge_scores(  # as ``search`` does, for one text
                model,
                ("text", "image"),
                scores_QT,
                items=size,
                queries_QD=texts_QD,
                min_precision=asked,
            )
            for query, best in enumerate(scores_QT.argmax(1)):
                if judged.is_kept_Qk[query, best]:
                    counts[bool(query == best)] += 1


def main() -> None:
    """Print the tables and write ``scores.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/scores"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", nargs="+", default=[*DATA], choices=[*DATA])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found = [measure(data, options.output, options.seeds) for data in options.data]
    (options.output / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print("| data | seed | expected calibration error | of a perfect score | pairs |")
    print("|---|---|---|---|---|")
    for one in found:
        for seed, each in enumerate(one["seeds"]):
            errors = f"{each['error']:.3f} | {each['of_perfect']:.3f} | {each['pairs']:,}"
            print(f"| {one['data']} | {seed} | {errors} |")
    print("\n| data | seed | by | query to target | of 50 images | of all | absent rejected |")
    print("|---|---|---|---|---|---|---|")
    for one in found:
        for seed, each in enumerate(one["seeds"]):
            for name, areas in each["rejection"].items():
                by, way = name.split(" ")
                print(
                    f"| {one['data']} | {seed} | {by} | {way.replace('_', ' ')} | "
                    f"{areas['area_of_folds']:.3f} | {areas['area']:.3f} | "
                    f"{areas['rejected_of_folds']:.0%}, {areas['rejected']:.0%} |"
                )
    print("\n| data | asked | returned | right | 95 % interval |\n|---|---|---|---|---|")
    for one in found:
        for name, each in one["returned"].items():
            right, results = each["right"], each["results"]
            if not results:
                print(f"| {one['data']} | {name} | 0 | - | - |")
                continue
            low, high = interval(right, results)
            print(
                f"| {one['data']} | {name} | {results:,} | {right / results:.1%} | "
                f"{low:.1%} to {high:.1%} |"
            )


if __name__ == "__main__":
    main()
