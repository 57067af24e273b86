"""What an encoder's preprocessing promises: workers can run it, and the feature cache can name it.

Shapes: B samples.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, cast

import torch

from contrastive.errors import BadSample
from contrastive.testing.checks import Check, Fault, Skipped, told
from contrastive.testing.processes import SubprocessError, in_subprocess, pickled, unpickled
from contrastive.testing.samples import ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from contrastive.encoders import Encoder
    from contrastive.testing.subjects import EncoderSubject

ADDRESS = re.compile(r"\bat 0x[0-9a-f]+")


def prepares(subject: EncoderSubject) -> None:
    """Preprocess takes ordinary samples, one or many, and gives CPU tensors with a row for each."""
    typical = subject.examples.typical
    for samples in (typical, typical[:1]):
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


def refuses(subject: EncoderSubject) -> None:
    """What is no sample raises BadSample, with a message of one line; what is odd may."""
    good, preprocess = subject.examples.typical[0], subject.encoder.preprocess
    remedy = "raise contrastive.errors.BadSample, in one line, for what cannot be used"
    helpers = {
        "image": "contrastive.data.images.open_image",
        "text": "contrastive.encoders.text.as_text",
    }
    if helper := helpers.get(subject.config.modality):
        remedy += f", as {helper} does"
    for sample in subject.examples.edge:
        try:
            preprocess([sample])
        except BadSample:
            continue
        except Exception as error:
            raise Fault(f"{sample!r:.60} makes preprocess raise {told(error)}", remedy) from None
    for what, sample in subject.examples.invalid.items():
        try:
            preprocess([good, sample])
        except BadSample as error:
            if "\n" in str(error):
                raise Fault(f"of {what}, BadSample tells several lines", remedy) from None
        except Exception as error:
            raise Fault(f"{what} makes preprocess raise {told(error)}", remedy) from None
        else:
            raise Fault(f"preprocess takes {what} for a sample", remedy)


def repeats(subject: EncoderSubject) -> None:
    """Preprocess gives the same every time, without random numbers."""
    preprocess, samples = subject.encoder.preprocess, subject.samples
    dice = torch.get_rng_state()
    first = digest(preprocess(samples))
    if digest(preprocess(samples)) != first or not torch.equal(dice, torch.get_rng_state()):
        problem = "preprocess is random"
        raise Fault(problem, "leave randomness to augment, which training takes instead")


def reads_every_form(subject: EncoderSubject) -> None:
    """An image gives the same as a path, as encoded bytes and as a PIL image."""
    if not subject.examples.equivalent:
        raise Skipped("samples of its modality have one form")
    forms = [
        (form, digest(subject.encoder.preprocess([form]))) for form in subject.examples.equivalent
    ]
    for other, found in forms:
        if found != forms[0][1]:
            what = type(other).__name__
            problem = f"an image as {what} gives other inputs than as a PIL image"
            raise Fault(problem, "open all with contrastive.data.images.open_image")


def works_in_workers(subject: EncoderSubject) -> None:
    """Preprocess can be sent to a worker process, and gives the same there."""
    sent = subject.sent
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    try:
        there = in_subprocess(prepared_there, sent)
    except SubprocessError as error:
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
        there = in_subprocess(named_there, pickled(subject.config, "the config"))
    except SubprocessError as error:
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
        results.append(augment(subject.examples.typical))
    if digest(results[0]) != digest(results[1]):
        problem = "augment differs between two calls under one seed of torch"
        remedy = "draw from torch's global generator, not from random or numpy"
        raise Fault(problem, remedy)
    with torch.no_grad():
        shape = tuple(subject.encoder(**results[0]).shape)
    expected = len(subject.examples.typical), subject.width
    if shape != expected:
        problem = f"what augment gives has features of the shape {shape}, not {expected}"
        raise Fault(problem, "let augment return what preprocess returns")


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


PREPROCESSING: tuple[Check[Any], ...] = (
    Check("preprocess", prepares, needs=("build",)),
    Check("bad samples", refuses, needs=("preprocess",)),
    Check("repeatable", repeats, needs=("preprocess",)),
    Check("forms", reads_every_form, needs=("repeatable",)),
    Check("worker", works_in_workers, needs=("repeatable",)),
    Check("repr", names_itself, needs=("preprocess",)),
)
