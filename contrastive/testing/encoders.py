"""What encoders promise beside rows: preprocessing that workers can run and the cache can name.

Shapes: B samples.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.encoders import CBOW, Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import BadSample
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec, Tower
from contrastive.testing.checks import Check, Fault, Skipped, told
from contrastive.testing.partner import Partner
from contrastive.testing.processes import ElsewhereError, elsewhere, pickled, unpickled
from contrastive.testing.rows import RowsSubject, difference, row_checks
from contrastive.testing.samples import ENOUGH, Examples, examples_of
from contrastive.testing.saved import keeps_its_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

EMBED_DIM = 8
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


@dataclass(frozen=True)
class EncoderSubject(RowsSubject):
    """An encoder that is examined."""

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
        """The ordinary samples, and those of the odd ones that it takes."""
        return [*self.examples.usual, *(each for each in self.examples.odd if self._takes(each))]

    def _takes(self, sample: object) -> bool:
        try:
            self.encoder.preprocess([sample])
        except Exception:  # of whatever kind: ``refuses`` tells
            return False
        return True

    @property
    def raw_samples(self) -> Sequence[Any]:
        """The ordinary samples."""
        return self.examples.usual

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.samples)

    @property
    def width(self) -> int:
        """F."""
        return self.encoder.out_dim

    def forward(self, module: nn.Module, places: Sequence[int]) -> Tensor:
        """Return features."""
        preprocess = cast("EncoderModule", module).preprocess
        return module(**preprocess([self.samples[place] for place in places]))

    def tower(self) -> Tower:
        """Return a tower in which the encoder is frozen."""
        return Tower(encoder=self.config, head=Linear(), frozen="encoder")

    def model(self, *, frozen: bool) -> ModelSpec:
        """Return a model of the encoder and a bag of words."""
        tower = self.tower().model_copy(update={"frozen": "encoder" if frozen else "none"})
        partner = Partner if self.config.modality == "text" else CBOW
        other = Tower(encoder=partner(width=8, buckets=64), head=Linear())
        towers = {self.config.modality: tower, partner.modality: other}
        return ModelSpec(embed_dim=EMBED_DIM, towers=towers, loss=InfoNCE())

    def mixing(self, place: int) -> tuple[str, str]:
        """Tell padding from other dependence by the shapes of the inputs."""
        alone = self.encoder.preprocess([self.samples[place]])
        batch = self.encoder.preprocess(self.samples)
        if all(alone[name].shape[1:] == x.shape[1:] for name, x in batch.items()):
            return super().mixing(place)
        return "when it is padded to longer ones", "mask padding in attention and before pooling"

    @cached_property
    def sent(self) -> bytes:
        """The preprocessing and the samples, as workers get them."""
        preprocess = pickled(self.encoder.preprocess, "preprocess")
        return pickled((preprocess, self.samples), "samples")


def builds(subject: EncoderSubject) -> None:
    """Build returns an EncoderModule that says all it has to, and changes no setting of torch."""
    before = _settings()
    module: Any = subject.module
    after = _settings()
    for what, value in before.items():
        if after[what] != value:
            _restore(before)
            problem = f"build() changes torch's {what} from {value} to {after[what]}"
            raise Fault(problem, "leave what others share as it is; give dtypes to the tensors")
    if not isinstance(module, EncoderModule):
        problem = f"build() returns {type(module).__name__}"
        raise Fault(problem, "subclass contrastive.encoders.module.EncoderModule")
    for name, (fits, what) in _SAID.items():
        if not fits(getattr(module, name, None)):
            problem = f"the module's {name} is {getattr(module, name, 'not set')!r}"
            raise Fault(problem, f"set self.{name}, {what}, in __init__")
    if module.modality != subject.config.modality:
        problem = f"the module encodes {module.modality!r}, its config {subject.config.modality!r}"
        raise Fault(problem, "give both the same modality, the name of the tower")


_SAID: dict[str, tuple[Callable[[object], bool], str]] = {
    "modality": (lambda x: isinstance(x, str), "the name of its tower"),
    "out_dim": (lambda x: isinstance(x, int), "the width of features"),
    "preprocess": (callable, "a callable of raw samples"),
}


def _settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "number of threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def _restore(settings: dict[str, Any]) -> None:
    torch.set_default_dtype(settings["default dtype"])
    torch.set_grad_enabled(settings["grad mode"])
    torch.set_num_threads(settings["number of threads"])
    torch.use_deterministic_algorithms(settings["deterministic algorithms"])


def prepares(subject: EncoderSubject) -> None:
    """Preprocess takes ordinary samples, one or many, and gives CPU tensors with a row for each."""
    usual = subject.examples.usual
    for samples in (usual, usual[:1]):
        try:
            inputs: Any = subject.encoder.preprocess(samples)
        except BadSample as error:
            problem = f"preprocess refuses an ordinary {subject.config.modality} ({error})"
            raise Fault(problem, "take what the modality has; samples= gives it others") from None
        if not isinstance(inputs, dict):
            problem = f"preprocess gives a {type(inputs).__name__}"
            raise Fault(problem, "return a dict, the keyword arguments of forward")
        for name, x in cast("dict[str, Any]", inputs).items():
            if not isinstance(x, torch.Tensor) or x.device.type != "cpu":
                what = f"{x.device} tensor" if isinstance(x, torch.Tensor) else type(x).__name__
                problem = f"preprocess gives a {what} as {name!r}"
                raise Fault(problem, "return tensors on the CPU, as workers have no other device")
            if x.ndim == 0 or len(x) != len(samples):
                problem = f"{name!r} has the shape {tuple(x.shape)} for {len(samples)} samples"
                raise Fault(problem, "give each sample one row of each input")
    if len(subject.samples) < ENOUGH:
        problem = f"preprocess takes {len(subject.samples)} of the samples by themselves"
        raise Fault(problem, "take a sample alone as well as in a batch")


def reads_every_form(subject: EncoderSubject) -> None:
    """A picture gives the same as a path, as encoded bytes and as a PIL image."""
    if not subject.examples.alike:
        raise Skipped("samples of its modality have one form")
    forms = [(form, digest(subject.encoder.preprocess([form]))) for form in subject.examples.alike]
    for other, found in forms:
        if found != forms[0][1]:
            what = type(other).__name__
            problem = f"a picture as {what} gives other inputs than as a PIL image"
            raise Fault(problem, "open all with contrastive.images.open_image")


def repeats(subject: EncoderSubject) -> None:
    """Preprocess gives the same every time, without random numbers."""
    preprocess, samples = subject.encoder.preprocess, subject.samples
    dice = torch.get_rng_state()
    first = digest(preprocess(samples))
    if digest(preprocess(samples)) != first or not torch.equal(dice, torch.get_rng_state()):
        problem = "preprocess is random"
        raise Fault(problem, "leave randomness to augment, which training takes instead")


def refuses(subject: EncoderSubject) -> None:
    """What is no sample raises BadSample, with a message of one line; what is odd may."""
    good, preprocess = subject.examples.usual[0], subject.encoder.preprocess
    remedy = "raise contrastive.errors.BadSample, in one line, for what cannot be used"
    helpers = {
        "image": "contrastive.images.open_image",
        "text": "contrastive.encoders.text.as_text",
    }
    if helper := helpers.get(subject.config.modality):
        remedy += f", as {helper} does"
    for sample in subject.examples.odd:
        try:
            preprocess([sample])
        except BadSample:
            continue
        except Exception as error:
            raise Fault(f"{sample!r:.60} makes preprocess raise {told(error)}", remedy) from None
    for what, sample in subject.examples.bad.items():
        try:
            preprocess([good, sample])
        except BadSample as error:
            if "\n" in str(error):
                raise Fault(f"of {what}, BadSample tells several lines", remedy) from None
        except Exception as error:
            raise Fault(f"{what} makes preprocess raise {told(error)}", remedy) from None
        else:
            raise Fault(f"preprocess takes {what} for a sample", remedy)


def works_in_workers(subject: EncoderSubject) -> None:
    """Preprocess can be sent to a worker process, and gives the same there."""
    sent = subject.sent
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    try:
        there = elsewhere(prepared_there, sent)
    except ElsewhereError as error:
        problem = f"preprocess fails in a worker process: {error}"
        remedy = "let it hold all that it needs, and define it in a module"
        raise Fault(problem, remedy) from None
    if there != digest(subject.encoder.preprocess(subject.samples)):
        problem = "preprocess gives something else in a worker process"
        raise Fault(
            problem, "let it depend on its fields alone: not on hash(), globals or the time"
        )


def names_itself(subject: EncoderSubject) -> None:
    """The repr of preprocess, a key of the feature cache, is the same in every process."""
    said = repr(subject.encoder.preprocess)
    remedy = "make it a frozen dataclass, or give it a __repr__ that names what changes its result"
    if ADDRESS.search(said):
        raise Fault(f"the repr of preprocess has a memory address: {said[:80]}", remedy)
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    try:
        there = elsewhere(named_there, pickled(subject.config, "the config"))
    except ElsewhereError as error:
        problem = f"it cannot be built in another process: {error}"
        raise Fault(problem, "let the config say all that build() needs") from None
    if there != said:
        problem = f"the repr of preprocess is {said[:80]} here, {there[:80]} in another process"
        raise Fault(problem, remedy)


def augments(subject: EncoderSubject) -> None:
    """Augment gives what forward takes, draws from torch's generator, and works in workers."""
    augment = subject.encoder.augment
    if augment is None:
        raise Skipped("it has no augment")
    pickled(augment, "augment")
    results: list[dict[str, Tensor]] = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(augment(subject.examples.usual))
    if digest(results[0]) != digest(results[1]):
        problem = "augment differs between two calls under one seed of torch"
        remedy = "draw from torch's global generator, not from random or numpy"
        raise Fault(problem, remedy)
    with torch.no_grad():
        shape = tuple(subject.encoder(**results[0]).shape)
    expected = len(subject.examples.usual), subject.width
    if shape != expected:
        problem = f"what augment gives has features of the shape {shape}, not {expected}"
        raise Fault(problem, "let augment return what preprocess returns")


