"""A model as ONNX files, one a tower: what onnxruntime opens in Python, a browser or a telephone.

::

    image.onnx  text.onnx    encoder, head and normalisation; any number of samples at a time
    onnx.json                what a sample goes through before, input and output, the logit scale
    text.tokenizer.json      of the library tokenizers, if the tower has one
    embed.py                 onnx.json carried out with numpy, Pillow and tokenizers
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.encoders.given_module import GivenModule
from contrastive.errors import SpecError
from contrastive.exporters.onnx.graph import write_graph
from contrastive.exporters.onnx.image_steps import image_steps
from contrastive.exporters.onnx.text_steps import TEXTS, text_steps
from contrastive.exporters.plain import logit_bias
from contrastive.exporters.targets import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.model.model import ContrastiveModel

ABOUT = "onnx.json"
EMBED = Path(__file__).parent.parent / "templates" / "embed.py"


def check(model: ContrastiveModel, towers: Sequence[str]) -> None:
    """Insist that what a sample goes through can be said without our code.

    Raises:
        SpecError: it cannot.
        MissingExtra: the exporter or the runtime is not installed.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, extra="export")
    for modality in towers:
        _steps(model, modality)


def write(model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
    """Write a graph for each tower, and what a sample goes through before.

    Raises:
        SpecError: torch cannot export a tower; says why.
    """
    about: dict[str, Any] = {}
    notes: list[str] = []
    for modality in towers:
        steps, tokenizer = _steps(model, modality)
        if tokenizer is not None:
            (folder / steps["file"]).write_text(tokenizer, encoding="utf-8")
        place = folder / f"{modality}.onnx"
        graph = write_graph(model.tower(modality), modality, _samples(model, modality), place)
        about[modality] = {
            "file": place.name,
            "inputs": graph.inputs,
            "output": graph.output,
            "batches": graph.batches,
            "preprocess": steps,
        }
        if graph.batches != "of any":
            notes.append(f"towers.{modality}: samples of a batch must be {graph.batches}")
    content = {
        "format": 1,
        "embed_dim": model.spec.embed_dim,
        "logit_scale": model.scale,
        "logit_bias": logit_bias(model),
        "towers": about,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (folder / ABOUT).write_text(f"{text}\n", encoding="utf-8")
    shutil.copyfile(EMBED, folder / EMBED.name)
    return notes


def usage(folder: Path, towers: Sequence[str]) -> str:
    """Return how the folder is loaded."""
    sample = '"a red square"' if "text" in towers else '"photo.jpg"'
    modality = "text" if "text" in towers else towers[0]
    return (
        "import sys\n"
        f"sys.path.insert(0, {quoted(folder)})\n"
        "from embed import Model\n"
        f'embeddings = Model({quoted(folder)}).embed("{modality}", [{sample}])'
    )


def _steps(model: ContrastiveModel, modality: str) -> tuple[dict[str, Any], str | None]:
    """Return what a sample of a modality goes through before the graph.

    Raises:
        SpecError: there are no words for it.
    """
    encoder = model.tower(modality).encoder
    if not isinstance(encoder, GivenModule):
        if encoder.modality == "image":
            return image_steps(encoder, modality), None
        if encoder.modality == "text":
            return text_steps(encoder, modality, f"{modality}.tokenizer.json")
    msg = (
        f"towers.{modality}: an export to onnx has words for what images and texts go through, not "
        f"for {type(encoder).__name__}"
    )
    raise SpecError(msg)


def _samples(model: ContrastiveModel, modality: str) -> list[Any]:
    """Return six samples of several sizes, of which the graph is made."""
    if model.tower(modality).encoder.modality == "image":
        from PIL import Image

        return [Image.new("RGB", (64 + 16 * i, 64)) for i in range(6)]
    # a shorter text beside: without padding in the example, masks might be left out of the graph
    return [TEXTS[0], "a dog", *TEXTS[1:3] * 2]
