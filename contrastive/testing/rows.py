"""Checks that encoders and heads share: their modules give one row for each sample.

Shapes: B samples, D the width of a row.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from contrastive.encoders.trial import gap
from contrastive.errors import a_type
from contrastive.nn.modes import eval_mode
from contrastive.testing import modules
from contrastive.testing.checks import Check, Fault, Skipped, expect
from contrastive.testing.generic import Subject

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    def raw_samples(self) -> Sequence[Any]:
        """Raw samples for the tower."""
        return modules.WORDS

    @property
    @abstractmethod
    def width(self) -> int:
        """D, as the module says."""

    @abstractmethod
    def make(self) -> nn.Module:
        """Build the module afresh."""

    @abstractmethod
    def forward(self, module: Any, samples: Sequence[Any]) -> Tensor:
        """Return the rows of some samples, in the mode that the module is in."""

    @abstractmethod
    def tower(self) -> Tower:
        """Return a tower in which the component is frozen."""

    @cached_property
    def module(self) -> Any:
        """The module that checks share, in eval mode; they leave it unchanged."""
        torch.manual_seed(0)
        return self.make().eval()

    def initial_state(self, seed: int) -> dict[str, Tensor]:
        """Return the initial weights under a seed of torch."""
        torch.manual_seed(seed)
        return modules.state_of(self.make())

    def mixing(self, sample: object) -> tuple[str, str]:
        """Return when others change the row of a sample, and the remedy."""
        del sample
        return "with what else is in its batch", "compute each row from its own sample"

    @cached_property
    def all_rows(self) -> Tensor:
        """The rows of all samples, computed once."""
        return self.rows(self.samples)

    @torch.no_grad()
    def rows(self, samples: Sequence[Any]) -> Tensor:
        """Return the rows of some samples in eval mode."""
        with eval_mode(self.module):
            return self.forward(self.module, samples)


def returns_rows(subject: RowsSubject) -> None:
    """Forward gives a float32 tensor of one row a sample, of the width it says; for B = 1 too."""
    name, width = subject.noun, subject.width
    for b in (len(subject.samples), 1):
        rows: Any = subject.all_rows if b > 1 else subject.rows(subject.samples[:1])
        expect(isinstance(rows, torch.Tensor), f"forward gives {a_type(rows)}")
        shape = tuple(rows.shape)
        remedy = "pool tokens" if rows.ndim > 2 else "keep B = 1, which squeeze() also drops"
        problem = f"{name} of a batch of {b} have the shape {shape}, not ({b}, {width})"
        expect(rows.ndim == 2, problem, remedy)
        problem = f"{name} are {shape[1]} wide, but the module says {width}"
        one = f"let the module give, and say, one width: {shape[1]}?"
        asked = "give as many as out_dim says, which build is given"  # of a head
        expect(shape[1] == width, problem, asked if name == "embeddings" else one)
        expect(shape[0] == b, f"{b} samples get {shape[0]} rows")
        expect(rows.dtype == torch.float32, f"{name} are {rows.dtype}")


def is_finite(subject: RowsSubject) -> None:
    """No row has a NaN or an infinity, such as from a division by a length of zero."""
    for i, row in enumerate(subject.all_rows):
        expect(row.isfinite().all(), f"the {subject.noun} of sample {i} are not finite")


def separates_samples(subject: RowsSubject) -> None:
    """Different samples have different rows: forward uses its inputs."""
    differ = (subject.all_rows != subject.all_rows[0]).any()
    expect(differ, f"all samples have the same {subject.noun}")


def obeys_modes(subject: RowsSubject) -> None:
    """train() and eval() reach every part, and leave frozen parameters frozen."""
    module = subject.module
    asked = [x.requires_grad for x in module.parameters()]
    module.requires_grad_(requires_grad=False).train()
    thawed = [name for name, x in module.named_parameters() if x.requires_grad]
    module.eval()
    for x, trains in zip(module.parameters(), asked, strict=True):
        x.requires_grad_(trains)
    expect(not thawed, f"once frozen, train() makes {', '.join(thawed)} take gradients again")
    for name, part in module.named_modules():
        what = f"{name or 'the module'} ({type(part).__name__})"
        problem = f"{what} is in training mode after eval()"
        expect(not part.training, problem, "let train(mode) pass its mode on to every part")


def stays_frozen(subject: RowsSubject) -> None:
    """In a frozen tower nothing changes: modes, parameters, buffers, even after train()."""
    from contrastive.model.tower import TowerModule

    spec = subject.tower()
    torch.manual_seed(0)
    tower = TowerModule(spec, spec.encoder.build(), subject.width)
    part = tower.encoder if spec.frozen == "encoder" else tower.head
    before = modules.state_of(part)
    tower.train()
    for _ in range(2):
        rows = subject.forward(part, subject.samples[:FEW])
        if rows.requires_grad:
            rows.sum().backward()
    problem, remedy = "changes while the tower is frozen", "change buffers only if self.training"
    modules.expect_same(before, modules.state_of(part), problem, remedy)


def evaluates(subject: RowsSubject) -> None:
    """In eval mode two calls agree to the last bit, and leave weights and random states alone."""
    random_state, before = torch.get_rng_state(), modules.state_of(subject.module)
    second = subject.rows(subject.samples)
    drew = not torch.equal(random_state, torch.get_rng_state())
    expect(not drew, "in eval mode it draws random numbers", "draw only if self.training")
    problem, remedy = "changes in a call in eval mode", "change buffers only if self.training"
    modules.expect_same(before, modules.state_of(subject.module), problem, remedy)
    same = torch.equal(second, subject.all_rows)
    expect(same, f"two calls differ by {gap(second, subject.all_rows):.2g} of the largest")


def keeps_order(subject: RowsSubject) -> None:
    """Row i belongs to sample i, in whatever order the samples come."""
    share = gap(subject.rows(subject.samples[::-1]).flip(0), subject.all_rows)
    problem = f"{subject.noun} differ by {share:.2g} of the largest when the batch is reversed"
    expect(not share, problem, "return row i for sample i: undo any sorting")


def ignores_the_others(subject: RowsSubject) -> None:
    """No sample's row depends on the others of its batch, nor on how far it is padded."""
    for i, sample in enumerate(subject.samples):
        if share := gap(subject.rows([sample])[0], subject.all_rows[i]):
            when, remedy = subject.mixing(sample)
            problem = f"{subject.noun} of sample {i} change by {share:.2g} of the largest {when}"
            raise Fault(problem, remedy)


