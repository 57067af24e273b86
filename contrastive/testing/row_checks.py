"""What a module that gives rows promises: shape, modes, order, independence, gradients, a seed.

Shapes: B samples, D the width of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.testing.checks import Check, Fault, Skipped, told
from contrastive.testing.rows import FEW, RowsSubject, difference, gap, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def gives_rows(subject: RowsSubject) -> None:
    """Forward gives one row for each sample, out_dim wide, float32, and for a lone sample too."""
    name, width = subject.noun, subject.width
    for b in (subject.count, 1):
        rows: Any = subject.known if b > 1 else _lone_row(subject)
        if not isinstance(rows, torch.Tensor):
            problem = f"forward gives a {type(rows).__name__}, not a tensor"
            raise Fault(problem, f"return {name} as a tensor [B, {width}]")
        shape = tuple(rows.shape)
        if rows.ndim != 2:
            problem = f"{name} of a batch of {b} have the shape {shape}, not ({b}, {width})"
            remedy = "pool tokens or places, so that each sample has one vector"
            if rows.ndim < 2:
                remedy = "keep the dimension of samples: squeeze() also drops a batch of one"
            raise Fault(problem, remedy)
        if shape[1] != width:
            problem = f"{name} are {shape[1]} wide, but the module says {width}"
            raise Fault(problem, f"let the module give, and say, one width: {shape[1]}?")
        if shape[0] != b:
            raise Fault(f"{b} samples get {shape[0]} rows", "return one row for each sample")
        if rows.dtype != torch.float32:
            remedy = "return float32: what comes after computes in it, or autocasts by itself"
            raise Fault(f"{name} are {str(rows.dtype).removeprefix('torch.')}", remedy)


def _lone_row(subject: RowsSubject) -> Tensor:
    try:
        return subject.rows(subject.places[:1])
    except Exception as error:
        problem = f"of a batch forward gives {subject.noun}, of a lone sample {told(error)}"
        remedy = "let no row need others; register every part, so that eval() reaches BatchNorm"
        raise Fault(problem, remedy) from None


def is_finite(subject: RowsSubject) -> None:
    """No row has a NaN or an infinity."""
    rows = subject.known
    if not rows.isfinite().all():
        place = int((~rows.isfinite().all(1)).nonzero()[0])
        problem = f"the {subject.noun} of sample {place} are not finite"
        raise Fault(problem, "look for a division by a length or a count that may be zero")


def tells_apart(subject: RowsSubject) -> None:
    """Different samples have different rows."""
    rows = subject.known
    if not (rows != rows[0]).any():
        problem = f"{subject.count} different samples have the same {subject.noun}"
        raise Fault(problem, "let forward use all that it is given")


def obeys_modes(subject: RowsSubject) -> None:
    """train() and eval() reach every part, and leave frozen parameters frozen."""
    module = subject.module
    asked = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(requires_grad=False).train()
    loose = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    module.eval()
    for parameter, trains in zip(module.parameters(), asked, strict=True):
        parameter.requires_grad_(trains)
    if loose:
        problem = f"once frozen, train() makes {loose[0]} take gradients again"
        raise Fault(problem, "leave requires_grad to whoever freezes; train() is for modes")
    for name, part in cast("Iterator[tuple[str, nn.Module]]", module.named_modules()):
        if part.training:
            problem = (
                f"{name or 'the module'} ({type(part).__name__}) is in training mode after eval()"
            )
            remedy = "let train(mode) pass its mode on to every part, or frozen ones drift"
            raise Fault(problem, remedy)


def stays_frozen(subject: RowsSubject) -> None:
    """In a frozen tower nothing changes: modes, parameters, buffers, even after train()."""
    from contrastive.model.tower import TowerModule

    spec = subject.tower()
    torch.manual_seed(0)
    tower = TowerModule(spec, subject.width)
    part = tower.encoder if spec.frozen == "encoder" else tower.head
    before = state_of(part)
    tower.train()
    for _ in range(2):
        rows = subject.forward(part, subject.places[:FEW])
        if rows.requires_grad:
            rows.sum().backward()
    if changed := difference(before, state_of(part)):
        problem = f"{changed} changes while the tower is frozen"
        raise Fault(problem, "change buffers only if self.training")


def evaluates(subject: RowsSubject) -> None:
    """In eval mode two calls agree to the last bit, and leave weights and random states alone."""
    dice = torch.get_rng_state()
    before = state_of(subject.module)
    second = subject.rows()
    if not torch.equal(dice, torch.get_rng_state()):
        problem = "in eval mode it draws random numbers"
        raise Fault(problem, "draw only if self.training, as nn.Dropout does")
    if changed := difference(before, state_of(subject.module)):
        problem = f"in eval mode a call changes {changed}"
        raise Fault(problem, "change buffers only if self.training")
    if not torch.equal(second, subject.known):
        share = gap(second, subject.known)
        problem = f"in eval mode two calls differ by {share:.2g} of the largest number"
        raise Fault(problem, "let nothing but the samples and the weights decide")


def keeps_order(subject: RowsSubject) -> None:
    """Row i belongs to sample i, in whatever order the samples come."""
    share = gap(subject.rows(subject.places[::-1]).flip(0), subject.known)
    if share:
        problem = (
            f"{subject.noun} differ by {share:.2g} of the largest number when the batch is reversed"
        )
        raise Fault(
            problem, "return row i for sample i: undo any sorting, and any weighing by place"
        )


def ignores_the_others(subject: RowsSubject) -> None:
    """No sample's row depends on the others of its batch, nor on how far it is padded."""
    together = subject.known
    for place in subject.places:
        share = gap(subject.rows([place])[0], together[place])
        if share:
            when, remedy = subject.mixing(place)
            what = f"{subject.noun} of sample {place}"
            problem = f"{what} change by {share:.2g} of the largest number {when}"
            raise Fault(problem, remedy)


