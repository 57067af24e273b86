"""Checks of encoders: the module's attributes, preprocessing, rows, saved weights.

Workers run the preprocessing, and the feature cache keeps features under its repr.

Shapes: B samples, F features.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample
from contrastive.heads import Linear
from contrastive.spec import Tower
from contrastive.testing.checks import Check, Fault, Skipped, expect, short_reason
from contrastive.testing.modules import build_checked, difference
from contrastive.testing.processes import in_subprocess, pickled, unpickled
from contrastive.testing.rows import RowsSubject, keeps_its_weights, row_checks
from contrastive.testing.samples import ENOUGH, Examples, examples_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from contrastive.encoders import Encoder

ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
HELPERS = {
    "image": ", as contrastive.data.images.open_image does",
    "text": ", as contrastive.encoders.text.as_text does",
}
ATTRIBUTES: dict[str, tuple[Callable[[object], bool], str]] = {
    "modality": (lambda x: isinstance(x, str), "the name of its tower"),
    "out_dim": (lambda x: isinstance(x, int), "the width of features"),
    "preprocess": (callable, "a callable of raw samples"),
}


@dataclass(frozen=True)
class EncoderSubject(RowsSubject):
    """The encoder under test."""

    config: Encoder
    given: Sequence[Any] | None
    """Samples of the author's."""
    folder: Path
    """Temporary."""

    noun = "features"

    def make(self) -> EncoderModule:
        """Build the encoder."""
        return self.config.build()

    @property
    def encoder(self) -> EncoderModule:
        """The module that checks share."""
        return cast("EncoderModule", self.module)

    @cached_property
    def examples(self) -> Examples:
        """Samples of its modality."""
        return examples_of(self.config.modality, self.given, self.folder)

    @cached_property
    def samples(self) -> list[Any]:
        """The ordinary samples, and the odd ones that it takes."""
        return [*self.examples.typical, *(each for each in self.examples.edge if self._takes(each))]

    def _takes(self, sample: object) -> bool:
        try:
            self.encoder.preprocess([sample])
        except Exception:  # of any kind: ``refuses`` reports it
            return False
        return True

    @property
    def raw_samples(self) -> Sequence[Any]:
        """The ordinary samples."""
        return self.examples.typical

    @property
    def count(self) -> int:
        """B."""
        return len(self.samples)

    @property
    def width(self) -> int:
        """F."""
        return self.encoder.out_dim

    def forward(self, module: nn.Module, indices: Sequence[int]) -> Tensor:
        """Return features."""
        preprocess = cast("EncoderModule", module).preprocess
        return module(**preprocess([self.samples[i] for i in indices]))

    def tower(self) -> Tower:
        """Return a tower in which the encoder is frozen."""
        return Tower(encoder=self.config, head=Linear(), frozen="encoder")

    def mixing(self, index: int) -> tuple[str, str]:
        """Blame padding if the sample's inputs have another shape in the batch."""
        alone = self.encoder.preprocess([self.samples[index]])
        batch = self.encoder.preprocess(self.samples)
        if all(alone[name].shape[1:] == x.shape[1:] for name, x in batch.items()):
            return super().mixing(index)
        return "when it is padded to longer ones", "mask padding in attention and before pooling"


def builds(subject: EncoderSubject) -> None:
    """Build returns an EncoderModule with all its attributes, and changes no setting of torch."""
    module = build_checked(lambda: subject.module, EncoderModule)
    for name, (fits, what) in ATTRIBUTES.items():
        value = getattr(module, name, "not set")
        remedy = f"set self.{name}, {what}, in __init__"
        expect(fits(getattr(module, name, None)), f"the module's {name} is {value!r}", remedy)
    problem = f"the module encodes {module.modality!r}, its config {subject.config.modality!r}"
    remedy = "give both the same modality, the name of the tower"
    expect(module.modality == subject.config.modality, problem, remedy)


def prepares(subject: EncoderSubject) -> None:
    """Preprocess takes ordinary samples, one or many, and gives CPU tensors with a row for each."""
    typical = subject.examples.typical
    for samples in (typical, typical[:1]):
        try:
            inputs: Any = subject.encoder.preprocess(samples)
        except BadSample as error:
            problem = f"preprocess refuses an ordinary {subject.config.modality} ({error})"
            raise Fault(problem, "take what the modality has; samples= gives it others") from None
        remedy = "return a dict, the keyword arguments of forward"
        expect(isinstance(inputs, dict), f"preprocess gives a {type(inputs).__name__}", remedy)
        for name, x in cast("dict[str, Any]", inputs).items():
            what = f"{x.device} tensor" if isinstance(x, torch.Tensor) else type(x).__name__
            remedy = "return tensors on the CPU, as workers have no other device"
            expect(what == "cpu tensor", f"preprocess gives a {what} as {name!r}", remedy)
            problem = f"{name!r} has the shape {tuple(x.shape)} for {len(samples)} samples"
            rows_fit = x.ndim and len(x) == len(samples)
            expect(rows_fit, problem, "give each sample one row of each input")
    problem = f"preprocess takes {len(subject.samples)} of the samples by themselves"
    remedy = "take a sample alone as well as in a batch"
    expect(len(subject.samples) >= ENOUGH, problem, remedy)


