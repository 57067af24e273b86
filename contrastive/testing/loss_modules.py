"""Checks of losses: scale, gradients, state, and what any contrastive loss makes of pairs and ids.

``check_loss`` compares a loss with its reference to the last digits; these checks need none.

Shapes: N pairs, D wide.
"""

from __future__ import annotations

import math
import pickle  # noqa: TID251  (as it is sent to processes of our own)
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch.nn.functional import normalize

from contrastive.distributed.global_batch import BatchGroup
from contrastive.errors import TrainingError, a_type
from contrastive.losses.module import LossModule
from contrastive.losses.on_ranks import GATHER, has_local_negatives, other_on_ranks
from contrastive.testing import modules
from contrastive.testing.checks import Check, Fault, Skipped, expect
from contrastive.testing.generic import Subject
from contrastive.testing.processes import in_ranks

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.distributed.ranks import Ranks
    from contrastive.losses import Loss

Ids = Literal["honoured", "unused"]
WIDTHS = (32, 128, 512, 2048)  # D that are tried: a loss may need many dimensions
FAR = 50.0  # a logarithm that no logit scale should have
MOST = 1.5  # times, by which a mean over rows may grow where a sum doubles
CLOSE_LOSSES = 1e-4  # of the value: sums in another order
IN_LOGARITHMS = "compute in logarithms: logsumexp, logsigmoid, log_softmax"


