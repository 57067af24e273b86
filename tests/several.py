"""What several processes compute for ``test_distributed``, all of them and the first two."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.functional import normalize

from contrastive.losses import InfoNCE, Sigmoid, auto_execution, execution, functional
from contrastive.losses.dcl import dcl
from contrastive.losses.hard_negative import hard_negative
from contrastive.losses.supcon import supcon

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 600  # seconds until a rank that hangs is given up; on an idle machine all takes ten
WIDTH = 5

OF_ROWS = {"dcl": dcl, "hard_negative": hard_negative, "supcon": supcon}

LAYOUTS = {  # rows of a and of b on each of four processes, or of the first two
    "even": ((4, 4), (4, 4), (4, 4), (4, 4)),
    "uneven": ((7, 7), (3, 3), (5, 5), (1, 1)),
    "empty": ((6, 6), (0, 0), (3, 3), (2, 2)),
    "more b": ((4, 6), (3, 3), (5, 7), (0, 2)),
    "more a": ((5, 5), (6, 3), (2, 2), (3, 0)),
}


@dataclass(frozen=True)
class Case:
    """A loss on a batch that is divided in some way."""

    loss: str
    layout: str
    execution: str
    options: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    with_ids: bool = True
    normalize: bool = False
    outer: float = 1.0
    shards_known: bool = False
    """The loss is told how the global batch is sharded, instead of by which ranks."""

    def __str__(self) -> str:
        parts = [self.loss, *map(str, self.options.values()), self.layout, self.execution]
        parts += ["fp32"] * (self.dtype == torch.float32) + ["raw"] * self.normalize
        parts += ["no ids"] * (not self.with_ids) + ["outer"] * (self.outer != 1)
        parts += ["shards known"] * self.shards_known
        return " ".join(parts)

    def inputs(self, size: int) -> list[dict[str, torch.Tensor | None]]:
        """Return a, b and their ids, of each process."""
        generator = torch.Generator().manual_seed(0)
        found = []
        for n, m in LAYOUTS[self.layout][:size]:
            rows = torch.randn(n + m, WIDTH, generator=generator, dtype=torch.float64)
            rows = rows * 3 if self.normalize else normalize(rows, dim=1)
            ids = torch.randint(0, 6, (max(n, m),), generator=generator) * 2**40 - 3
            a, b = rows.to(self.dtype).split([n, m])
            both = {"a_ids": ids[:n], "b_ids": None if n == m else ids[:m]}
            found.append({"a": a, "b": b} | (both if self.with_ids else {}))
        return found

    def truth(self, *batch: torch.Tensor | None, **scalars: torch.Tensor) -> torch.Tensor:
        """Return the loss of a whole batch, of all its logits."""
        if self.loss in OF_ROWS:
            return OF_ROWS[self.loss](*batch, **scalars, **self.options, execution="eager")
        options = {name: value for name, value in self.options.items() if name != "exchange"}
        return getattr(functional, self.loss)(*batch, **scalars, **options)

    def scalars(self) -> dict[str, torch.Tensor]:
        """Return log_scale, and bias where there is one, as leaves."""
        values = {"log_scale": 1.5} | ({"bias": -2.0} if self.loss == "sigmoid" else {})
        return {
            name: torch.tensor(x, dtype=self.dtype, requires_grad=True)
            for name, x in values.items()
        }


def cases() -> list[Case]:
    losses = [
        ("sigmoid", {}),
        *(("infonce", {"direction": d}) for d in ("both", "a_to_b", "b_to_a")),
    ]
    found = [
        Case(loss, layout, how, options | {"positives": positives})
        for (loss, options), layout, how, positives in product(
            losses, LAYOUTS, ("eager", "chunked"), ("multi", "mask", "ignore")
        )
        if how == "chunked" or positives == "multi" or layout == "uneven"
    ]
    for how, direction in product(("eager", "chunked"), ("both", "a_to_b", "b_to_a")):
        options = {"direction": direction, "label_smoothing": 0.3}
        found.append(Case("infonce", "more b", how, options | {"positives": "mask"}))
        found.append(Case("infonce", "uneven", how, options | {"positives": "multi"}))
    for how, (loss, options) in product(("eager", "chunked"), losses):
        found += [
            Case(loss, "uneven", how, options, dtype=torch.float32),
            Case(loss, "uneven", how, options, normalize=True),
            Case(loss, "more b", how, options, normalize=True, dtype=torch.float32),
            Case(loss, "more b", how, options, with_ids=False),
            Case(loss, "uneven", how, options, outer=0.25),
            Case(loss, "more b", how, options, shards_known=True),
        ]
    of_rows = [
        ("dcl", {"direction": "both", "sigma": 0.5}),
        ("dcl", {"direction": "a_to_b", "candidates": "both"}),
        ("hard_negative", {"beta": 0.5, "tau_plus": 0.1, "candidates": "both"}),
        ("hard_negative", {"beta": 0.5, "direction": "b_to_a"}),
    ]
    for (loss, options), layout in product(of_rows, LAYOUTS):
        for positives in ("multi", "mask") if layout == "more b" else ("multi",):
            found.append(Case(loss, layout, "chunked", options | {"positives": positives}))
        found.append(Case(loss, layout, "chunked", options, with_ids=False))
    for layout, with_ids in product(LAYOUTS, (True, False)):
        found.append(Case("supcon", layout, "chunked", with_ids=with_ids))
    ring = {"exchange": "ring"}
    for (loss, options), layout in product(losses, LAYOUTS):
        found += [
            Case(loss, layout, "chunked", options | ring | {"positives": "multi"}),
            Case(loss, layout, "chunked", options | ring, with_ids=False),
        ]
    for loss, options in losses:
        found += [
            Case(loss, "uneven", "auto", options | ring | {"positives": "mask"}, outer=0.25),
            Case(loss, "more a", "auto", options | ring, normalize=True, dtype=torch.float32),
        ]
    found += [
        Case(loss, "more b", "eager", {"beta": 0.5} if loss == "hard_negative" else {})
        for loss in OF_ROWS
    ]
    return [*found, Case("infonce", "uneven", "auto"), Case("sigmoid", "uneven", "auto")]


def is_by_night(number: int, size: int) -> bool:
    """Tell whether so many processes try a case at night alone: most of two, as four show it."""
    return size == 2 and number % 3 > 0


class Towers(nn.Module):
    """Two towers and a loss, as a user of DistributedDataParallel would wrap them."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right = nn.Linear(WIDTH, 4), nn.Linear(WIDTH, 4)
        self.loss = loss
        self.double()

    def forward(self, a, b, ids):
        a, b = (normalize(x, dim=1) for x in (self.left(a), self.right(b)))
        return self.loss(a, b, ids)[0]