def refuses(subject: EncoderSubject) -> None:
    """Invalid samples raise BadSample, with a message of one line; odd ones may."""
    good, preprocess = subject.examples.typical[0], subject.encoder.preprocess
    remedy = "raise contrastive.errors.BadSample, in one line, for what cannot be used"
    remedy += HELPERS.get(subject.config.modality, "")
    batches = [(f"{sample!r:.60}", [sample], True) for sample in subject.examples.edge]
    batches += [(what, [good, x], False) for what, x in subject.examples.invalid.items()]
    for what, samples, may_pass in batches:
        try:
            preprocess(samples)
        except BadSample as error:
            one_line = may_pass or "\n" not in str(error)
            expect(one_line, f"the BadSample of {what} has several lines", remedy)
        except Exception as error:
            raised = short_reason(error)
            raise Fault(f"{what} makes preprocess raise {raised}", remedy) from None
        else:
            expect(may_pass, f"preprocess takes {what} for a sample", remedy)


def repeats(subject: EncoderSubject) -> None:
    """Preprocess gives the same every time, without random numbers."""
    preprocess, samples = subject.encoder.preprocess, subject.samples
    random_state = torch.get_rng_state()
    same = digest(preprocess(samples)) == digest(preprocess(samples))
    same = same and torch.equal(random_state, torch.get_rng_state())
    remedy = "leave randomness to augment, which training takes instead"
    expect(same, "preprocess is random", remedy)


def reads_every_form(subject: EncoderSubject) -> None:
    """An image gives the same as a path, as encoded bytes and as a PIL image."""
    forms, preprocess = subject.examples.equivalent, subject.encoder.preprocess
    if not forms:
        raise Skipped("samples of its modality have one form")
    expected = digest(preprocess(forms[:1]))
    for form in forms:
        problem = f"an image as {type(form).__name__} gives other inputs than as a PIL image"
        remedy = "open all with contrastive.data.images.open_image"
        expect(digest(preprocess([form])) == expected, problem, remedy)


def works_in_workers(subject: EncoderSubject) -> None:
    """Preprocess can be sent to a worker process, and gives the same there."""
    pickled(subject.encoder.preprocess, "preprocess")
    sent = pickled((subject.encoder.preprocess, subject.samples), "samples")
    subject.needs_a_module()
    found = in_subprocess(preprocess_in_subprocess, sent)
    problem = "preprocess gives something else in a worker process"
    remedy = "let it depend on its fields alone: not on hash(), globals or the time"
    expect(found == digest(subject.encoder.preprocess(subject.samples)), problem, remedy)


def preprocess_in_subprocess(sent: bytes) -> dict[str, str]:
    """Return the digest of what preprocess makes of samples."""
    preprocess, samples = unpickled(sent)
    return digest(preprocess(samples))


def names_itself(subject: EncoderSubject) -> None:
    """The repr of preprocess, a key of the feature cache, is the same in every process."""
    text = repr(subject.encoder.preprocess)
    remedy = "make it a frozen dataclass, or give it a __repr__ that names what changes its result"
    problem = f"the repr of preprocess has a memory address: {text[:80]}"
    expect(not ADDRESS.search(text), problem, remedy)
    subject.needs_a_module()
    other = in_subprocess(repr_in_subprocess, pickled(subject.config, "the config"))
    problem = f"the repr of preprocess is {text[:80]} here, {other[:80]} in another process"
    expect(other == text, problem, remedy)


def repr_in_subprocess(sent: bytes) -> str:
    """Return the repr of an encoder's preprocessing."""
    config: Encoder = unpickled(sent)
    return repr(config.build().preprocess)


def augments(subject: EncoderSubject) -> None:
    """Augment gives what forward takes, draws from torch's generator, and works in workers."""
    augment, samples = subject.encoder.augment, subject.examples.typical
    if augment is None:
        raise Skipped("it has no augment")
    pickled(augment, "augment")
    results: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(augment(samples))
    problem = "augment differs between two calls under one seed of torch"
    remedy = "draw from torch's global generator, not from random or numpy"
    expect(digest(results[0]) == digest(results[1]), problem, remedy)
    with torch.no_grad():
        shape = tuple(subject.encoder(**results[0]).shape)
    expected = len(samples), subject.width
    problem = f"what augment gives has features of the shape {shape}, not {expected}"
    expect(shape == expected, problem, "let augment return what preprocess returns")


def digest(inputs: dict[str, Tensor]) -> dict[str, str]:
    """Return a hash of each tensor, to compare between processes."""
    return {
        name: f"{x.dtype} {tuple(x.shape)} {hashlib.sha256(_bytes(x)).hexdigest()}"
        for name, x in inputs.items()
    }


def _bytes(x: Tensor) -> bytes:
    flat: Any = x.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def brings_weights_back(subject: EncoderSubject) -> None:
    """If it says that it is reproducible, its config alone brings its weights back."""
    if not subject.encoder.reproducible:
        raise Skipped("it does not say that it is reproducible")
    changed = difference(subject.first_state, subject.state_under(2))
    problem = f"reproducible is set, but {changed} differs between two builds"
    expect(not changed, problem, "set reproducible only where all weights are read from files")


ENCODER_CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    Check("preprocess", prepares, needs=("build",)),
    Check("bad samples", refuses, needs=("preprocess",)),
    Check("repeatable", repeats, needs=("preprocess",)),
    Check("forms", reads_every_form, needs=("repeatable",)),
    Check("worker", works_in_workers, needs=("repeatable",)),
    Check("repr", names_itself, needs=("preprocess",)),
    *row_checks("repeatable"),
    Check("augment", augments, needs=("output",)),
    Check("reproducible", brings_weights_back, needs=("seed",)),
    Check("save and load", keeps_its_weights, needs=("eval mode", "reproducible", "round trip")),
)
