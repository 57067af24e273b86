"""Checks that encoders and heads share: their modules give one row for each sample.

Shapes: B samples, D the width of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from contrastive.nn.modes import eval_mode
from contrastive.testing.checks import Check, Fault, Skipped, expect
from contrastive.testing.generic import Subject
from contrastive.testing.modules import (
    IN_STATE,
    check_gradients,
    difference,
    gap,
    model_spec,
    saved_and_loaded,
    state_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from contrastive.spec import Tower

FEW = 3  # samples where gradients are taken, which costs most


class RowsSubject(Subject):
    """A component whose module gives one row for each sample."""

    noun: ClassVar[str]
    """What a row is called: features, embeddings."""

    @cached_property
    @abstractmethod
    def samples(self) -> Sequence[Any]:
        """B samples for ``forward``."""

    @property
    @abstractmethod
    def raw_samples(self) -> Sequence[Any]:
        """Raw samples for the tower."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D, as the module says."""

    @abstractmethod
    def make(self) -> nn.Module:
        """Build the module afresh."""

    @abstractmethod
    def forward(self, module: nn.Module, samples: Sequence[Any]) -> Tensor:
        """Return the rows of some samples, in the mode that the module is in."""

    @abstractmethod
    def tower(self) -> Tower:
        """Return a tower in which the component is frozen."""

    @cached_property
    def module(self) -> nn.Module:
        """The module that checks share, in eval mode; they leave it unchanged."""
        torch.manual_seed(0)
        return self.make().eval()

    def initial_state(self, seed: int) -> dict[str, Tensor]:
        """Return the initial weights under a seed of torch."""
        torch.manual_seed(seed)
        return state_of(self.make())

    def mixing(self, sample: object) -> tuple[str, str]:
        """Return when others change the row of a sample, and the remedy."""
        del sample
        return "with what else is in its batch", "compute each row from its own sample"

    @cached_property
    def known(self) -> Tensor:
        """The rows of all samples, computed once."""
        return self.rows(self.samples)

    @torch.no_grad()
    def rows(self, samples: Sequence[Any]) -> Tensor:
        """Return the rows of some samples in eval mode."""
        with eval_mode(self.module):
            return self.forward(self.module, samples)


def gives_rows(subject: RowsSubject) -> None:
    """Forward gives one row for each sample, out_dim wide, float32, and for a lone sample too."""
    name, width, lone = subject.noun, subject.width, subject.samples[:1]
    results: dict[int, Any] = {len(subject.samples): subject.known, 1: subject.rows(lone)}
    for b, rows in results.items():
        problem = f"forward gives a {type(rows).__name__}, not a tensor"
        expect(isinstance(rows, torch.Tensor), problem, f"return {name} as a tensor [B, {width}]")
        shape = tuple(rows.shape)
        remedy = "pool tokens or patches, so that each sample has one vector"
        if rows.ndim < 2:
            remedy = "keep the dimension of samples: squeeze() also drops a batch of one"
        problem = f"{name} of a batch of {b} have the shape {shape}, not ({b}, {width})"
        expect(rows.ndim == 2, problem, remedy)
        problem = f"{name} are {shape[1]} wide, but the module says {width}"
        expect(shape[1] == width, problem, f"let the module give, and say, one width: {shape[1]}?")
        expect(shape[0] == b, f"{b} samples get {shape[0]} rows", "return one row for each sample")
        is_fp32 = rows.dtype == torch.float32
        expect(is_fp32, f"{name} are {rows.dtype}", "return float32, which the losses compute in")


def is_finite(subject: RowsSubject) -> None:
    """No row has a NaN or an infinity."""
    for i, row in enumerate(subject.known):
        problem = f"the {subject.noun} of sample {i} are not finite"
        expect(row.isfinite().all(), problem, "look for a division by zero, as of a length")


def tells_apart(subject: RowsSubject) -> None:
    """Different samples have different rows."""
    differ = (subject.known != subject.known[0]).any()
    problem = f"all samples have the same {subject.noun}"
    expect(differ, problem, "let forward use all its inputs")