MODULES = {
    f"{config.__name__} {how} {negatives}": config(execution=how, negatives=negatives)
    for config, how, negatives in product(
        (InfoNCE, Sigmoid), ("eager", "chunked"), ("global", "local")
    )
}


def ring_costs(group: Any) -> dict[str, torch.Tensor]:
    """Return the bytes that a step sends round, and the most that are alive, against all-gather."""
    from contrastive.losses.backends import ring
    from contrastive.nn.live_bytes import LiveBytes

    def counting(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        sent.append(x.numel() * x.element_size())
        return pass_on(x, *rest)

    found, pass_on = {}, ring.pass_on
    ring.pass_on = counting
    for name, how in (("infonce", "ring"), ("sigmoid", "ring"), ("infonce", "gather")):
        sent: list[int] = []
        a, b = (torch.nn.functional.normalize(torch.randn(256, 32)).requires_grad_() for _ in "ab")
        bias = {"bias": -3.0} if name == "sigmoid" else {}
        with LiveBytes([a, b]) as live:
            loss_of = getattr(execution, name)
            loss_of(
                a, b, log_scale=1.0, **bias, execution="chunked", exchange=how, group=group
            ).backward()
        found[f"{name}|{how}|sent"] = torch.tensor(sum(sent))
        found[f"{name}|{how}|peak"] = torch.tensor(max(live.after))
    ring.pass_on = pass_on
    return found


def batches(size: int) -> list[list[dict[str, torch.Tensor]]]:
    """Return two unequal batches, each in parts for the processes."""
    parts = Case("infonce", "uneven", "eager").inputs(size)
    again = [{"a": p["b"].flip(0), "b": p["a"].flip(1), "a_ids": p["a_ids"].flip(0)} for p in parts]
    return [parts, again]


def run(case: Case, mine: dict[str, Any], group: Any) -> dict[str, torch.Tensor]:
    """Return the loss of a case and its gradients on this process."""
    scalars = case.scalars()
    leaves = {side: mine[side].clone().requires_grad_() for side in ("a", "b")}
    ids = {side: mine.get(side) for side in ("a_ids", "b_ids")}
    loss_of = OF_ROWS.get(case.loss) or getattr(execution, case.loss)
    options = case.options | ({} if case.loss in OF_ROWS else {"normalize": case.normalize})
    if case.shards_known:
        group = group.pair_shards(*leaves.values())
    value = loss_of(
        *leaves.values(),
        **ids,
        **scalars,
        **options,
        execution=case.execution,
        group=group,
    )
    (value * case.outer).backward()
    return {"value": value.detach()} | {k: x.grad for k, x in (leaves | scalars).items()}


def main(rank: int, size: int, folder: Path, by_night: bool) -> None:
    """Be one of the processes; leave in the folder what it found by day, or by night alone."""
    from safetensors.torch import save_file

    from contrastive.distributed.global_batch import BatchGroup

    warnings.simplefilter("error")
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=PATIENCE)
    )
    found: dict[str, torch.Tensor] = {}
    auto_execution.LARGE["cpu"] = 150  # (7 + 3)**2 pairs are fewer, 4 * 7**2 are not
    first_two = dist.new_group([0, 1])  # every process has to ask for it
    worlds = {size: BatchGroup.current()} | ({2: BatchGroup(first_two)} if rank < 2 else {})
    for (count, group), (number, case) in product(worlds.items(), enumerate(cases())):
        if is_by_night(number, count) is not by_night:
            continue
        result = run(case, case.inputs(count)[rank], group)
        found |= {f"{count}|{case}|{name}": x.contiguous() for name, x in result.items()}
    for name, config in MODULES.items():
        model = nn.parallel.DistributedDataParallel(Towers(config.build()))
        first, second = (parts[rank] for parts in batches(size))
        with model.no_sync():
            found[f"{name}|0"] = part_loss(model, first)
        found[f"{name}|1"] = part_loss(model, second)
        found |= {f"{name}|{k}": p.grad for k, p in model.module.named_parameters()}
    try:
        n, m = (3, 2) if rank else (2, 3)
        a, b = torch.randn(n, WIDTH), torch.randn(m, WIDTH)
        execution.infonce(a, b, log_scale=torch.ones(()), group=worlds[size])
    except ValueError as error:
        (folder / f"error-{rank}").write_text(str(error))
    found |= ring_costs(worlds[size])
    save_file(found, folder / f"found-{rank}.safetensors")
    dist.destroy_process_group()


def part_loss(model: nn.Module, part: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the loss of a batch, and accumulate the gradient of half of it."""
    loss = model(part["a"], part["b"], part["a_ids"])
    (loss / 2).backward()
    return loss.detach()