def learns(subject: RowsSubject) -> None:
    """Gradients reach every parameter that asks for one."""
    module = subject.module
    parameters = [(name, x) for name, x in module.named_parameters() if x.requires_grad]
    if not parameters:
        raise Skipped("it has no parameters to train")
    rows = subject.forward(module, subject.places[:FEW])
    if not rows.requires_grad:
        problem = f"{subject.noun} have no gradient, so it cannot be trained"
        raise Fault(problem, "leave no_grad, inference_mode and detach to who freezes it")
    weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(
        (rows * weights).sum(), [x for _, x in parameters], allow_unused=True
    )
    for (name, _), gradient in zip(parameters, found, strict=True):
        if gradient is None:  # pyright: ignore[reportUnnecessaryComparison]  (allow_unused)
            problem = f"no gradient reaches {name}"
            raise Fault(problem, "use it in forward without detach, or leave it out")
        if not gradient.isfinite().all():
            problem = f"the gradient of {name} is not finite"
            raise Fault(problem, "look for roots and divisions at zero")


def follows_the_seed(subject: RowsSubject) -> None:
    """Under one seed of torch, two builds have the same weights."""
    if changed := difference(subject.first_state, subject.state_under(1)):
        problem = f"{changed} differs between two builds under one seed"
        remedy = "draw first weights from torch's global generator, which training.seed sets"
        raise Fault(problem, remedy)


def row_checks(*needs: str) -> tuple[Check[Any], ...]:
    """Return the checks of rows, which need others to pass first."""
    return (
        Check("modes", obeys_modes, ("build",)),
        Check("output", gives_rows, ("modes", *needs)),
        Check("finite", is_finite, ("output",)),
        Check("frozen", stays_frozen, ("output",)),
        Check("eval mode", evaluates, ("finite", "frozen")),
        Check("distinct", tells_apart, ("eval mode",)),
        Check("batch order", keeps_order, ("eval mode",)),
        Check("batch size", ignores_the_others, ("batch order",)),
        Check("gradients", learns, ("finite",)),
        Check("seed", follows_the_seed, ("build",)),
    )
