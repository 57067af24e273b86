"""Results as tables for people."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from contrastive.console import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.evaluation.caption_choice import PairAccuracy
    from contrastive.evaluation.comparison import Comparison, Measured
    from contrastive.evaluation.evaluate import EvaluationReport
    from contrastive.evaluation.intervals import Estimate
    from contrastive.evaluation.mteb_tasks import MtebReport
    from contrastive.evaluation.probe import Accuracy, ProbeReport
    from contrastive.inference.hits import Hit

ACCURACIES = ("top-1 (95 % interval)", "majority class", "top-5", "mean per class")


def report_tables(report: EvaluationReport) -> list[Table | str]:
    """Return retrieval and zero-shot classification, as far as measured, and notes on them."""
    retrieval = Table(title=_plain(f"retrieval on {report.split}, % (95 % interval)"))
    for name in ("query -> target", "R@1", "R@5", "R@10", "median\nrank", "queries x\ntargets"):
        retrieval.add_column(name, min_width=11 if name.startswith("R@") else None)
    for name, direction in report.retrieval.items():
        retrieval.add_row(
            name.replace("_to_", " -> "),
            *(_shown(estimate) for estimate in direction.recall.values()),
            f"{direction.median_rank:g}",
            f"{direction.queries} x {direction.targets}",
        )
        by_chance = (f"{100 * estimate.chance:.1f}" for estimate in direction.recall.values())
        retrieval.add_row("by chance", *by_chance, style="dim", end_section=True)
    measured: list[Table | str] = [retrieval] if report.retrieval else []
    notes = [printable(note) for note in report.notes]
    if not (zero_shot := report.classification):
        return [*measured, *notes]
    classes = Table(title=_plain(f"zero-shot classification on {report.split}, %"))
    of_one = zero_shot.modality
    counted = f"{of_one}s" if of_one in ("image", "text") else f"{of_one}\nsamples"
    for name in (*ACCURACIES, counted, "classes"):
        classes.add_column(name)
    classes.add_row(
        _shown(zero_shot.accuracy),
        f"{100 * zero_shot.accuracy.chance:.1f}",
        _percent(zero_shot.top5),
        f"{100 * zero_shot.mean_per_class:.1f}",
        str(zero_shot.images),
        str(zero_shot.classes),
    )
    return [*measured, classes, *notes]


def mteb_table(report: MtebReport) -> Table:
    """Return the main score of each task of mteb, and of retrieval the any-hit recall."""
    table = Table(title=_plain(f"tasks of mteb {report.mteb_version}, %"))
    recalls = any(score.recall for score in report.scores)
    names = ("task", "split", "subset", "metric", "score")
    for name in (*names, *(("R@1", "R@5", "R@10") if recalls else ())):
        table.add_column(name)
    for score in report.scores:
        shares = (_percent(score.recall.get(k)) for k in ((1, 5, 10) if recalls else ()))
        about = (score.task, score.split, score.subset, score.metric)
        table.add_row(*map(_plain, about), f"{100 * score.value:.1f}", *shares)
    return table


def memory_table(parts: Sequence[tuple[str, str, str]]) -> Table:
    """Return what takes the memory of a training step, how much, and how that is known."""
    table = Table(title="memory of a training step")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    table.add_column("known by")
    for what, amount, known in parts:
        table.add_row(_plain(what), amount, known)
    return table


def probe_table(report: ProbeReport) -> Table:
    """Return the linear probe at each number of shots, the neighbours and the classes' names."""
    title = f"classes of {report.split} by {report.modality} {report.inputs}, %"
    table = Table(title=_plain(title))
    for name in ("classifier", "training\nsamples", *ACCURACIES, "std of\ndraws", "C"):
        table.add_column(name)
    for point in report.linear:
        name = f"linear, {point.shots} shots" if point.shots else "linear, all"
        chosen = f"{median(point.C):.2g}"
        table.add_row(
            name, str(point.samples), *_cells(point.accuracy), _percent(point.std), chosen
        )
    name = f"{report.knn.k} neighbours"
    table.add_row(name, str(report.train), *_cells(report.knn.accuracy), "", "")
    if report.zero_shot:
        table.add_row("zero-shot", "0", *_cells(report.zero_shot), "", "")
    return table