def obeys_modes(subject: RowsSubject) -> None:
    """train() and eval() reach every part, and leave frozen parameters frozen."""
    module = subject.module
    asked = [x.requires_grad for x in module.parameters()]
    module.requires_grad_(requires_grad=False).train()
    thawed = [name for name, x in module.named_parameters() if x.requires_grad]
    module.eval()
    for x, trains in zip(module.parameters(), asked, strict=True):
        x.requires_grad_(trains)
    problem = f"once frozen, train() makes {', '.join(thawed)} take gradients again"
    expect(not thawed, problem, "leave requires_grad unchanged in train()")
    for name, part in cast("Iterator[tuple[str, nn.Module]]", module.named_modules()):
        what = f"{name or 'the module'} ({type(part).__name__})"
        problem = f"{what} is in training mode after eval()"
        expect(not part.training, problem, "let train(mode) pass its mode on to every part")


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
        rows = subject.forward(part, subject.samples[:FEW])
        if rows.requires_grad:
            rows.sum().backward()
    changed = difference(before, state_of(part))
    problem = f"{changed} changes while the tower is frozen"
    expect(not changed, problem, "change buffers only if self.training")


def evaluates(subject: RowsSubject) -> None:
    """In eval mode two calls agree to the last bit, and leave weights and random states alone."""
    random_state, before = torch.get_rng_state(), state_of(subject.module)
    second = subject.rows(subject.samples)
    drew = not torch.equal(random_state, torch.get_rng_state())
    expect(not drew, "in eval mode it draws random numbers", "draw only if self.training")
    changed = difference(before, state_of(subject.module))
    problem = f"in eval mode a call changes {changed}"
    expect(not changed, problem, "change buffers only if self.training")
    problem = f"in eval mode two calls differ by {gap(second, subject.known):.2g} of the largest"
    expect(torch.equal(second, subject.known), problem, "compute from samples and weights alone")


def keeps_order(subject: RowsSubject) -> None:
    """Row i belongs to sample i, in whatever order the samples come."""
    share = gap(subject.rows(subject.samples[::-1]).flip(0), subject.known)
    problem = f"{subject.noun} differ by {share:.2g} of the largest when the batch is reversed"
    expect(not share, problem, "return row i for sample i: undo any sorting")


def ignores_the_others(subject: RowsSubject) -> None:
    """No sample's row depends on the others of its batch, nor on how far it is padded."""
    for i, sample in enumerate(subject.samples):
        if share := gap(subject.rows([sample])[0], subject.known[i]):
            when, remedy = subject.mixing(sample)
            problem = f"{subject.noun} of sample {i} change by {share:.2g} of the largest {when}"
            raise Fault(problem, remedy)


def learns(subject: RowsSubject) -> None:
    """Gradients reach every parameter that asks for one."""
    module = subject.module
    parameters = {name: x for name, x in module.named_parameters() if x.requires_grad}
    if not parameters:
        raise Skipped("it has no parameters to train")
    rows = subject.forward(module, subject.samples[:FEW])
    problem = f"{subject.noun} have no gradient, so it cannot be trained"
    expect(rows.requires_grad, problem, "leave no_grad and detach to the tower, which freezes")
    weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
    check_gradients((rows * weights).sum(), parameters, "look for roots and divisions at zero")


def follows_the_seed(subject: RowsSubject) -> None:
    """Under one seed of torch, two builds have the same weights."""
    changed = difference(subject.initial_state(1), subject.initial_state(1))
    problem = f"{changed} differs between two builds under one seed"
    expect(not changed, problem, "draw initial weights from torch's global generator")


def keeps_its_weights(subject: RowsSubject) -> None:
    """A trained model that is saved and loaded embeds as before, frozen or not."""
    samples, tower = subject.raw_samples, subject.tower()
    modality = tower.encoder.modality
    for how, frozen in {"trained": "none", "frozen": tower.frozen}.items():
        spec = model_spec(tower.model_copy(update={"frozen": frozen}), subject.width)
        model, loaded = saved_and_loaded(spec, samples)
        share = gap(loaded.embed(modality, samples), model.embed(modality, samples))
        problem = f"a {how} model that is saved and loaded embeds otherwise, by {share:.2g}"
        expect(not share, problem, IN_STATE)


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
