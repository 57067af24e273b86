"""Checks of encoders: the module's attributes, preprocessing, rows, saved weights.

Workers run the preprocessing, and the feature cache keeps features under its repr.

Shapes: B samples, F features.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image

from contrastive.encoders.module import EncoderModule
from contrastive.encoders.trial import mixing
from contrastive.errors import BadSample, a_type
from contrastive.heads import Linear
from contrastive.spec import Tower
from contrastive.testing.checks import Check, Fault, Skipped, expect, short_reason
from contrastive.testing.datasets import has_a_form
from contrastive.testing.modules import build_checked, expect_same
from contrastive.testing.processes import pickled
from contrastive.testing.rows import RowsSubject, keeps_its_weights, row_checks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from contrastive.encoders import Encoder

ENOUGH = 3  # samples, the fewest whose order and number can be varied

TEXTS = "a dog", "two brown dogs run over wet grass towards a red ball", "cat", "a cat on a mat"
EDGE_TEXTS = ("", " ", "\n", "Ünïcödé, 犬 и собака", "🐕‍🦺 🎉", "word " * 300, "\ud800")
IMAGE_SIZES = ((40, 60), (90, 50), (64, 64), (200, 70))
ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")
ATTRIBUTES: dict[str, Any] = {"modality": str, "out_dim": int, "preprocess": Callable}


@dataclass(frozen=True)
class Examples:
    """Samples of one modality."""

    typical: Sequence[Any]
    """Any encoder has to take them."""
    edge: Sequence[Any] = ()
    """An encoder takes them, or raises ``BadSample``."""
    invalid: dict[str, Any] = field(default_factory=dict[str, Any])
    """By what they are: an encoder raises ``BadSample``."""
    equivalent: Sequence[Any] = ()
    """Forms of one sample, which have to give the same inputs."""


def examples_of(modality: str, given: Sequence[Any] | None, folder: Path) -> Examples:
    """Return samples of a modality, the given ones or our own, with images in a folder."""
    if given is not None and len(given) < ENOUGH:
        raise Fault(f"samples has {len(given)}", f"give {ENOUGH} or more, all different")
    match modality:
        case "text":
            invalid = {"None": None, "a number": 7, "bytes": b"a dog"}
            return Examples(given or TEXTS, EDGE_TEXTS, invalid)
        case "image":
            return _images(given, folder)
        case _ if given is None:
            problem = f"there are no ready samples of the modality {modality!r}"
            remedy = f"give {ENOUGH} or more that its preprocess takes, by --samples or samples="
            raise Fault(problem, remedy)
        case _:
            return Examples(given, invalid={"None": None, "an object()": object()})


def _images(given: Sequence[Any] | None, folder: Path) -> Examples:
    noise = np.random.default_rng(0)
    pixels = (noise.integers(0, 256, (h, w, 3), dtype=np.uint8) for w, h in IMAGE_SIZES)
    images = [Image.fromarray(x) for x in pixels]
    path = folder / "image.png"
    images[0].save(path)
    encoded = path.read_bytes()
    edge = [images[1].convert(mode) for mode in ("L", "P", "CMYK", "RGBA", "1")]
    edge += [images[0].resize(size) for size in ((1, 1), (60, 3))]
    invalid = {
        "None": None,
        "a number": 7,
        "bytes that are no image": b"not an image",
        "an image that is cut off": encoded[: len(encoded) // 2],
        "a path without a file": folder / "missing.png",
    }
    equivalent = [images[0], encoded, path, str(path)]
    return Examples(given or images, edge, invalid, equivalent)


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

    @cached_property
    def examples(self) -> Examples:
        """Samples of its modality."""
        return examples_of(self.config.modality, self.given, self.folder)

    @cached_property
    def samples(self) -> list[Any]:
        """The ordinary samples, and the odd ones that it takes."""
        taken = [*self.examples.typical]
        for sample in self.examples.edge:
            with suppress(Exception):  # of any kind: ``refuses_bad_samples`` reports it
                self.module.preprocess([sample])
                taken.append(sample)
        return taken

    @property
    def raw_samples(self) -> Sequence[Any]:
        """The ordinary samples."""
        return self.examples.typical

    @property
    def width(self) -> int:
        """F."""
        return self.module.out_dim

    def forward(self, module: Any, samples: Sequence[Any]) -> Tensor:
        """Return features."""
        return module(**module.preprocess(samples))

    def tower(self) -> Tower:
        """Return a tower in which the encoder is frozen."""
        return Tower(encoder=self.config, head=Linear(), frozen="encoder")

    def mixing(self, sample: object) -> tuple[str, str]:
        """Blame padding if the sample's inputs have another shape in the batch."""
        _, when, remedy = mixing(self.module, sample, self.samples)
        return when, remedy


def builds(subject: EncoderSubject) -> None:
    """Build returns an EncoderModule with all its attributes, and changes no setting of torch."""
    module = build_checked(lambda: subject.module, EncoderModule)
    for name, kind in ATTRIBUTES.items():
        fits = isinstance(value := getattr(module, name, None), kind)
        expect(fits, f"the module's {name} is {value!r}", f"set it, a {kind.__name__}, in __init__")
    problem = f"the module encodes {module.modality!r}, its config {subject.config.modality!r}"
    expect(module.modality == subject.config.modality, problem, "give both the tower's name")


