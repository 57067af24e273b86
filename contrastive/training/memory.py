"""The memory that a training step takes at its peak, and what would make it smaller.

Bytes of weights, gradients and AdamW's moments are counted. Activations are measured: each tower
takes two and four rows forward and back, and what is alive after each operation is extrapolated to
the batch, since it grows by the row. The loss is measured on random embeddings.

``NOT_COUNTED`` says what is taken besides.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.distributed.global_batch import alone
from contrastive.nn.live_bytes import LiveBytes
from contrastive.nn.snapshot import Snapshot
from contrastive.training.batches import Batch
from contrastive.training.step import embedded_by

if TYPE_CHECKING:
    from collections.abc import Iterable

    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import TrainingSpec

NOT_COUNTED = (
    "what kernels take inside an operation, batches that are prepared ahead, workers; "
    "on a GPU its context (about 0.5 GiB) and what torch's allocator holds in reserve"
)
FEW, MORE = 2, 4  # rows that are measured; one is too few for BatchNorm
LOSS_ROWS = 2048  # of a larger loss, which is extrapolated


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a training step takes."""

    rows: int
    """Rows of the batch."""
    weights: int
    """Parameters and buffers, of what is frozen too."""
    optimizer: int
    """AdamW's two moments of what trains."""
    gradients: int
    """Of what trains."""
    inputs: int
    """The batch itself and that of the step before; of micro-batches on a GPU, one."""
    activations: dict[str, int]
    """What each tower keeps for the backward pass, of all rows that it takes at a time."""
    loss: int
    """What the loss takes at its peak."""
    peak: int
    """At the fullest moment; less than the sum, since gradients come as activations go."""
    moment: str
    """Which one that is."""
    process: int | None = None
    """On a CPU, about what the whole process takes at its peak: Python and torch too."""

    def parts(self) -> list[tuple[str, int, str]]:
        """Return what takes memory, how much, and how that is known."""
        towers = [(f"activations: {m}", n, "measured") for m, n in self.activations.items()]
        return [
            ("weights", self.weights, "counted"),
            ("optimizer", self.optimizer, "counted"),
            ("gradients", self.gradients, "counted"),
            ("inputs", self.inputs, "counted"),
            *towers,
            ("loss", self.loss, "measured"),
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True)
class _Tower:
    """Bytes alive in a tower's passes, beside the weights."""

    forward: int
    kept: int
    backward: int
    gradients: int


