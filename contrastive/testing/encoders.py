"""What encoders promise beside rows and preprocessing: what their modules say of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.encoders.module import EncoderModule
from contrastive.testing.checks import Check, Fault, Skipped
from contrastive.testing.preprocessing import PREPROCESSING, augments
from contrastive.testing.row_checks import row_checks
from contrastive.testing.rows import difference
from contrastive.testing.saved import keeps_its_weights
from contrastive.testing.settings import same_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.testing.subjects import (
        EncoderSubject,
    )


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


ENCODER_CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    *PREPROCESSING,
    *row_checks("repeatable"),
    Check("augment", augments, needs=("output",)),
    Check("reproducible", brings_weights_back, needs=("seed",)),
    Check("save and load", keeps_its_weights, needs=("eval mode", "reproducible", "round trip")),
)