def preprocesses(subject: EncoderSubject) -> None:
    """Preprocess takes ordinary samples (or samples=) and gives CPU tensors with a row for each."""
    typical = subject.examples.typical
    for i, sample in enumerate(typical):
        has_a_form(sample, subject.config.modality, f"sample {i}")
    for samples in (typical, typical[:1]):
        inputs: Any = subject.module.preprocess(samples)
        expect(isinstance(inputs, dict), f"preprocess gives {a_type(inputs)}, not a dict")
        for name, x in cast("dict[str, Any]", inputs).items():
            what = f"{x.device} tensor" if isinstance(x, torch.Tensor) else type(x).__name__
            expect(what == "cpu tensor", f"preprocess gives a {what} as {name!r}")
            problem = f"{name!r} has the shape {tuple(x.shape)} for {len(samples)} samples"
            expect(x.shape[:1] == (len(samples),), problem)
    taken = len(subject.samples)
    expect(taken >= ENOUGH, f"preprocess takes {taken} of the samples by themselves")


def refuses_bad_samples(subject: EncoderSubject) -> None:
    """Invalid samples raise BadSample, with a message of one line; odd ones may."""
    good, preprocess = subject.examples.typical[0], subject.module.preprocess
    remedy = "raise contrastive.errors.BadSample, in one line, as as_text and open_image do"
    batches = [(f"{sample!r:.60}", [sample], True) for sample in subject.examples.edge]
    batches += [(what, [good, x], False) for what, x in subject.examples.invalid.items()]
    for what, samples, may_pass in batches:
        try:
            preprocess(samples)
        except BadSample as error:
            one_line = may_pass or "\n" not in str(error)
            expect(one_line, f"the BadSample of {what} has several lines", remedy)
        except Exception as error:
            problem = f"{what} makes preprocess raise {short_reason(error)}"
            raise Fault(problem, remedy) from None
        else:
            expect(may_pass, f"preprocess takes {what} for a sample", remedy)


def repeats(subject: EncoderSubject) -> None:
    """Preprocess gives the same every time, without random numbers."""
    preprocess, samples = subject.module.preprocess, subject.samples
    random_state = torch.get_rng_state()
    first, second, remedy = preprocess(samples), preprocess(samples), "leave that to augment"
    expect_same(first, second, "differs between two calls: preprocess is random", remedy)
    drew = not torch.equal(random_state, torch.get_rng_state())
    expect(not drew, "preprocess draws random numbers", remedy)


def reads_every_form(subject: EncoderSubject) -> None:
    """An image gives the same as a path, as encoded bytes and as a PIL image."""
    forms, preprocess = subject.examples.equivalent, subject.module.preprocess
    if not forms:
        raise Skipped("samples of its modality have one form")
    for form in forms:
        problem = f"of an image as {type(form).__name__} is not the same as of a PIL image"
        remedy = "open all with contrastive.data.images.open_image"
        expect_same(preprocess([form]), preprocess(forms[:1]), problem, remedy)


def works_in_workers(subject: EncoderSubject) -> None:
    """Preprocess can be sent to a worker process, and gives the same there."""
    preprocess, samples = subject.module.preprocess, subject.samples
    pickled(preprocess, "preprocess")
    found = subject.in_subprocess("a sample", preprocess, samples)
    problem = "is something else if preprocess runs in a worker process"
    remedy = "let it depend on its fields alone: not on hash() or globals"
    expect_same(found, preprocess(samples), problem, remedy)


def has_a_stable_repr(subject: EncoderSubject) -> None:
    """The repr of preprocess, a key of the feature cache, is the same in every process."""
    text = repr(subject.module.preprocess)
    remedy = "make it a frozen dataclass, or name in __repr__ all that changes its result"
    expect(not ADDRESS.search(text), f"the repr has a memory address: {text[:80]}", remedy)
    other = subject.in_subprocess("the config", repr_in_subprocess, subject.config)
    problem = f"the repr of preprocess is {text[:80]} here, {other[:80]} in another process"
    expect(other == text, problem, remedy)


def repr_in_subprocess(config: Encoder) -> str:
    """Return the repr of an encoder's preprocessing."""
    return repr(config.build().preprocess)


def augments(subject: EncoderSubject) -> None:
    """Augment gives what forward takes, draws from torch's generator, and works in workers."""
    augment, samples = subject.module.augment, subject.examples.typical
    if augment is None:
        raise Skipped("it has no augment")
    pickled(augment, "augment")
    torch.manual_seed(3)
    first = augment(samples)
    torch.manual_seed(3)
    second = augment(samples)
    problem = "differs between two calls under one seed: augment has its own random numbers"
    expect_same(first, second, problem, "draw from torch's global generator")
    with torch.no_grad():
        shape = tuple(subject.module(**first).shape)
    expected = len(samples), subject.width
    expect(shape == expected, f"augment leads to features of the shape {shape}, not {expected}")


def is_reproducible(subject: EncoderSubject) -> None:
    """If it says that it is reproducible, its config alone brings its weights back."""
    if not subject.module.reproducible:
        raise Skipped("it does not say that it is reproducible")
    problem = "differs between two builds, though reproducible is set"
    remedy = "set reproducible only where all weights are read from files"
    expect_same(subject.initial_state(1), subject.initial_state(2), problem, remedy)


ENCODER_CHECKS: tuple[Check, ...] = (
    Check("build", builds),
    Check("preprocess", preprocesses, needs=("build",)),
    Check("bad samples", refuses_bad_samples, needs=("preprocess",)),
    Check("repeatable", repeats, needs=("preprocess",)),
    Check("forms", reads_every_form, needs=("repeatable",)),
    Check("worker", works_in_workers, needs=("repeatable",)),
    Check("repr", has_a_stable_repr, needs=("preprocess",)),
    *row_checks("repeatable"),
    Check("augment", augments, needs=("output",)),
    Check("reproducible", is_reproducible, needs=("seed",)),
    Check(
        "save and load",
        keeps_its_weights,
        # a model tries the encoder of another package itself, before it embeds
        needs=("eval mode", "reproducible", "round trip", "batch size", "batch order"),
    ),
)
