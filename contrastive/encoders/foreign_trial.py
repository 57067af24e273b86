"""Encoders of other packages, tried on samples at hand before their features are relied on.

Ours are tried when they are built.
"""

from __future__ import annotations

import multiprocessing
import pickle  # noqa: TID251  (as workers do, to a process of our own)
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from contrastive.config.provenance import is_ours, package_of
from contrastive.data.content_hash import short_key
from contrastive.encoders.promises import broken_promise
from contrastive.errors import BadSample, SpecError, is_missing, reason_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from contrastive.encoders import Encoder
    from contrastive.encoders.module import EncoderModule

LOOKED_AT = 64  # samples, among which those that are tried are chosen
FEW = 3  # the fewest of which an order of any kind is seen
UNSEEN = ("repeatable", "padding", "batch")  # what one call of an encoder does not show
_tried: WeakKeyDictionary[EncoderModule, int] = WeakKeyDictionary()  # on so many samples


def check_foreign(
    spec: Encoder,
    module: EncoderModule,
    samples: Sequence[Any],
    *,
    workers: int = 0,
    promises: Collection[str] = UNSEEN,
) -> None:
    """Try an encoder that is not of this package, once a process, on three samples if there are.

    Args:
        spec: its config.
        module: what that built.
        samples: those at hand.
        workers: processes that are to preprocess.
        promises: what to insist on; who encodes a batch sees by itself if the rest is broken.

    Raises:
        SpecError: features are random, depend on the batch, are not finite or of another shape than
            the encoder says; or workers cannot have its preprocessing.
    """
    tried = _tried.get(module, 0)
    if is_ours(type(spec)) or tried >= min(FEW, len(samples)):
        return
    problem = _unpicklable(module) if workers and _started_anew() else ""
    few = [] if problem else _few_of(samples[:LOOKED_AT], module)
    try:
        broken = broken_promise(module, few) if len(few) > tried else None
    except SpecError as error:  # of its preprocessing, or of what its forward takes
        msg = f"towers.{module.modality}: {_name(spec)}: {error}"
        raise SpecError(msg) from error
    if broken and broken.promise in promises:
        problem = f"{broken.problem}; choose another encoder, or let it {broken.remedy}"
    if problem:
        msg = f"towers.{module.modality}: {_name(spec)}: {problem}"
        raise SpecError(msg)
    _tried[module] = max(tried, len(few))


def _name(encoder: Encoder) -> str:
    cls = type(encoder)
    package = package_of(cls)
    return f"{cls.registry.name_of(cls)}{' of ' + ' '.join(package) if package else ''}"


def _few_of(samples: Sequence[Any], module: EncoderModule) -> list[Any]:
    """Return distinct samples that can be used: of texts the shortest, the longest, one between."""
    keys = ((short_key(sample, module.modality), i) for i, sample in enumerate(samples))
    distinct = [*{key or -i: samples[i] for key, i in keys}.values()]
    distinct = [sample for sample in distinct if not is_missing(sample)]
    if all(isinstance(sample, str) for sample in distinct):
        distinct.sort(key=len)
        distinct = [*distinct[:1], *distinct[1:][-1:], *distinct[1:-1]]
    usable: list[Any] = []
    for sample in distinct:
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