def has_gradients(subject: RowsSubject) -> None:
    """Gradients reach every parameter that asks for one."""
    module = subject.module
    parameters = {name: x for name, x in module.named_parameters() if x.requires_grad}
    if not parameters:
        raise Skipped("it has no parameters to train")
    rows = subject.forward(module, subject.samples[:FEW])
    problem = f"{subject.noun} have no gradient, so it cannot be trained"
    expect(rows.requires_grad, problem, "leave no_grad and detach to the tower, which freezes")
    weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
    modules.check_gradients((rows * weights).sum(), parameters, "look for roots of zero")


def follows_the_seed(subject: RowsSubject) -> None:
    """Under one seed of torch, two builds have the same weights."""
    problem = "differs between two builds under one seed"
    remedy = "draw initial weights from torch's global generator"
    modules.expect_same(subject.initial_state(1), subject.initial_state(1), problem, remedy)


def keeps_its_weights(subject: RowsSubject) -> None:
    """A trained model that is saved and loaded embeds as before, frozen or not."""
    samples, tower = subject.raw_samples, subject.tower()
    modality = tower.encoder.modality
    for how, frozen in {"trained": "none", "frozen": tower.frozen}.items():
        spec = modules.model_spec(subject.width, tower.model_copy(update={"frozen": frozen}))
        model, loaded = modules.saved_and_loaded(spec, samples)
        share = gap(loaded.embed(modality, samples), model.embed(modality, samples))
        problem = f"a {how} model that is saved and loaded embeds differently, by {share:.2g}"
        expect(not share, problem, modules.IN_STATE)


def row_checks(*needs: str) -> tuple[Check, ...]:
    """Return the checks of rows, which need others to pass first."""
    return (
        Check("modes", obeys_modes, ("build",)),
        Check("output", returns_rows, ("modes", *needs)),
        Check("finite", is_finite, ("output",)),
        Check("frozen", stays_frozen, ("output",)),
        Check("eval mode", evaluates, ("finite", "frozen")),
        Check("distinct", separates_samples, ("eval mode",)),
        Check("batch order", keeps_order, ("eval mode",)),
        Check("batch size", ignores_the_others, ("batch order",)),
        Check("gradients", has_gradients, ("finite",)),
        Check("seed", follows_the_seed, ("build",)),
    )
