"""What calibrated scores are worth on unseen emoji and on scenes, with two seeds.

``python -m benchmarks.scores`` trains, calibrates on one part of what training has not seen, and
searches the rest in folds, by ``contrastive.train``, ``calibrate``, ``search`` and ``caption``. It
prints the tables of docs/scores.md. A run whose model is there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contrastive
from benchmarks.scores.scenes import write_scenes
from contrastive import FeatureCache, RunSpec, load_model, load_spec
from contrastive.console import quiet, say
from contrastive.data.samples import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

EMOJI = Path(__file__).parents[2] / "examples" / "emoji" / "emoji.yaml"
FOLD = 50  # images, and as many captions
BY_CAPTION = (0.5, 0.7, 0.8, 0.9)
BY_SEARCH = (0.5,)
SEARCHED = 5  # every fifth query: a search takes one at a time
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


def spec_of(data: str, folder: Path, seed: int) -> RunSpec:
    """Return the run of a dataset; scenes are drawn if need be."""
    if data == "emoji":
        return load_spec(RunSpec, EMOJI, [f"training.seed={seed}"])
    if not (folder / "scenes").exists():
        write_scenes(folder / "scenes")
    data_spec = {"type": "flickr30k", "folder": str(folder / "scenes")}
    training = SCENES["training"] | {"seed": seed}
    return RunSpec.model_validate(SCENES | {"data": data_spec, "training": training})


def folds(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of so many images at a time, drawn at random, the first caption of each.

    Neighbours of the data may be of one kind, which is other data than those of the fit.
    """
    first = list({row["id"]: row for row in reversed(rows)}.values())
    random.Random(0).shuffle(first)
    for start in range(0, len(first) - FOLD + 1, FOLD):
        yield first[start : start + FOLD]


def interval(right: int, of: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    z, share = 1.96, right / of
    centre = (share + z * z / 2 / of) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / 4 / of / of)
    return centre - half, centre + half


def measure(data: str, folder: Path, seeds: int) -> dict[str, Any]:
    """Train, calibrate and search with each seed."""
    returned: defaultdict[str, Counter[bool]] = defaultdict(Counter)
    found: dict[str, Any] = {"data": data, "seeds": []}
    for seed in range(seeds):
        spec, run = spec_of(data, folder, seed), folder / f"{data}-{seed}"
        if not (run / "model").exists():
            contrastive.train(spec, run)
        model, cache = load_model(run), FeatureCache()
        fit, test = ("val", "test") if data == "emoji" else ("0+1+2", "3+4+5+6+7+8+9")
        samples = spec.data.build(test)
        report = contrastive.calibrate(
            model, spec.data.build(fit), samples, fit_split=fit, split=test, cache=cache
        )
        (error,) = report.reliability.values()
        found["seeds"].append(
            {
                "error": error.error,
                "of_perfect": error.of_perfect,
                "pairs": error.pairs,
                "rejection": {
                    way: (one.area, one.lost, one.rejected, model.calibration.searches[way].targets)
                    for way, one in report.rejection.items()
                },
            }
        )
        with quiet():
            for fold in folds(list(rows_of(samples))):
                _search(model, fold, returned, cache)
        say(f"{data}, seed {seed}: {json.dumps(found['seeds'][-1])}, {json.dumps(returned)}")
    found["returned"] = {
        name: {"results": counts.total(), "right": counts[True]}
        for name, counts in returned.items()
    }
    return found


def _search(
    model: contrastive.ContrastiveModel,
    fold: list[dict[str, Any]],
    returned: defaultdict[str, Counter[bool]],
    cache: FeatureCache,
) -> None:
    """Count what is right among what is returned of one fold."""
    images, texts = [row["image"] for row in fold], [row["text"] for row in fold]
    fits = [{other["text"] for other in fold if other["id"] == row["id"]} for row in fold]
    for asked in BY_CAPTION:
        captions = contrastive.caption(
            model, images, texts, top=1, min_precision=asked, cache=cache
        )
        for one, right in zip(captions, fits, strict=True):
            returned[f"caption {asked:g}"].update(each.text in right for each in one)
    for asked in BY_SEARCH:
        for row in fold[::SEARCHED]:
            hits = contrastive.search(
                model, row["text"], samples=fold, min_precision=asked, cache=cache
            )
            returned[f"search {asked:g}"].update(hit.source == row["source"] for hit in hits)


def main() -> None:
    """Print the tables and write ``scores.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/scores"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--data", nargs="+", default=["emoji", "scenes"])
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    found = [measure(data, options.output, options.seeds) for data in options.data]
    (options.output / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print("| data | seed | calibration error | of a perfect score | pairs | rejection area |")
    print("|---|---|---|---|---|---|")
    for one in found:
        for seed, each in enumerate(one["seeds"]):
            areas = ", ".join(
                f"{way.replace('_', ' ')} {area:.3f}"
                for way, (area, *_) in each["rejection"].items()
            )
            print(
                f"| {one['data']} | {seed} | {each['error']:.3f} | {each['of_perfect']:.3f} | "
                f"{each['pairs']:,} | {areas} |"
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
