"""Weights of 8 bits: a quarter of the file, and what that costs in recall on held-out rows.

Dynamic quantisation of ONNX Runtime: weights are rounded once, activations at each run by their own
range. What is lost depends on the model, so it is measured.

Shapes: Q distinct samples, D the model's shared width.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from itertools import permutations
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.data.bad_rows import bad_rows_of
from contrastive.data.columns import chosen, keys_in, some_rows, values_of
from contrastive.data.images import open_image
from contrastive.data.samples import rows_of
from contrastive.errors import DataError
from contrastive.evaluation.retrieval import recall
from contrastive.exporters.onnx.image_steps import runtime
from contrastive.inference.embed_distinct import embed_modality

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.inference.embed_distinct import EmbeddedModality
    from contrastive.model.model import ContrastiveModel

ROWS = 1000  # that recall is measured on: to within a percent, in minutes
KS = (1, 5)
AT_ONCE = 64


def write_int8(
    model: ContrastiveModel, folder: Path, towers: Sequence[str], samples: Samples | None
) -> list[str]:
    """Write the towers of an export with weights of 8 bits; return what was measured, in lines.

    Args:
        model: in eval mode, fp32, on the CPU.
        folder: the export; its ``onnx.json`` is to name the new files.
        towers: the modalities.
        samples: a built dataset of held-out rows; without it recall is not measured.
    """
    place = folder / "onnx.json"
    about: dict[str, Any] = json.loads(place.read_text("utf-8"))
    for modality in towers:
        tower = about["towers"][modality]
        tower["int8"] = f"{modality}.int8.onnx"
        _quantize(folder / tower["file"], folder / tower["int8"])
    place.write_text(f"{json.dumps(about, indent=1, ensure_ascii=False)}\n", encoding="utf-8")
    lines = [_sizes(folder, modality, about["towers"][modality]) for modality in towers]
    found = _measured(model, folder, towers, samples)
    about["int8_measured"] = found
    place.write_text(f"{json.dumps(about, indent=1, ensure_ascii=False)}\n", encoding="utf-8")
    if not found:
        return [*lines, "int8: its recall is not measured, without held-out pairs; give --data"]
    for name, values in found["recall"].items():
        told = ", ".join(
            f"R@{k} {100 * fp32:.1f} % -> {100 * int8:.1f} %" for k, (fp32, int8) in values.items()
        )
        lines.append(f"int8: {name} on {found['rows']} held-out rows: {told}")
    return lines


def _quantize(source: Path, place: Path) -> None:
    """Round the weights of matrices, convolutions and tables."""
    library = require("onnxruntime.quantization", extra="export")
    onnx = require("onnx", extra="export")
    is_split = source.with_name(f"{source.name}.data").exists()
    whole = onnx.load(source)
    kinds = Counter(node.op_type for node in whole.graph.node)
    del whole.graph.value_info[:]  # inferred anew: torch 2.10 notes some shapes of its example
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the graph was not prepared, which torch has done
    try:
        library.quantize_dynamic(
            whole,
            place,
            # convolutions of integers exist for unsigned weights alone
            weight_type=library.QuantType.QUInt8 if kinds["Conv"] else library.QuantType.QInt8,
            use_external_data_format=is_split,
        )
    finally:
        logger.setLevel(level)


def _sizes(folder: Path, modality: str, tower: dict[str, Any]) -> str:
    whole, small = (
        sum(path.stat().st_size for path in folder.glob(f"{tower[which]}*"))
        for which in ("file", "int8")
    )
    return f"int8: {modality} {small / 1e6:.1f} MB, {whole / 1e6:.1f} MB in fp32"


def _measured(
    model: ContrastiveModel, folder: Path, towers: Sequence[str], samples: Samples | None
) -> dict[str, Any]:
    """Return recall with fp32 and with int8, by direction; nothing where there are no pairs."""
    if samples is None:
        return {}
    rows = rows_of(samples)
    if len(towers) < 2 or not {*towers} <= {*keys_in(rows)}:
        return {}
    rows = some_rows(rows, range(min(ROWS, len(rows))))
    bad = bad_rows_of(samples).copy()  # the dataset may be measured again
    small = runtime().Model(folder, int8=True)
    found: dict[str, dict[int, list[float]]] = {}
    columns = {m: embed_modality(model, rows, m, bad) for m in towers}
    rounded = {m: _embedded(small, rows, m, columns[m]) for m in towers}
    for a, b in permutations(towers, 2):
        ids = columns[a].ids_Q, columns[b].ids_Q
        fp32 = recall(columns[a].embeddings_QD, columns[b].embeddings_QD, *ids, ks=KS)
        int8 = recall(rounded[a], rounded[b], *ids, ks=KS)
        found[f"{a} to {b}"] = {k: [fp32.recall[k].value, int8.recall[k].value] for k in KS}
    return {"rows": len(rows), "recall": found}


def _embedded(
    small: Any, rows: Sequence[dict[str, Any]], modality: str, column: EmbeddedModality
) -> torch.Tensor:
    """Return the embeddings ``[Q, D]`` of a column's distinct samples, by the small files."""
    samples = chosen(values_of(rows, modality), column.rows)
    parts: list[torch.Tensor] = []
    for start in range(0, len(samples), AT_ONCE):
        some = samples[start : start + AT_ONCE]
        if modality == "image":
            some = [open_image(sample) for sample in some]
        parts.append(torch.from_numpy(small.embed(modality, some)))
    found = torch.cat(parts)
    if not found.isfinite().all():
        msg = f"towers.{modality}: int8 gives embeddings that are not finite; export without --int8"
        raise DataError(msg)
    return found
