"""What a run relies on in encoders of others, tried on its samples before hours are spent."""

from __future__ import annotations

import multiprocessing
import pickle  # noqa: TID251  (as workers do, to a process of our own)
from typing import TYPE_CHECKING, Any

from contrastive.config.provenance import is_ours, package_of
from contrastive.encoders.promises import broken_promise
from contrastive.errors import BadSample, SpecError, reason_of
from contrastive.inference.embed_dataset import distinct_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Sample
    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule
    from contrastive.model.model import ContrastiveModel

LOOKED_AT = 64  # samples, among which those that are tried are chosen
FEW = 3  # the fewest of which an order of any kind is seen


def check_encoders(model: ContrastiveModel, rows: Sequence[Sample], *, workers: int) -> None:
    """Try each encoder that is not of this package; ours are tried when they are built.

    Raises:
        SpecError: features are random, depend on the batch, are not finite or of another shape than
            the encoder says; or workers cannot have its preprocessing.
    """
    for modality in model.towers:
        encoder, module = model.tower(modality).spec.encoder, model.tower(modality).encoder
        if is_ours(type(encoder)):
            continue
        problem = _unpicklable(module) if workers and _started_anew() else ""
        first = rows[:LOOKED_AT]
        each = [first[i][modality] for i, *_ in distinct_rows(first, modality)]
        samples = _few_of(each, module)
        if not problem and samples and (broken := broken_promise(module, samples)):
            problem = f"{broken.problem}; choose another encoder, or let it {broken.remedy}"
        if problem:
            msg = f"towers.{modality}: {_name(encoder)}: {problem}"
            raise SpecError(msg)


def _name(encoder: Encoder) -> str:
    cls = type(encoder)
    package = package_of(cls)
    return f"{cls.registry.name_of(cls)}{' of ' + ' '.join(package) if package else ''}"


def _few_of(samples: list[Any], module: EncoderModule) -> list[Any]:
    """Return samples that can be used: of texts the shortest, the longest and one between."""
    if all(isinstance(sample, str) for sample in samples):
        samples = sorted(samples, key=len)
        samples = [*samples[:1], *samples[-1:], *samples[1:-1]]
    usable: list[Any] = []
    for sample in samples:
        try:
            module.preprocess([sample])
        except BadSample:
            continue
        usable.append(sample)
        if len(usable) == FEW:
            break
    return usable


def _started_anew() -> bool:
    """Whether worker processes get what they need by pickle."""
    return multiprocessing.get_context().get_start_method() != "fork"


def _unpicklable(module: EncoderModule) -> str:
    try:
        pickle.dumps(module.preprocess)
    except Exception as error:  # whatever a class raises
        return (
            f"its preprocess cannot be sent to workers ({reason_of(error)}); define it at the top "
            "of a module, or set training.workers: 0"
        )
    return ""