def pairs_table(results: Sequence[PairAccuracy]) -> Table:
    """Return the shares of tests passed, a row for each file."""
    table = Table(title="images and captions that choose each other, % (95 % interval)")
    for name in ("tests", "text", "image", "group", "by chance", "number"):
        table.add_column(name)
    for found in results:
        estimates = (found.text, found.image, found.group)
        chances = "/".join(f"{100 * estimate.chance:.0f}" for estimate in estimates if estimate)
        shown = (_shown(estimate) if estimate else "-" for estimate in estimates)
        table.add_row(_plain(found.name), *shown, chances, str(found.tests))
    return table


def _cells(accuracy: Accuracy) -> list[str]:
    return [
        _shown(accuracy.top1),
        f"{100 * accuracy.top1.chance:.1f}",
        _percent(accuracy.top5),
        _percent(accuracy.mean_per_class),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def classes_table(results: Sequence[dict[str, Any]], top: int, kind: str = "class") -> Table:
    """Return the likeliest names of each image; by themselves, if a model is calibrated.

    Where a precision was asked for, only the names that reach it, or "none of these".
    """
    table = Table()
    table.add_column("image")
    table.add_column(kind)
    calibrated = any("calibrated" in result for result in results)
    table.add_column("probability", justify="right")
    if calibrated:
        table.add_column(f"of this {kind}\nby itself", justify="right")
    images = short_names([result["image"] for result in results])
    for image, result in zip(images, results, strict=True):
        own = result.get("calibrated", {})
        best = sorted((own or result["probabilities"]).items(), key=lambda item: -item[1])
        names = [name for name, _ in best if name in result.get("chosen", own or dict(best))][:top]
        for index, name in enumerate(names or [None]):
            shown = _plain(image if index == 0 else "")
            if name is None:
                likeliest, probability = best[0]
                nearest = f"none of these (nearest: {likeliest})"
                table.add_row(shown, _plain(nearest), "", f"{probability:.1%}")
                continue
            worth = [f"{own[name]:.1%}"] if calibrated else []
            table.add_row(shown, _plain(name), f"{result['probabilities'][name]:.1%}", *worth)
        table.add_section()
    return table


def short_names(files: Sequence[str]) -> list[str]:
    """Return the name of each file, after as many of its folders as tell all of them apart.

    Example:
        >>> short_names(["val/cat/1.jpg", "val/dog/1.jpg"])
        ['cat/1.jpg', 'dog/1.jpg']
    """
    parts = [Path(file).parts for file in files]
    longest = max(map(len, parts), default=1)
    for count in range(1, longest + 1):
        short = [Path(*each[-count:]).as_posix() for each in parts]
        if len(set(short)) == len(set(parts)):
            return short
    return [*files]


def comparison_table(comparison: Comparison) -> Table:
    """Return what each model says first about each image."""
    table = Table()
    table.add_column("image")
    for model in comparison.probabilities:
        table.add_column(_plain(model))
    answers = zip(*(comparison.top(model) for model in comparison.probabilities), strict=True)
    images = short_names([image["image"] for image in comparison.as_dict()["images"]])
    for image, row in zip(images, answers, strict=True):
        shown = (f"{name} {probability:.1%}" for name, probability in row)
        table.add_row(_plain(image), *map(_plain, shown))
    return table


def measured_tables(measured: Mapping[str, Measured], split: str) -> list[Table]:
    """Return what each model was measured at, or that it was trained on the split."""
    tables = [_retrievals_table(measured, split)]
    reports = {model: found.report for model, found in measured.items() if found.report}
    if any(report.classification for report in reports.values()):
        table = Table(title=_plain(f"zero-shot classification on {split}, %"))
        for name in ("model", *ACCURACIES):
            table.add_column(name)
        for model, report in reports.items():
            if found := report.classification:
                table.add_row(
                    _plain(model),
                    _shown(found.accuracy),
                    f"{100 * found.accuracy.chance:.1f}",
                    _percent(found.top5),
                    f"{100 * found.mean_per_class:.1f}",
                )
        tables.append(table)
    return tables


def _retrievals_table(measured: Mapping[str, Measured], split: str) -> Table:
    table = Table(title=_plain(f"retrieval on {split}, % (95 % interval)"))
    for name in ("model", "query -> target", "R@1", "R@5", "R@10", "held out"):
        table.add_column(name)
    for model, found in measured.items():
        ways = found.report.retrieval if found.report else {}
        for name, direction in ways.items():
            estimates = (_shown(estimate) for estimate in direction.recall.values())
            table.add_row(_plain(model), name.replace("_to_", " -> "), *estimates, found.held_out)
        if not ways:
            held_out = found.held_out if found.report else "no: trained on it"
            table.add_row(_plain(model), *("-" * 4), held_out)
        table.add_section()
    return table


def captions_table(results: Sequence[dict[str, Any]]) -> Table:
    """Return the captions of each image, in the order in which they were chosen."""
    table = Table()
    table.add_column("image")
    table.add_column("cosine", justify="right")
    known = any("probability" in found for result in results for found in result["captions"])
    if known:
        table.add_column("probability", justify="right")
    table.add_column("caption")
    table.add_column("where")
    images = short_names([result["image"] for result in results])
    for image, result in zip(images, results, strict=True):
        for index, found in enumerate(result["captions"]):
            worth = [f"{found['probability']:.1%}"] if known else []
            cosine, text = f"{found['similarity']:.3f}", _plain(found["text"])
            shown = _plain(image if index == 0 else "")
            table.add_row(shown, cosine, *worth, text, _plain(found["source"]))
        if not result["captions"]:
            table.add_row(_plain(image), "", *([""] if known else []), "no match", "")
        table.add_section()
    return table


def hits_table(hits: Sequence[Hit]) -> Table:
    """Return search results, best first."""
    table = Table()
    table.add_column("#", justify="right")
    table.add_column("cosine", justify="right")
    known = any(hit.probability is not None for hit in hits)
    if known:
        table.add_column("probability", justify="right")
    table.add_column("found")
    table.add_column("where")
    for rank, hit in enumerate(hits, 1):
        found, where = _plain(hit.found), _plain(hit.source)
        worth = [f"{hit.probability or 0:.1%}"] if known else []
        table.add_row(str(rank), f"{hit.similarity:.3f}", *worth, found, where)
    return table


def neighbours_table(pairs: Sequence[tuple[Hit, Hit]]) -> Table:
    """Return pairs of rows that are near each other, nearest first."""
    table = Table()
    table.add_column("#", justify="right")
    table.add_column("cosine", justify="right")
    table.add_column("found")
    table.add_column("near it")
    for rank, (hit, other) in enumerate(pairs, 1):
        row = (str(rank), f"{hit.similarity:.3f}", _plain(hit.found), _plain(other.found))
        table.add_row(*row)
    return table


def plugins_table(found: Sequence[dict[str, Any]]) -> Table:
    """Return every component, with what importing it costs."""
    table = Table()
    for name in ("kind", "name", "package", "version", "path", "state"):
        table.add_column(name, overflow="fold")
    table.add_column("import ms", justify="right")
    table.add_column("torch")
    for entry in found:
        state = f"{entry['state']}: {entry['why']}" if entry["why"] else entry["state"]
        row = (entry["kind"], entry["name"], entry["package"], entry["version"], entry["path"])
        ms = "-" if entry["import_ms"] is None else f"{entry['import_ms']:.0f}"
        torch = {None: "-", True: "yes", False: "no"}[entry["torch"]]
        table.add_row(*map(_plain, row), _plain(state), ms, torch)
    return table


def fields_table(fields: Sequence[dict[str, str]]) -> Table:
    """Return the fields of a component."""
    return _texts_table(fields, "name", "type", "default", "help")


def verdicts_table(rows: Sequence[dict[str, str]]) -> Table:
    """Return what the kit for plugins found."""
    return _texts_table(rows, "check", "outcome", "why")


def _texts_table(rows: Sequence[dict[str, str]], *columns: str) -> Table:
    table = Table()
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(row[name]) for name in columns))
    return table


def _shown(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f}-{100 * estimate.high:.1f})"


def _plain(text: str) -> Text:
    """Show a stranger's text without obeying it."""
    return Text(printable(text))
