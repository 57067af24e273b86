"""Train, measure, search, export; write ``report/``, ``images/``, ``onnx/`` in the run's folder.

Run it as ``python examples/emoji/demo.py [A.B=VALUE]...``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from contrastive import FeatureCache, RunSpec, build_index, export, load_spec, train
from contrastive.cli import run_guarded
from contrastive.console import say
from contrastive.data.images import open_image
from contrastive.data.samples import rows_of
from contrastive.evaluation.evaluate import evaluate
from contrastive.reporting.plots import draw_curves, draw_hits
from contrastive.reporting.tables import report_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

QUERIES = (
    "fruit",
    "clothes",
    "a building",
    "a smiling face",
    "a vehicle on rails",
    "something sweet to eat",
)
SHOWN = 8  # images for each query
SAVED = ("dog", "pizza", "rose", "snake", "taxi", "violin")  # unseen, to try commands on
ELSEWHERE = ("a pet", "something to eat", "a musical instrument")


def saved(rows: Sequence[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return rows whose images are files, for what shows them."""
    folder.mkdir()
    places = {row["id"]: folder / f"{row['id']}.png" for row in rows}
    for row in rows:
        if not (place := places[row["id"]]).exists():
            open_image(row["image"]).save(place)
    return [row | {"image": str(places[row["id"]])} for row in rows]


def demo(overrides: list[str]) -> None:
    """Run the whole example, from images to report."""
    started = time.monotonic()
    spec = load_spec(RunSpec, Path(__file__).with_name("emoji.yaml"), overrides)
    folder = spec.output or Path("runs/emoji")
    if (folder / "log.jsonl").exists():  # the run of an earlier demo
        shutil.rmtree(folder)
    model = train(spec, folder)

    samples = spec.data.build("test")
    result = evaluate(model, samples, split="test", cache=FeatureCache())
    console = Console()
    for table in report_tables(result):
        console.print(table)

    rows = saved(rows_of(samples), folder / "test")
    index = build_index(model, rows, folder / "index", model_folder=folder).index
    first = {row["id"]: row for row in reversed(rows)}  # of each image
    found = index.search(model.embed("text", QUERIES), "image", k=SHOWN)
    searches = [
        (query, [(row["image"], row["text"]) for row in (first[hit.row.id] for hit in hits)])
        for query, hits in zip(QUERIES, found, strict=True)
    ]
    for query, hits in searches:
        console.print(f"{query}: {', '.join(words for _, words in hits)}", highlight=False)

    report = folder / "report"
    report.mkdir()
    draw_curves(folder / "log.jsonl", report / "curves.png")
    draw_hits(searches, report / "retrieved.png")
    (report / "results.json").write_text(json.dumps(result.as_dict(), indent=1) + "\n")
    images = folder / "images"
    images.mkdir()
    for row in rows:
        if row["text"] in SAVED:
            open_image(row["image"]).save(images / f"{row['text']}.png")

    exported = export(model, "onnx", folder / "onnx", samples=samples)
    largest = max(exported.differences.values())
    say(f"exported: {exported.folder}; largest difference in ONNX Runtime: {largest:.1e}")
    there = Path(__file__).with_name("elsewhere.py")
    command = [sys.executable, there, exported.folder, images, *ELSEWHERE]
    subprocess.run(command, check=True)  # noqa: S603 - our own script
    say(f"{time.monotonic() - started:.0f} s; report: {report}")
    say(f"a page to search these emoji on: contrastive serve {folder / 'index'}")


if __name__ == "__main__":
    run_guarded(lambda: demo(sys.argv[1:]))
