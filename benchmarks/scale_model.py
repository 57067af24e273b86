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
SIGNALS = 4  # that end a run, on Linux
CHUNK_BYTES = 128 * 2**20  # of the logits that chunked holds at once, twice: logit_chunks.py
TIMES_SENT = {"all-gather": 1, "reduce-scatter": 1, "all-reduce": 2}  # by a ring

Execution = Literal["eager", "chunked"]
Strategy = Literal["ddp", "fsdp"]


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
    overlap: float = 0.8
    """Share of the gradients' exchange that may hide behind the backward pass, which sends them
    bucket by bucket: all but the last ones. Of fsdp, that of the weights, too, behind both."""
    blocks: float = 0.8
    """Share of P in blocks, whose weights fsdp gathers for the forward and for the backward pass;
    those of the rest, such as embeddings of words, once."""
    depth: int = 12
    """Blocks of each tower, of which fsdp holds one or two whole at a time."""


def step_collectives(
    ranks: int, rows: int, dim: int, parameters: int, execution: Execution = "chunked"
) -> list[Collective]:
    """Return what a step of a run with ``infonce`` on two modalities calls, in its order, by ddp.

    By fsdp the gradients' all-reduce is ``sharded_collectives``.
    """
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
        Collective("gradients, in buckets", "all-reduce", FP32 * parameters),
        Collective("loss and signals", "all-reduce", FP32 * (1 + SIGNALS)),
    ]


def sharded_collectives(parameters: int, blocks: float = 0.0) -> list[Collective]:
    """Return what fsdp calls for encoders of so many parameters, whatever the ranks.

    Args:
        parameters: of encoders that train.
        blocks: share of them in blocks.
    """
    again = int(blocks * parameters)
    calls = [
        Collective("weights, forward", "all-gather", FP32 * parameters),
        Collective("weights of blocks, backward", "all-gather", FP32 * again),
        Collective("gradients", "reduce-scatter", FP32 * parameters),
    ]
    return [call for call in calls if call.bytes]


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
    sharded_sent: float
    """Of fsdp, as the next two."""
    sharded_exchange: float
    sharded_bytes: float

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

    *others, gradients, last = (seconds(call) for call in calls) if calls else [0.0, 0.0]
    towers = 3 * n * work.forward_flops / machine.tower_flops
    hidden = min(work.overlap * gradients, 2 / 3 * towers)
    sharded = sharded_collectives(work.parameters, work.blocks) if calls else []
    exchange = sum(seconds(call) for call in sharded)
    unit = 2 * n * total * dim  # a product of this rank's rows with all columns
    matrix = FP32 * n * total
    return Step(
        ranks=ranks,
        towers=towers,
        loss=4 * unit / machine.loss_flops,
        embeddings=sum(others) + last,
        gradients=gradients - hidden,
        sent=sum(call.sent(ranks) for call in calls),
        # weights, gradients (which are the buckets), two moments
        state_bytes=FP32 * work.parameters * 4,
        # all b and its gradient, the sums of columns and what follows from them, two chunks
        loss_bytes=FP32 * (2 * total * dim + 8 * total) + 2 * min(CHUNK_BYTES, matrix),
        eager_bytes=FP32 * (2 * total * dim + 3 * total * total),
        sharded_sent=sum(call.sent(ranks) for call in [*calls[:-2], *sharded, *calls[-1:]]),
        sharded_exchange=exchange - min(work.overlap * exchange, towers),
        # a shard of it; what is in no block, whole with its gradient; two blocks, whole with theirs
        sharded_bytes=FP32 * work.parameters * (4 / ranks)
        + FP32
        * work.parameters
        * 2
        * (1 - work.blocks + 2 * work.blocks / (2 * work.depth))
        * (ranks > 1),
    )