@dataclass(frozen=True)
class LossSubject(Subject):
    """The loss under test; every call builds the module afresh, as some have a memory."""

    config: Loss
    embed_dim: int | None
    ids: Ids

    def make(self, log_scale: float | None = None) -> LossModule:
        """Build the loss, maybe with another scale."""
        torch.manual_seed(0)
        module = self.config.build()
        if log_scale is not None:
            with torch.no_grad():
                module.log_scale.fill_(log_scale)
        return module

    @cached_property
    def width(self) -> int:
        """D: the author's, or the first that the loss takes."""
        refusal = ""
        for width in [self.embed_dim] if self.embed_dim else WIDTHS:
            try:
                self.config.check(embed_dim=width, pairs=1)
            except ValueError as error:
                refusal = str(error)
            else:
                return width
        raise Fault(f"it takes no width that was tried ({refusal})", "say embed_dim=")

    @property
    def ignores_ids(self) -> bool:
        """Whether its fields say that it ignores ids."""
        fields = str(self.config.model_dump())  # those of nested losses too
        return self.ids == "unused" or "'positives': 'ignore'" in fields

    def pairs(self, n: int = 8, *, orthogonal: bool = False) -> tuple[Tensor, Tensor]:
        """Return related embeddings; if ``orthogonal``, equal pairs at right angles to others."""
        generator = torch.Generator().manual_seed(0)
        rows = torch.randn(self.width, self.width, generator=generator)
        if orthogonal:
            basis = cast("Tensor", torch.linalg.qr(rows)[0])
            return basis[:n], basis[:n].clone()
        other = rows + torch.randn(rows.shape, generator=generator)
        return normalize(rows[:n], dim=1), normalize(other[:n], dim=1)

    def call(self, module: LossModule, *batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what a module gives in training mode for a, b and maybe ids."""
        try:
            return module.train()(*batch)
        except TrainingError as error:
            raise Skipped(f"embeddings and ids are not enough for it: {error}") from None

    def value(self, *batch: Tensor, log_scale: float | None = None) -> float:
        """Return the loss as a number."""
        return self.call(self.make(log_scale), *batch)[0].item()


def builds(subject: LossSubject) -> None:
    """Build returns a LossModule."""
    modules.build_checked(subject.make, LossModule)
    subject.pairs()  # of a width that it takes


def owns_its_scale(subject: LossSubject) -> None:
    """Its log_scale, ln(1 / temperature), is a finite scalar: a parameter, or a buffer if fixed."""
    module = subject.make()
    scale: Any = getattr(module, "log_scale", None)
    expect(isinstance(scale, torch.Tensor), f"log_scale is {type(scale).__name__}")
    owned = any(scale is x for x in (*module.parameters(), *module.buffers()))
    problem = "log_scale is a plain tensor: not trained, not saved, not moved to a GPU"
    expect(owned, problem, "make it an nn.Parameter, or register_buffer it if it is fixed")
    expect(scale.ndim == 0 and scale.isfinite(), f"log_scale is {scale.tolist()}")


def returns_a_scalar(subject: LossSubject) -> None:
    """Forward gives a finite scalar with a gradient, and a dict of detached scalar metrics."""
    a, b = subject.pairs()
    result: Any = subject.call(subject.make(), a.requires_grad_(), b)
    pair = cast("tuple[Any, ...]", result) if isinstance(result, tuple) else ()
    is_pair = len(pair) == 2 and isinstance(pair[1], dict)
    expect(is_pair, "forward gives no pair of a loss and a dict")
    loss, metrics = cast("tuple[Tensor, dict[str, Any]]", pair)
    is_scalar = loss.shape == () and loss.is_floating_point()
    expect(is_scalar, f"the loss is {loss.dtype} of the shape {tuple(loss.shape)}")
    expect(loss.isfinite(), f"the loss is {loss.tolist()}", IN_LOGARITHMS)
    for name, x in metrics.items():
        scalar = isinstance(x, torch.Tensor) and x.numel() == 1 and not x.requires_grad
        expect(scalar, f"metric {name!r} is no detached scalar tensor")


def has_gradients(subject: LossSubject) -> None:
    """Gradients reach both embeddings and every parameter, and are finite."""
    module = subject.make()
    a, b = (x.requires_grad_() for x in subject.pairs())
    loss, _ = subject.call(module, a, b)
    learned = {name: x for name, x in module.named_parameters() if x.requires_grad}
    modules.check_gradients(loss, {"a": a, "b": b, **learned}, IN_LOGARITHMS)


def leaves_inputs(subject: LossSubject) -> None:
    """A call changes neither embeddings nor ids."""
    given = (*subject.pairs(), torch.arange(8) // 2)
    kept = [x.clone() for x in given]
    subject.call(subject.make(), *given)
    for name, x, before in zip(("a", "b", "a_ids"), given, kept, strict=True):
        expect(torch.equal(x, before), f"a call changes {name} in place")


def prefers_matched_pairs(subject: LossSubject) -> None:
    """Matched pairs cost less than the same rows in another order."""
    a, b = subject.pairs(orthogonal=True)
    right, wrong = subject.value(a, b), subject.value(a, b.roll(1, 0))
    problem = f"matched pairs cost {right:.3g}, mismatched ones {wrong:.3g}"
    expect(right < wrong, problem, "pull row i of a to row i of b; mind the sign")


def uses_its_scale(subject: LossSubject) -> None:
    """Well matched pairs cost less at a larger log_scale, the logarithm of 1 / temperature."""
    a, b = subject.pairs(4, orthogonal=True)
    low, high = (subject.value(a, b, log_scale=x) for x in (-1.0, 0.0))  # smoothing bounds more
    if close(low, high) and not isinstance(subject.make().log_scale, torch.nn.Parameter):
        raise Skipped("its log_scale is fixed, and not used")
    problem = f"as log_scale grows from -1 to 0, matched pairs cost {high:.3g} after {low:.3g}"
    expect(high < low, problem, "multiply cosines by log_scale.exp(), which is 1 / temperature")


def keeps_precision(subject: LossSubject) -> None:
    """It is finite at a logit scale of 100, and computed in fp32 under autocast too."""
    a, b = subject.pairs()
    highest = math.log(100)
    for other in (a.clone(), b, -a):
        row = a.clone().requires_grad_()
        loss, _ = subject.call(subject.make(highest), row, other)
        grads = cast("tuple[Tensor | None]", torch.autograd.grad(loss, row, allow_unused=True))
        finite = all(x.isfinite().all() for x in (loss, *grads) if x is not None)
        problem = f"at a logit scale of 100 the loss is {float(loss.detach())}, or its gradient"
        expect(finite, problem, IN_LOGARITHMS)
    expected = subject.value(a, b.roll(1, 0), log_scale=highest)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = subject.value(a, b.roll(1, 0), log_scale=highest)
    problem = f"under autocast to bf16 the loss is {found:.6g} instead of {expected:.6g}"
    expect(close(found, expected), problem, "take logits from LossModule.logits")


def ignores_order(subject: LossSubject) -> None:
    """The order of the pairs, with their ids, does not matter; nor do two calls differ."""
    a, b = subject.pairs()
    ids = torch.arange(8) // 2
    expected, again = (subject.value(a, b, ids) for _ in range(2))
    problem = f"two builds under one seed give {expected:.6g} and {again:.6g} for one batch"
    expect(again == expected, problem, "draw from torch's global generator, if at all")
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    found = subject.value(a[order], b[order], ids[order])
    problem = f"the loss is {found:.6g} for pairs that gave {expected:.6g} in another order"
    expect(close(found, expected), problem)


def honours_ids(subject: LossSubject) -> None:
    """Rows with equal ids are no negatives of each other; distinct ids change nothing."""
    a, b = subject.pairs()
    plain = subject.value(a, b)
    for what, ids in {"small": torch.arange(8), "large": 2**40 + 3 * torch.arange(8)}.items():
        found = subject.value(a, b, ids)
        problem = f"with distinct {what} ids it is {found:.6g}, without ids {plain:.6g}"
        expect(close(found, plain), problem)
    if subject.ignores_ids:
        raise Skipped("its fields, or ids='unused', say that it ignores ids")
    found = subject.value(a, b, torch.arange(8) // 2)
    problem = "rows of one group are negatives of each other: ids change nothing"
    remedy = "honour a_ids and b_ids; if the loss has no negatives, check it with ids='unused'"
    expect(not close(found, plain), problem, remedy)


def close(found: float, expected: float) -> bool:
    """Return whether rounding explains the difference of two losses."""
    return abs(found - expected) <= CLOSE_LOSSES * max(abs(expected), 1e-2)


def averages_rows(subject: LossSubject) -> None:
    """It is a mean over rows: twice as many rows, each as bad, cost about the same.

    Matched pairs point away from each other and all others are at right angles, so that each row
    costs much, and more negatives add little.
    """
    few, many = (
        subject.value(a, -b) for a, b in (subject.pairs(n, orthogonal=True) for n in (4, 8))
    )
    problem = f"of 8 rows it is {many:.4g}, of half of them, each as bad, {few:.4g}"
    remedy = "average over rows, so that a learning rate holds for any batch_size"
    expect(many - few <= (MOST - 1) * abs(few), problem, remedy)


def is_one_on_ranks(subject: LossSubject) -> None:
    """Over ranks that have a part of the batch each, it is the loss of the whole batch."""
    if has_local_negatives(subject.make()):
        raise Skipped("its negatives are those of each rank")
    try:
        pickle.dumps(subject.config)
    except Exception as error:
        why = "its class is of no module that another process could import"
        raise Skipped(why) from error
    found = in_ranks(2, compared_on_rank, subject.config, subject.width)[0]
    if isinstance(found, str):
        raise Skipped(f"embeddings and ids are not enough for it: {found}")
    if found:
        on_ranks, whole = found
        values = f"of one batch {on_ranks:.4g} instead of {whole:.4g}, or with other gradients"
        raise Fault(f"on two ranks it is another loss than on one: {values}", GATHER)


def compared_on_rank(ranks: Ranks, config: Loss, width: int) -> tuple[float, float] | str | None:
    """Compare a loss over ranks with that on one, in one of these; or say what it needs."""
    torch.manual_seed(0)
    try:
        return other_on_ranks(config.build(), width, ranks, torch.device("cpu"))
    except TrainingError as error:
        return str(error)


def keeps_bounds(subject: LossSubject) -> None:
    """clamp_ brings a learned log_scale back within its bounds."""
    module = subject.make(FAR)
    if not isinstance(module.log_scale, torch.nn.Parameter):
        raise Skipped("its log_scale is fixed")
    module.clamp_()
    problem = f"after clamp_() log_scale is still {FAR:g}"
    expect(module.log_scale.item() < FAR, problem, "clamp it in clamp_(), to ln 100 as CLIP does")


def describes_itself(subject: LossSubject) -> None:
    """Its logits, description and batch group have the types that the training loop needs."""
    module = subject.make()
    a, b = subject.pairs()
    shape = tuple(module.logits(a, b[:5]).shape)
    expect(shape == (8, 5), f"logits of 8 and 5 rows have the shape {shape}, not [N, M]")
    how: Any = module.describe(8, 8, a.shape[1], a.dtype, a.device)
    expect(isinstance(how, str), f"describe() gives {how!r}", "return a word such as eager")
    group: Any = module.batch_group()
    problem = f"batch_group() gives {a_type(group)}"
    expect(isinstance(group, BatchGroup | None), problem, "return None or BatchGroup.current()")


def keeps_its_state(subject: LossSubject) -> None:
    """A trained model that is saved and loaded goes on as the one that was not."""
    a, b = subject.pairs()
    subject.call(subject.make(), a, b)  # skips a loss that needs more than a batch
    spec = modules.model_spec(subject.width, loss=subject.config)
    model, loaded = modules.saved_and_loaded(spec, modules.WORDS)
    problem, remedy = "changes once saved and loaded", "let load_state_dict restore it unchanged"
    modules.expect_same(modules.state_of(model), modules.state_of(loaded), problem, remedy)
    expected, found = (subject.call(each.loss, a, b)[0].item() for each in (model, loaded))
    problem = f"saved and loaded, it gives {found:.6g} for a batch that gave {expected:.6g}"
    expect(close(found, expected), problem, modules.IN_STATE)


LOSS_CHECKS: tuple[Check, ...] = (
    Check("build", builds),
    Check("log_scale", owns_its_scale, needs=("build",)),
    Check("output", returns_a_scalar, needs=("log_scale",)),
    Check("gradients", has_gradients, needs=("output",)),
    Check("inputs", leaves_inputs, needs=("output",)),
    Check("pairs", prefers_matched_pairs, needs=("inputs",)),
    Check("temperature", uses_its_scale, needs=("pairs",)),
    Check("precision", keeps_precision, needs=("inputs",)),
    Check("batch order", ignores_order, needs=("inputs",)),
    Check("ids", honours_ids, needs=("batch order",)),
    Check("mean", averages_rows, needs=("inputs",)),
    Check("processes", is_one_on_ranks, needs=("mean", "precision", "batch order", "round trip")),
    Check("bounds", keeps_bounds, needs=("log_scale",)),
    Check("log", describes_itself, needs=("log_scale",)),
    Check("save and load", keeps_its_state, needs=("inputs", "round trip")),
)
