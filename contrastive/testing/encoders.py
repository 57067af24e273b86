"""What encoders promise beside rows and preprocessing: what their modules say of themselves."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from contrastive.encoders import CBOW, Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.heads import Linear
from contrastive.losses import InfoNCE
from contrastive.spec import ModelSpec, Tower
from contrastive.testing.checks import Check, Fault, Skipped
from contrastive.testing.partner import Partner
from contrastive.testing.preprocessing import PREPROCESSING, augments
from contrastive.testing.processes import pickled
from contrastive.testing.row_checks import row_checks
from contrastive.testing.rows import RowsSubject, difference
from contrastive.testing.samples import Examples, examples_of
from contrastive.testing.saved import keeps_its_weights
from contrastive.testing.settings import same_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

EMBED_DIM = 8


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
    with same_settings():
        module: Any = subject.module
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


def brings_weights_back(subject: EncoderSubject) -> None:
    """If it says that it is reproducible, its config alone brings its weights back."""
    if not subject.encoder.reproducible:
        raise Skipped("it does not say that it is reproducible")
    if changed := difference(subject.first_state, subject.state_under(2)):
        problem = f"reproducible is set, but {changed} differs between two builds"
        remedy = "set reproducible only where all weights are read from files"
        raise Fault(problem, remedy)


CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    *PREPROCESSING,
    *row_checks("repeatable"),
    Check("augment", augments, needs=("output",)),
    Check("reproducible", brings_weights_back, needs=("seed",)),
    Check("save and load", keeps_its_weights, needs=("eval mode", "reproducible", "round trip")),
)