def step_memory(
    model: ContrastiveModel,
    batch: Batch,
    settings: TrainingSpec,
    *,
    rows: int,
    dtype: torch.dtype | None,
    ranks: int = 1,
) -> StepMemory:
    """Estimate the memory of a training step.

    The model's gradients are lost; buffers and random numbers stay as they are.

    Args:
        model: in training mode, on the device that counts.
        batch: a few rows such as those that are trained on.
        settings: the training's.
        rows: of the batch, on one rank.
        dtype: what the towers are autocast to; None is fp32.
        ranks: how many share the batch; more than one copy their gradients to average them.
    """
    before = Snapshot(model)
    model.zero_grad(set_to_none=True)
    try:
        towers = {m: _tower(model, m, batch, settings, rows, dtype=dtype) for m in model.towers}
        loss = _loss(model, rows * ranks)
    finally:
        before.restore()
        model.zero_grad(set_to_none=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    gradients = _bytes(trained)
    gpu = "cuda" in (model.device.type, settings.device.partition(":")[0])
    moved = min(rows, settings.micro_batch or rows) if gpu else rows  # its part on the device
    held = 1 if gpu and settings.micro_batch else 2  # a batch is kept until its step's log line
    found = StepMemory(
        rows=rows,
        weights=_bytes([*model.parameters(), *model.buffers()]),
        optimizer=2 * gradients,
        gradients=gradients,
        inputs=math.ceil(held * moved * _bytes(_tensors(batch)) / len(batch.ids)),
        activations={m: tower.kept for m, tower in towers.items()},
        loss=loss,
        peak=0,
        moment="",
    )
    moments = _moments(model, towers, settings, rows, loss)
    moments["the optimizer's step"] = gradients  # one pass makes nothing beside them
    if ranks > 1:
        moments["the exchange of gradients"] = 2 * gradients
    moment = max(moments, key=lambda name: moments[name])
    always = found.weights + found.optimizer + found.inputs
    return replace(found, peak=always + moments[moment], moment=moment)


def _moments(
    model: ContrastiveModel,
    towers: dict[str, _Tower],
    settings: TrainingSpec,
    rows: int,
    loss: int,
) -> dict[str, int]:
    """Return the bytes alive at each moment of a step, beside weights, moments and inputs."""
    found: dict[str, int] = {}
    alive = 0
    embeddings = rows * model.spec.embed_dim * 4
    kept = {
        m: tower.kept if _in_one(settings, rows) else model.spec.views(m) * embeddings
        for m, tower in towers.items()
    }
    for name, tower in towers.items():
        if _in_one(settings, rows):
            found[f"the forward pass of {name}"] = alive + tower.forward
        alive += kept[name]
    found["the loss"] = alive + loss
    for name, tower in reversed(towers.items()):
        passes = tower.backward if _in_one(settings, rows) else max(tower.forward, tower.backward)
        found[f"the backward pass of {name}"] = alive - kept[name] + passes
        alive += tower.gradients - kept[name]
    return found


def _in_one(settings: TrainingSpec, rows: int) -> bool:
    return settings.micro_batch is None or settings.micro_batch >= rows


def _tower(
    model: ContrastiveModel,
    modality: str,
    batch: Batch,
    settings: TrainingSpec,
    rows: int,
    *,
    dtype: torch.dtype | None,
) -> _Tower:
    """Measure a tower with few rows, and extrapolate to those that it takes at a time."""
    at_a_time = min(rows, settings.micro_batch or rows)
    few, more = (
        _passes(model, modality, _taken(batch, n, model.device), settings, dtype=dtype)
        for n in (FEW, MORE)
    )
    grown = {name: _extrapolated(few[name], more[name], at_a_time) for name in few}
    forward, backward = grown["forward"], grown["backward"]
    return _Tower(
        forward=int(forward.max(initial=0)),
        kept=int(forward[-1]) if len(forward) else 0,
        backward=int(backward.max(initial=0)),
        gradients=int(few["backward"][-1]) if len(backward) else 0,
    )


def _extrapolated(few: np.ndarray, more: np.ndarray, rows: int) -> np.ndarray:
    """Return the bytes after each operation for ``rows``; the last ones, if the two differ."""
    if len(few) != len(more):  # other operations for other sizes: the peaks, and what is left
        few, more = (np.array([x.max(initial=0), x[-1] if len(x) else 0]) for x in (few, more))
    return few + (more - few) * (rows - FEW) / (MORE - FEW)


def _passes(
    model: ContrastiveModel,
    modality: str,
    batch: Batch,
    settings: TrainingSpec,
    *,
    dtype: torch.dtype | None,
) -> dict[str, np.ndarray]:
    """Return the bytes alive after each operation, forward and back."""
    known = [*model.parameters(), *model.buffers(), *_tensors(batch)]
    with LiveBytes(known) as live:
        with torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            views = embedded_by(model, modality, batch, settings, rows=None)
        forward = len(live.after)
        if trained := [view for view in views if view.requires_grad]:
            torch.autograd.backward(trained, [torch.ones_like(view) for view in trained])
    model.zero_grad(set_to_none=True)
    after = np.array(live.after, dtype=np.int64)
    return {"forward": after[:forward], "backward": after[forward:]}


def _loss(model: ContrastiveModel, rows: int) -> int:
    """Measure the loss of a batch of random embeddings."""
    sizes = [rows] if rows <= LOSS_ROWS else [LOSS_ROWS // 2, LOSS_ROWS]
    peaks = [_loss_peak(model, size) for size in sizes]
    if len(peaks) == 1:
        return peaks[0]
    power = math.log2(peaks[1] / peaks[0])  # 2 for all pairs at once, 1 for chunks
    return int(peaks[1] * (rows / LOSS_ROWS) ** power)


def _loss_peak(model: ContrastiveModel, rows: int) -> int:
    def random() -> Tensor:
        drawn = torch.randn(rows, model.spec.embed_dim, device=model.device)
        return normalize(drawn, dim=-1).requires_grad_()

    views = {m: [random() for _ in range(model.spec.views(m))] for m in model.towers}
    leaves = [view for each in views.values() for view in each]
    ids = torch.arange(rows, device=model.device)
    with LiveBytes([*model.parameters(), *model.buffers(), *leaves, ids]) as live:
        with alone():
            loss, _ = model.pair_loss(views, ids)
        loss.backward()
    return max(live.after)


def _taken(batch: Batch, rows: int, device: torch.device) -> Batch:
    """Return so many rows of a batch, repeated if need be, on a device."""
    places = torch.arange(rows) % len(batch.ids)
    return Batch(
        batch.ids[places],
        convert=batch.convert,
        features={m: x[places].to(device) for m, x in batch.features.items()},
        inputs={
            m: [{name: x[places].to(device) for name, x in view.items()} for view in views]
            for m, views in batch.inputs.items()
        },
    )


def _tensors(batch: Batch) -> list[Tensor]:
    views = [x for views in batch.inputs.values() for view in views for x in view.values()]
    return [*batch.features.values(), *views]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(map(_size, tensors))


def _size(tensor: Tensor) -> int:
    return tensor.nbytes