def sharded_table(work: Work = Work(), machine: Machine = Machine()) -> str:
    """Return what the two strategies hold and send on 1 to 1,024 ranks, as Markdown."""
    lines = [
        "| GPUs | state, ddp | state, fsdp | sent by each, ddp | sent by each, fsdp "
        "| waits, ddp | waits, fsdp |",
        "|---|---|---|---|---|---|---|",
    ]
    for power in range(0, 11, 2):
        found = step(2**power, work, machine)
        sizes = found.state_bytes, found.sharded_bytes, found.sent, found.sharded_sent
        cells = [f"{found.ranks:,}", *(f"{size / 1e9:.2f} GB" for size in sizes)]
        waits = found.gradients, found.sharded_exchange
        lines.append(f"| {' | '.join([*cells, *(f'{1000 * t:.1f} ms' for t in waits)])} |")
    return "\n".join(lines)


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
            named = options.get("input")  # of a reduce-scatter, as FSDP2 gives it
            found.append((kind, (tensors[which] if named is None else named).nbytes))
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
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    from contrastive import build_model
    from contrastive.distributed.ranks import Ranks
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch
    from contrastive.training.parallel import StepGradients

    torch.manual_seed(0)
    head = {"type": "mlp", "dropout": 0.5}  # so that the two views differ
    text = {"encoder": {"type": "cbow", "width": 16}, "head": head, "frozen": "encoder"}
    spec = {"embed_dim": dim, "towers": {"text": text}, "pairs": [["text", "text"]]}
    model = build_model(spec | {"loss": {"type": "infonce", "execution": execution}}).train()
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    batch = Batch(ids=torch.arange(rows) + rank * rows, features={"text": torch.randn(rows, 16)})
    step = StepGradients(model, TrainingSpec(), Ranks(rank, size), dtype=None)
    if isinstance(step._loss, DistributedDataParallel):
        step._loss.register_comm_hook(None, allreduce_hook)
    with counted() as found:
        step.compute([batch])
    return parameters, found


def differences(
    rows: int, dim: int, execution: Execution, *, rank: int, size: int, loss_only: bool = False
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Return what the model says of a step, or of its loss alone, and what was counted."""
    own = 1 if loss_only else size
    parameters, found = counted_step(rows, dim, execution, rank=rank, size=own)
    model = step_collectives(size, rows, dim, parameters, execution)
    if loss_only:
        model = model[:-2]
    return [(call.kind, call.bytes) for call in model], found


def sharded_step(rank: int, size: int) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Make a step of a sharded vision transformer; return the model of it, and its calls.

    Both as bytes by kind of collective, without those of a few bytes.
    """
    from PIL import Image

    from contrastive import build_model
    from contrastive.distributed.ranks import Ranks
    from contrastive.nn.layer_stack import blocks
    from contrastive.spec import TrainingSpec
    from contrastive.training.batches import Batch
    from contrastive.training.parallel import StepGradients, shard_towers_

    encoder = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 32, "depth": 2}
    head = {"type": "linear"}
    towers = {
        "image": {"encoder": encoder | {"heads": 2}, "head": head},
        "text": {"encoder": {"type": "cbow", "width": 8}, "head": head, "frozen": "encoder"},
    }
    loss = {"type": "infonce", "execution": "eager"}
    model = build_model({"embed_dim": 8, "towers": towers, "loss": loss}).train()
    network = model.tower("image").encoder
    parameters = sum(p.numel() for p in network.parameters())
    inner = sum(p.numel() for block in blocks(network) for p in block.parameters())
    settings = TrainingSpec.model_validate({"parallel": {"strategy": "fsdp"}})
    batch = Batch(
        ids=torch.arange(4) + 4 * rank,
        inputs={"image": [network.preprocess([Image.new("RGB", (16, 16))] * 4)]},
        features={"text": torch.randn(4, 8)},
    )
    shard_towers_(model, settings, Ranks(rank, size), None)
    step = StepGradients(model, settings, Ranks(rank, size), dtype=None)
    with counted() as found:
        step.compute([batch])
    calls = sharded_collectives(parameters, inner / parameters)
    said = [(call.kind, call.bytes) for call in calls]
    few = max(call.bytes for call in step_collectives(size, 4, 8, 0, "eager"))
    return _by_kind(said), _by_kind([(kind, size) for kind, size in found if size > few])


def _by_kind(calls: list[tuple[str, int]]) -> list[tuple[str, int]]:
    kinds = dict.fromkeys(kind for kind, _ in calls)
    return [(kind, sum(amount for each, amount in calls if each == kind)) for kind in kinds]


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
    if size == 1:
        return
    for said, found in zip(*sharded_step(rank, size), strict=True):
        if not rank:
            print(f"{size} ranks, fsdp, {found[0]}: {found[1]:,} bytes; the model says {said[1]:,}")
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
    machine = Machine(**{field.name: asked[field.name] for field in fields(Machine)})
    print(table(work, machine), sharded_table(work, machine), sep="\n\n")


if __name__ == "__main__":
    main()
