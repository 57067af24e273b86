"""A tower as an ONNX graph: encoder, head and normalisation, for batches and texts of any length.

Shapes: B samples, D the model's shared width.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from contrastive.config.extras import require
from contrastive.encoders.image_encoder import ImageEncoder
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.errors import SpecError, reason_of
from contrastive.nn.memory import out_of_memory

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from contrastive.model.tower import TowerModule

OPSET = 18
"""Of ONNX: runtimes since 2023 have it."""
LARGEST = 1_500_000_000
"""Bytes of weights within the file itself; a file of protobuf holds at most 2 GB."""
QUIET = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


@dataclass(frozen=True)
class Graph:
    """What a file takes and gives."""

    inputs: dict[str, dict[str, Any]]
    """Type and shape of each, by name; open dimensions have names."""
    output: str
    batches: str
    """Which samples may be in one batch: ``of any``, ``of one length`` or ``of one row``."""


class Embedder(nn.Module):
    """A tower whose inputs come in a row, as a graph has them."""

    def __init__(self, tower: TowerModule, names: Sequence[str]) -> None:
        super().__init__()
        self.tower = tower
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return embeddings ``[B, D]``."""
        encoder: Any = self.tower.encoder
        inputs = dict(zip(self.names, tensors, strict=True))
        # not what groups texts by their lengths, since a graph makes no groups
        alone = isinstance(encoder, (TokenEncoder, ImageEncoder))
        features = encoder.encode(**inputs) if alone else encoder(**inputs)
        # not by ``project``, whose checks count rows, which fixes how many these are
        weight = next(self.tower.head.parameters(), features)
        return normalize(self.tower.head(features.to(weight.dtype)).float(), dim=-1)


def batches_of(tower: TowerModule) -> str:
    """Return which samples may be in one batch."""
    if getattr(tower.encoder, "by_length", False):
        return "of one length"
    return "of one row" if getattr(tower.encoder, "one_by_one", False) else "of any"


def write_graph(tower: TowerModule, modality: str, samples: Sequence[Any], place: Path) -> Graph:
    """Write a tower's graph; weights of more than ``LARGEST`` bytes go into a file beside it.

    Args:
        tower: in eval mode, on the CPU.
        modality: its modality.
        samples: of at least two sizes, of which two and four are tried.
        place: the file.

    Raises:
        SpecError: torch cannot export the encoder or the head; says why.
    """
    first, second = (tower.encoder.preprocess(several) for several in _examples(samples))
    names = [*first]
    shapes = {name: _open_shape(first[name], second[name]) for name in names}
    output = f"{modality}_embeds"  # not "embedding", which an inner value is called
    program = _exported(tower, modality, list(first.values()), shapes, output)
    used = {value.name for node in program.model.graph for value in node.inputs if value}
    graph_inputs = program.model.graph.inputs
    for value in [value for value in graph_inputs if value.name not in used]:
        graph_inputs.remove(value)  # such as a mask that the model is not to see
    size = sum(x.nbytes for x in (*tower.parameters(), *tower.buffers()))
    program.save(str(place), external_data=size > LARGEST)
    inputs = {
        name: {"dtype": str(first[name].dtype).removeprefix("torch."), "shape": shapes[name]}
        for name in names
        if name in used
    }
    return Graph(inputs, output, batches_of(tower))


def _examples(samples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    return [*samples[:2]], [*samples[2:6]]


def _open_shape(first: Tensor, second: Tensor) -> list[int | str]:
    """Return the shape of an input, with names for what differs between two batches."""
    open_names = {0: "batch", 1: "length"}
    both = enumerate(zip(first.shape, second.shape, strict=True))
    return [a if a == b else open_names.get(i, f"size_{i}") for i, (a, b) in both]


def _exported(
    tower: TowerModule,
    modality: str,
    tensors: Sequence[Tensor],
    shapes: dict[str, list[int | str]],
    output: str,
) -> Any:
    """Return torch's program; what attention computes in one call is written out if need be.

    Raises:
        SpecError: torch cannot export it.
    """
    module = Embedder(tower, [*shapes]).eval()
    dynamic = [
        {i: n for i, n in enumerate(shape) if isinstance(n, str)} for shape in shapes.values()
    ]
    problems: list[BaseException] = []
    for attention in (None, "eager"):
        try:
            with _exportable(tower, attention), _quiet(), torch.no_grad():
                return torch.onnx.export(
                    module,
                    tuple(tensors),
                    dynamo=True,
                    dynamic_shapes=(tuple(dynamic),),
                    input_names=[*shapes],
                    output_names=[output],
                    opset_version=OPSET,
                    verbose=False,
                )
        except Exception as error:
            if out_of_memory(error):
                raise
            problems.append(error)
        if not any(True for _ in _attention_configs(tower)):
            break
    encoder = tower.spec.encoder
    who = encoder.registry.name_of(type(encoder))
    msg = f"towers.{modality}: torch.onnx cannot export {who}: {_first_cause(problems[0])}"
    raise SpecError(msg) from problems[0]


def _first_cause(error: BaseException) -> str:
    """Return what an error began with; torch wraps it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(reason_of(cast("Exception", error)).split())[:200]


def _attention_configs(tower: nn.Module) -> Generator[Any]:
    """Yield the configs of models of transformers that name an implementation of attention."""
    for part in tower.modules():
        config = getattr(part, "config", None)
        if getattr(config, "_attn_implementation", None) not in (None, "eager"):
            yield config


@contextmanager
def _exportable(tower: nn.Module, attention: str | None) -> Generator[None]:
    """Within a block, take implementations that a graph can have; numbers stay within rounding."""
    mha: Any = torch.backends.mha
    fast = mha.get_fastpath_enabled()
    before = [(config, config._attn_implementation) for config in _attention_configs(tower)]
    mha.set_fastpath_enabled(False)  # one kernel for a whole layer of torch's transformer
    try:
        for config, _ in before if attention else ():
            config._attn_implementation = attention
        yield
    finally:
        mha.set_fastpath_enabled(fast)
        for config, name in before:
            config._attn_implementation = name


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporter, which tells of its own steps; what fails is an error."""
    require("onnxscript", extra="export")
    loggers = [logging.getLogger(name) for name in QUIET]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        nowhere = io.StringIO()
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