def brings_weights_back(subject: EncoderSubject) -> None:
    """If it says that it is reproducible, its config alone brings its weights back."""
    if not subject.encoder.reproducible:
        raise Skipped("it does not say that it is reproducible")
    if changed := difference(subject.first_state, subject.state_under(2)):
        problem = f"reproducible is set, but {changed} differs between two builds"
        remedy = "set reproducible only where all weights are read from files"
        raise Fault(problem, remedy)


def digest(inputs: dict[str, Tensor]) -> dict[str, str]:
    """Return what tells tensors apart, for comparison with another process."""
    return {
        name: f"{x.dtype} {tuple(x.shape)} {hashlib.sha256(_bytes(x)).hexdigest()}"
        for name, x in inputs.items()
    }


def _bytes(x: Tensor) -> bytes:
    flat: Any = x.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


def prepared_there(sent: bytes) -> dict[str, str]:
    """Preprocess samples in the process that this is called in."""
    preprocess, samples = unpickled(sent)
    prepare: Callable[[Any], dict[str, Tensor]] = unpickled(preprocess)
    return digest(prepare(samples))


def named_there(sent: bytes) -> str:
    """Return the repr of an encoder's preprocessing in the process that this is called in."""
    config: Encoder = unpickled(sent)
    return repr(config.build().preprocess)


CHECKS: tuple[Check[Any], ...] = (
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
