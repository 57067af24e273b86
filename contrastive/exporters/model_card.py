"""The model card: what a model is, what it was measured to do, and how four programs load it.

Every figure comes from a measurement that is passed in, or from what the run wrote down; what is
not known is said to be unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.arguments import check_model
from contrastive.config.extras import require
from contrastive.errors import DataError, SpecError
from contrastive.evaluation.evaluate import EvaluationReport
from contrastive.exporters.plain import logit_bias
from contrastive.exporters.record import Record
from contrastive.exporters.targets import TARGETS, Program, refusal, usage_of
from contrastive.model.hub import ALONE, LIBRARY
from contrastive.model.scores import calibration_of
from contrastive.reporting.clip_benchmark import dataset_name
from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.evaluation.intervals import Estimate
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec

INSTALL: dict[Program, str] = {
    "contrastive": 'pip install "contrastive-kit[all]"',
    "transformers": "pip install transformers torch torchvision",
    "sentence-transformers": "pip install sentence-transformers timm torchvision",
    "onnx": "pip install onnxruntime numpy pillow tokenizers",
}


def model_card(
    model: ContrastiveModel,
    record: Record | EvaluationReport | None = None,
    *,
    to: Program = "contrastive",
    repo_id: str = ALONE,
) -> str:
    """Return a model card: Markdown with the metadata that the Hub reads.

    Args:
        model: the model.
        record: what is known of it; or what ``evaluate`` found on data that it has not seen.
        to: the program that the card's folder is for.
        repo_id: the repository that it goes to; or the name of its folder, which has no slash.

    Raises:
        SpecError: ``record`` is something else.
        DataError: the report is of rows that the model was trained on.
        MissingExtra: huggingface-hub is not installed.

    Example:
        >>> print(model_card(model).split("---")[2].strip().splitlines()[0])
        # NAME
    """
    check_model(model)
    known = _record(record)
    name = repo_id.rpartition("/")[2]
    parts = [
        f"# {name}",
        _what(model, to),
        "## Measured",
        _measured(model, known),
        _calibrated(model),
        "## Trained",
        _trained(model, known),
        "## Load it",
        _loading(model, to, repo_id),
        "## Licence",
        _licence(known),
    ]
    return f"---\n{_metadata(model, known, to, name)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _record(given: Record | EvaluationReport | None) -> Record:
    if given is None:
        return Record()
    if isinstance(given, EvaluationReport):
        return Record(report=given)
    if not isinstance(given, Record):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"record: what evaluate returned, or a Record, not {type(given).__name__}"
        raise SpecError(msg)
    return given


def _what(model: ContrastiveModel, to: Program) -> str:
    about = (_encoder, _head, _frozen)
    rows = [
        f"| {modality} | {' | '.join(said(model, modality) for said in about)} |"
        for modality in model.towers
    ]
    form = {
        "contrastive": "a saved model of contrastive-kit",
        "onnx": "ONNX graphs of its towers",
    }.get(to, f"a model of {to}")
    return "\n".join(
        [
            f"A contrastive model of {' and '.join(model.towers)}, embeddings of "
            f"{model.spec.embed_dim} dimensions and length 1, as {form}.",
            "",
            "| tower | encoder | head | frozen in training |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Scores are cosines times {model.scale:.4g}{_bias(model)}.",
        ]
    )


def _bias(model: ContrastiveModel) -> str:
    bias = logit_bias(model)
    return "" if bias is None else f", plus {bias:.4g}"


def _encoder(model: ContrastiveModel, modality: str) -> str:
    config = model.tower(modality).spec.encoder
    kind = config.registry.name_of(type(config))
    name = str(getattr(config, "name", "") or getattr(config, "architecture", "") or "")
    return f"{kind}, {_shown(name)}" if name else kind


def _shown(name: str) -> str:
    """Return the name of a model; of a path, its last part alone."""
    return Path(name).name if _is_path(name) else name


def _is_path(name: str) -> bool:
    return Path(name).is_absolute() or name.startswith((".", "~")) or Path(name).exists()


def _head(model: ContrastiveModel, modality: str) -> str:
    head = model.tower(modality).spec.head
    return head.registry.name_of(type(head))


def _frozen(model: ContrastiveModel, modality: str) -> str:
    spec = model.tower(modality).spec
    return {"none": "nothing", "all": "encoder and head"}.get(spec.frozen, spec.frozen) + (
        ", but LoRA" if spec.lora else ""
    )


def _measured(model: ContrastiveModel, known: Record) -> str:
    report = known.report
    if report is None:
        return f"Not measured: {known.why_not}."
    check_held_out(report, known.run)
    compared = [modality for modality, hashes in model.seen.items() if len(hashes)]
    unseen = ", which training has not seen" if compared else ""
    split = f"the split `{report.split}`" if report.split else "data"
    of = f" of {name}" if (name := _measured_on(known)) else ""
    lines = [
        f"On {split}{of}{unseen}. Intervals are of 95 %, by bootstrap over "
        "groups; chance is what guessing would give."
    ]
    lines += ["", "| metric | value | interval | chance | of |", "|---|---|---|---|---|"]
    for name, direction in report.retrieval.items():
        among = f"{direction.queries:,} queries, {direction.targets:,} targets"
        lines += [
            f"| {name.replace('_', ' ')} R@{k} | {_row(found)} | {among} |"
            for k, found in direction.recall.items()
        ]
    if report.classification:
        found = report.classification
        among = f"{found.images:,} {found.modality} samples, {found.classes:,} classes"
        lines.append(f"| zero-shot top-1 | {_row(found.accuracy)} | {among} |")
    lines += ["", _leaks(report, compared)]
    if known.truncated is not None:
        lines.append(
            f"The text tower does not read the end of {known.truncated:.2%} of the captions."
            if known.truncated
            else "The text tower reads every caption to its end."
        )
    lines += [f"{note[0].upper()}{note[1:]}." for note in report.notes]
    return "\n".join(lines)


def _calibrated(model: ContrastiveModel) -> str:
    """Return what a cosine is worth as a probability, if that is known."""
    calibration = calibration_of(model)
    if calibration is None:
        return "What a score is worth as a probability is not calibrated."
    lines = [
        f"Scores are calibrated on {calibration.fitted_on} (`calibration.json` of the saved "
        "model). At even odds, two samples of a cosine `c` belong together with a probability of:",
        "",
    ]
    lines += [
        f"- {name.replace('_', ' and ', 1)}: `1 / (1 + exp(-({fit.slope:.4g} * c + "
        f"{fit.offset:.4g})))`"
        for name, fit in calibration.pairs.items()
    ]
    return "\n".join(lines)


def _measured_on(known: Record) -> str:
    """Return what to call the data of the report; "" if that is not known."""
    data = known.data or (known.run and known.run.data)
    return dataset_name(data) if data else ""


def check_held_out(report: EvaluationReport, run: RunSpec | None = None) -> None:
    """Insist that a report is of data that the model has not seen, as far as it says.

    Raises:
        DataError: it is not.
    """
    if report.split in ("train", run.training.split if run else "train"):
        msg = "the report is of the training split, and a card has none of seen data; measure on"
        raise DataError(f"{msg} another split")


def _row(found: Estimate) -> str:
    return f"{found.value:.1%} | {found.low:.1%} to {found.high:.1%} | {found.chance:.1%}"


def _leaks(report: EvaluationReport, compared: Sequence[str]) -> str:
    if not compared:
        return (
            "Whether training has seen some of it is not known: the model keeps no hashes of what "
            "it was trained on; of texts it never does."
        )
    if report.dropped:
        return (
            f"{report.dropped:,} rows that training has too, by the SHA-256 of their content, or "
            "that are of their groups, were left out."
        )
    what = " and ".join("images" if m == "image" else f"{m} samples" for m in compared)
    return f"None of its {what} was trained on, by the SHA-256 of their content."


def _trained(model: ContrastiveModel, known: Record) -> str:
    loss = model.spec.loss
    lines = [f"- loss: {loss.registry.name_of(type(loss))}"]
    facts = next((line["run"] for line in reversed(known.log) if "run" in line), None)
    if known.run is None:
        lines.append("- data and settings: not recorded with the model")
    else:
        training = known.run.training
        name = (facts or {}).get("dataset") or dataset_name(known.run.data)
        kind = type(known.run.data)
        kind = kind.registry.name_of(kind)
        epochs = "epoch" if training.epochs == 1 else "epochs"
        lines += [
            f"- data: {name}" + ("" if kind == name else f" ({kind})"),
            f"- {training.epochs} {epochs} of batches of {training.batch_size:,}, learning rate "
            f"{training.lr:g}, weight decay {training.weight_decay:g}, seed {training.seed}",
        ]
    if facts:
        rows = facts["captions"]["rows"] if "captions" in facts else 0
        pairs = f", {rows:,} pairs" if rows else ""
        lines.append(
            f"- {facts.get('steps', 0):,} steps in {facts.get('precision', 'fp32')}{pairs}"
        )
    if known.step is not None and known.step != (facts or {}).get("steps"):
        lines.append(f"- saved after {known.step:,} steps, before the run had ended")
    validated = next((line for line in reversed(known.log) if "evaluation" in line), None)
    if validated:
        found = validated.get("evaluation", {"retrieval": {}})["retrieval"]
        best = [
            f"{name.replace('_', ' ')} R@{k} {direction['recall'][k]['value']:.1%}"
            for name, direction in found.items()
            for k in direction["recall"]
            if k == "1"
        ]
        if best:
            lines.append(
                f"- on the validation split after epoch {validated.get('epoch', 0):g}: "
                + ", ".join(best)
            )
    if known.differences:
        differ = ", ".join(f"{m} {x:.1e}" for m, x in known.differences.items())
        again = "; `python verify.py` measures it again" if known.repeatable else ""
        lines.append(
            f"- this folder's embeddings differ from the trained model's by {differ}{again}"
        )
    lines.append(f"- written by contrastive-kit {__version__}")
    return "\n".join(lines)


def _loading(model: ContrastiveModel, to: Program, repo_id: str) -> str:
    towers = [*model.towers]
    on_hub = "/" in repo_id
    name = f"hf:{repo_id}" if on_hub else repo_id
    parts: list[str] = []
    for program in TARGETS:
        if program == to:
            place = name if program == "contrastive" else repo_id
            if program == "onnx" and on_hub:
                place = repo_id.rpartition("/")[2]
                lead = f"```console\n$ hf download {repo_id} --local-dir {place}\n```\n\n"
            else:
                lead = ""
            parts.append(
                f"### {program}\n\n```console\n$ {INSTALL[program]}\n```\n\n{lead}"
                f"```python\n{usage_of(program, Path(place), towers)}\n```"
            )
        elif (to, program) == ("transformers", "sentence-transformers") and _opens(model):
            parts.append(
                f"### {program}\n\nIt opens the same folder. Its embeddings have the "
                "same direction, and length 1 by `encode(..., normalize_embeddings=True)`.\n\n"
                f"```console\n$ {INSTALL[program]}\n```\n\n"
                f"```python\n{usage_of(program, Path(repo_id), towers)}\n```"
            )
        elif to != "contrastive":
            parts.append(f"### {program}\n\nNot from this folder, which is for {to}.")
        elif problem := refusal(model, program, towers):
            parts.append(f"### {program}\n\nNot possible: {problem}.")
        else:
            command = f"contrastive export --to {program} --model {name} -o exported"
            parts.append(
                f"### {program}\n\n```console\n$ {INSTALL['contrastive']}\n$ {command}\n```\n\n"
                f"```python\n{usage_of(program, Path('exported'), towers)}\n```"
            )
    return "\n\n".join(parts)


def _opens(model: ContrastiveModel) -> bool:
    """Whether sentence-transformers embeds as the model does what is written for transformers.

    It pads texts to the longest, which SigLIP's towers do not.
    """
    preprocess: Any = model.tower("text").encoder.preprocess
    return preprocess.padding == "longest"


def _licence(known: Record) -> str:
    if known.licence:
        return f"{known.licence}."
    return "Not stated: whoever shares this model has not said. Its encoders have their own."


def _metadata(model: ContrastiveModel, known: Record, to: Program, name: str) -> str:
    hub = require("huggingface_hub", extra="hub")
    configs = [model.tower(modality).spec.encoder for modality in model.towers]
    names = [str(x) for config in configs if (x := getattr(config, "name", None))]
    bases = [x for x in dict.fromkeys(names) if "/" in x and not _is_path(x)]
    both = {"image", "text"} <= {*model.towers}
    library = {"contrastive": LIBRARY}.get(to, to)
    data = hub.ModelCardData(
        model_name=name,
        library_name=library,
        license=known.licence,
        base_model=bases or None,
        pipeline_tag="zero-shot-image-classification" if both else "feature-extraction",
        tags=["contrastive-learning", "contrastive-kit", *model.towers],
        eval_results=[*_results(hub, known)] or None,
    )
    return data.to_yaml()


def _results(hub: Any, known: Record) -> list[Any]:
    if known.report is None:
        return []
    data = _measured_on(known) or "data"
    return [
        hub.EvalResult(
            task_type="zero-shot-image-classification" if "top-1" in name else "retrieval",
            dataset_type=data,
            dataset_name=data,
            dataset_split=known.report.split or None,
            metric_type="accuracy" if "top-1" in name else f"recall_at_{name.rpartition('@')[2]}",
            metric_name=name.replace("_", " "),
            metric_value=round(float(row["value"]), 6),
        )
        for row in known.report.rows()
        for name in [str(row["metric"])]
    ]
