"""What a training step sends, takes and holds on 1 to 1,024 GPUs: a model, each assumption named.

``python -m benchmarks.scale_model`` prints the table of docs/scale.md; ``--count 2`` lets that many
processes of this machine make a step over gloo, and compares what they send with the model. Of the
times, nothing is measured: they follow from ``Machine`` and ``Work``, which are to be replaced by
your own numbers.

Shapes: W ranks, n rows of each, N = W n, D the shared width, P parameters that are trained.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import distributed as dist

if TYPE_CHECKING:
    from collections.abc import Generator

FP32, INT64 = 4, 8
CHUNK_BYTES = 128 * 2**20  # of the logits that chunked holds at once, twice: logit_chunks.py
TIMES_SENT = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}  # by a ring

Execution = Literal["eager", "chunked"]


@dataclass(frozen=True)
class Collective:
    """One call of ``torch.distributed``."""

    what: str
    kind: str
    bytes: int
    """Of the whole tensor: what is gathered, what is to be scattered, what is reduced."""

    def sent(self, ranks: int) -> float:
        """Bytes that a rank sends, if the collective goes round a ring."""
        return TIMES_SENT[self.kind] * self.bytes * (ranks - 1) / ranks


@dataclass(frozen=True)
class Machine:
    """Assumptions about the GPUs and what joins them; those of an H100 with eight in a node."""

    tower_flops: float = 400e12
    """Operations a second that the towers reach in bf16: 40 % of the peak."""
    loss_flops: float = 200e12
    """Operations a second that the loss reaches, by products in bf16."""
    node: int = 8
    """GPUs of a node."""
    inside: float = 300e9
    """Bytes a second that a GPU sends to another of its node (NVLink)."""
    between: float = 320e9
    """Bytes a second that a node sends to others: a link of 400 Gbit/s for each GPU, 80 % of it. A
    ring through all GPUs leaves a node once, so that each link carries its share of the bytes."""
    latency: float = 15e-6
    """Seconds before the first byte of a collective, for each doubling of the ranks."""


@dataclass(frozen=True)
class Work:
    """Assumptions about the run; those of a CLIP ViT-B/16 with 224 pixels and 77 tokens."""

    rows: int = 256
    """Pairs of each GPU, n."""
    dim: int = 512
    """D."""
    parameters: int = 149_620_737
    """P."""
    forward_flops: float = 41e9
    """Operations of both towers for a pair, forward; backward takes twice as many."""
    overlap: float = 0.0
    """Share of the gradients' all-reduce that may hide behind the backward pass: 0 for one piece
    that is sent after it, 1 for buckets that are sent as they are ready."""


def step_collectives(
    ranks: int, rows: int, dim: int, parameters: int, execution: Execution = "chunked"
) -> list[Collective]:
    """Return what a step of a run with ``infonce`` on two modalities calls, in its order."""
    if ranks == 1:
        return []
    total = ranks * rows
    found = [
        Collective("sizes", "all-gather", 2 * INT64 * ranks),
        Collective("ids of a", "all-gather", INT64 * total),
        Collective("ids of b", "all-gather", INT64 * total),
    ]
    if execution == "eager":
        found += [
            Collective("embeddings a", "all-gather", FP32 * total * dim),
            Collective("embeddings b", "all-gather", FP32 * total * dim),
        ]
    else:
        found += [
            Collective("embeddings b", "all-gather", FP32 * total * dim),
            Collective("largest logits of columns", "all-reduce", FP32 * total),
            Collective("sums of columns", "all-reduce", FP32 * (2 * total + 1)),
            Collective("gradients of b", "reduce-scatter", FP32 * total * dim),
        ]
    return [
        *found,
        Collective("unused parameters?", "all-reduce", INT64),
        Collective("loss and gradients", "all-reduce", FP32 * (parameters + 1)),
    ]


@dataclass(frozen=True)
class Step:
    """A step on some ranks: seconds, and bytes on each."""

    ranks: int
    towers: float
    loss: float
    embeddings: float
    gradients: float
    sent: float
    state_bytes: float
    loss_bytes: float
    eager_bytes: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.towers + self.loss + self.embeddings + self.gradients

    @property
    def efficiency(self) -> float:
        """Share of the time that the towers compute."""
        return self.towers / self.seconds


def step(ranks: int, work: Work = Work(), machine: Machine = Machine()) -> Step:
    """Return the model of a step."""
    n, total, dim = work.rows, work.rows * ranks, work.dim
    rate = machine.inside if ranks <= machine.node else min(machine.inside, machine.between)
    calls = step_collectives(ranks, n, dim, work.parameters)

    def seconds(call: Collective) -> float:
        return machine.latency * math.log2(ranks) + call.sent(ranks) / rate

    *others, gradients = (seconds(call) for call in calls) if calls else [0.0]
    towers = 3 * n * work.forward_flops / machine.tower_flops
    hidden = min(work.overlap * gradients, 2 / 3 * towers)
    unit = 2 * n * total * dim  # a product of this rank's rows with all columns
    matrix = FP32 * n * total
    return Step(
        ranks=ranks,
        towers=towers,
        loss=4 * unit / machine.loss_flops,
        embeddings=sum(others),
        gradients=gradients - hidden,
        sent=sum(call.sent(ranks) for call in calls),
        # weights, gradients, two moments; with several ranks, the gradients in one piece as well
        state_bytes=FP32 * work.parameters * (5 if ranks > 1 else 4),
        # all b and its gradient, the sums of columns and what follows from them, two chunks
        loss_bytes=FP32 * (2 * total * dim + 8 * total) + 2 * min(CHUNK_BYTES, matrix),
        eager_bytes=FP32 * (2 * total * dim + 3 * total * total),
    )


def table(work: Work = Work(), machine: Machine = Machine()) -> str:
    """Return the steps from 1 to 1,024 ranks, as Markdown."""
    lines = [
        "| GPUs | batch | towers | loss | embeddings | gradients | step | towers' share "
        "| sent by each | state | loss, chunked | loss, eager |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for power in range(11):
        found = step(2**power, work, machine)
        times = (found.towers, found.loss, found.embeddings, found.gradients, found.seconds)
        cells = [
            f"{found.ranks:,}",
            f"{found.ranks * work.rows:,}",
            *(f"{1000 * seconds:.1f} ms" for seconds in times),
            f"{100 * found.efficiency:.0f} %",
            f"{found.sent / 1e9:.2f} GB",
            f"{found.state_bytes / 1e9:.2f} GB",
            f"{found.loss_bytes / 1e9:.2f} GB",
            f"{found.eager_bytes / 1e9:,.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@contextmanager
def counted() -> Generator[list[tuple[str, int]]]:
    """Note the kind and the bytes of each collective of the toolkit within the block."""
    found: list[tuple[str, int]] = []

    def noting(call: Any, kind: str, which: int) -> Any:
        def note(*tensors: Any, **options: Any) -> Any:
            found.append((kind, tensors[which].numel() * tensors[which].element_size()))
            return call(*tensors, **options)

        return note

    names = {  # torch has the first name since 2.14, and deprecates the second
        "all-gather": (("all_gather_single", "all_gather_into_tensor"), 0),
        "reduce-scatter": (("reduce_scatter_single", "reduce_scatter_tensor"), 1),
        "all-reduce": (("all_reduce",), 0),
    }
    before = {}
    for kind, (either, which) in names.items():
        name = next(name for name in either if hasattr(dist, name))
        before[name] = getattr(dist, name)
        setattr(dist, name, noting(before[name], kind, which))
    try:
        yield found
    finally:
        for name, call in before.items():
            setattr(dist, name, call)


def counted_step(
    rows: int, dim: int, execution: Execution, *, rank: int, size: int
) -> tuple[int, list[tuple[str, int]]]:
    """Make a step of two linear heads on this rank; return P, and what it has sent."""
    from contrastive import build_model
    from contrastive.distributed.ranks import Ranks
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch
    from contrastive.training.step import backward

    torch.manual_seed(0)
    text = {"encoder": {"type": "cbow", "width": 16}, "head": {"type": "linear"}}
    spec = {"embed_dim": dim, "towers": {"text": text | {"frozen": "encoder"}}}
    spec |= {"pairs": [["text", "text"]], "loss": {"type": "infonce", "execution": execution}}
    spec["towers"]["text"]["head"] = {"type": "mlp", "dropout": 0.5}  # the two views differ
    model = build_model(spec).train()
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch = Batch(ids=torch.arange(rows) + rank * rows, features={"text": torch.randn(rows, 16)})
    with counted() as found:
        backward(model, batch, TrainingSpec(), Ranks(rank, size), bf16=False)
    return parameters, found


def differences(
    rows: int, dim: int, execution: Execution, *, rank: int, size: int
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return what the model says of a step, and what was counted."""
    parameters, found = counted_step(rows, dim, execution, rank=rank, size=size)
    model = step_collectives(size, rows, dim, parameters, execution)
    return [(call.kind, call.bytes) for call in model], found


def _count(rank: int, size: int, store: str) -> None:
    """Be a rank that counts; the first prints."""
    if size > 1:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    for execution in ("eager", "chunked"):
        said, found = differences(24, 32, execution, rank=rank, size=size)
        if not rank:
            same = "the same" if said == found else f"the model says {said}"
            total = sum(amount for _, amount in found)
            print(f"{size} ranks, {execution}: {len(found)} calls, {total:,} bytes: {same}")
    if size > 1:
        dist.destroy_process_group()


def main() -> None:
    """Print the table, or count."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--count", type=int, metavar="W", help="count a step of W processes")
    for field in (*fields(Work), *fields(Machine)):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    asked = vars(parser.parse_args())
    if size := asked.pop("count"):
        with tempfile.TemporaryDirectory() as folder:
            context = multiprocessing.get_context("spawn")
            args = size, f"file://{folder}/store"
            started = [context.Process(target=_count, args=(rank, *args)) for rank in range(size)]
            for process in started:
                process.start()
            for process in started:
                process.join()
        return
    work = Work(**{field.name: asked[field.name] for field in fields(Work)})
    print(table(work, Machine(**{field.name: asked[field.name] for field in fields(Machine)})))


if __name__ == "__main__":
    main()
