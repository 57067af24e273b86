"""Raw samples to batches of tensors, in worker processes if there are many, bad ones set apart."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from contrastive.config.foreign_errors import foreign_error
from contrastive.data.worker_processes import Workers, end_with_parent, end_without_files
from contrastive.errors import BadSample, ContrastiveError, SpecError, a_type, is_missing

if TYPE_CHECKING:
    from contrastive.data.samples import Preprocess

OnBad = Callable[[int, str], None]
"""Is told the index and the problem of a sample that cannot be used."""

GRACE = 10  # seconds that a worker lives on after SIGTERM
MIN_BATCHES_FOR_WORKERS = 4  # batches; for fewer, starting processes takes longer than they save


def first_bad_raises(samples: int) -> OnBad:
    """Return what ends with the first of some samples that cannot be used."""

    def stop(index: int, problem: str) -> None:
        raise BadSample(f"sample {index} of {samples}: {problem}" if samples > 1 else problem)

    return stop


@dataclass
class Prepared:
    """A batch that an encoder can take."""

    indices: list[int]
    """Which samples are in it, in order."""
    inputs: dict[str, Tensor]
    """Keyword arguments of the encoder's ``forward``, on the CPU."""
    problems: dict[int, str] = field(default_factory=dict[int, str])
    """Samples that could not be prepared, and why."""

    def __getitem__(self, rows: slice) -> Prepared:
        """Return some rows, without the problems."""
        inputs = {name: tensor[rows] for name, tensor in self.inputs.items()}
        return Prepared(self.indices[rows], inputs)

    @property
    def by_row(self) -> bool:
        """Whether each tensor has a row for each sample: what an encoder packs has others."""
        return all(len(tensor) == len(self.indices) for tensor in self.inputs.values())

    def filled(self, rows: int) -> dict[str, Tensor]:
        """Return the inputs with the last sample repeated up to so many rows.

        Kernels add up in an order that depends on the shape of a batch, so that the last bits of a
        sample's features would depend on how many samples there are. What is packed stays as it is.
        """
        more = rows - len(self.indices)
        if more <= 0 or not self.by_row:
            return self.inputs
        return {
            name: torch.cat([tensor, tensor[-1:].expand(more, *tensor.shape[1:])])
            for name, tensor in self.inputs.items()
        }


def prepare(preprocess: Preprocess, samples: Sequence[Any], indices: Sequence[int]) -> Prepared:
    """Preprocess samples; if one is bad, find out which and go on with the others."""
    try:
        return Prepared(list(indices), preprocessed(preprocess, samples))
    except BadSample:
        pass
    good: list[int] = []
    problems: dict[int, str] = {}
    for place, (index, sample) in enumerate(zip(indices, samples, strict=True)):
        try:
            preprocessed(preprocess, [sample])
            good.append(place)
        except BadSample as error:
            problems[index] = str(error)
    inputs = preprocessed(preprocess, [samples[place] for place in good]) if good else {}
    return Prepared([indices[place] for place in good], inputs, problems)


def preprocessed(preprocess: Preprocess, samples: Sequence[Any]) -> dict[str, Tensor]:
    """Return the arguments of ``forward``.

    Raises:
        BadSample: a sample is bad, such as None where preprocess takes none.
        SpecError: preprocess gave something else than a dict of tensors.
    """
    try:
        found: Any = preprocess(samples)
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        none = [sample for sample in samples if is_missing(sample)]
        if isinstance(error, ContrastiveError) or not none:
            raise
        msg = f"{none[0]} is no sample, but what stands for none"
        raise BadSample(msg) from error
    wrong = [found] if not isinstance(found, Mapping) else []
    wrong = wrong or [x for x in cast("Any", found).values() if not isinstance(x, Tensor)]
    keys = [] if wrong else [key for key in cast("Any", found) if not isinstance(key, str)]
    if not wrong and not keys:
        return cast("dict[str, Tensor]", found)
    name = getattr(preprocess, "__name__", type(preprocess).__name__)
    inside = " in a dict" if isinstance(found, Mapping) else ""
    what = f"{a_type(wrong[0])}{inside}" if wrong else f"a dict with the key {keys[0]!r}"
    msg = f"the preprocess {name} gave {what}; it has to give a dict of tensors, a row a sample"
    raise SpecError(msg)


def merge(parts: Sequence[Prepared]) -> Prepared:
    """Join batches whose tensors agree in all but the first dimension."""
    whole = [part for part in parts if part.indices]
    names = whole[0].inputs if whole else ()
    return Prepared(
        [index for part in whole for index in part.indices],
        {name: torch.cat([part.inputs[name] for part in whole]) for name in names},
        {index: problem for part in parts for index, problem in part.problems.items()},
    )


def uniform_batches(
    samples: Sequence[Any],
    indices: Sequence[int],
    preprocess: Preprocess,
    *,
    batch_size: int,
    workers: int = 0,
) -> Iterator[Prepared]:
    """Yield ``samples[indices]`` in batches of one shape each, not in order; problems first.

    Each sample is preprocessed alone, so nothing of it, such as the padding of a text, depends on
    the others. All batches have ``batch_size`` rows, but for the last of each shape, which
    ``Prepared.filled`` completes; a sample whose inputs are packed is a batch of its own.
    """
    waiting: dict[object, Prepared] = {}
    job = _PrepareEach(samples, preprocess)
    for parts in in_groups(job, indices, batch_size, workers=workers):
        for shape, part in parts.items():
            whole = merge([waiting.pop(shape), part]) if shape in waiting else part
            if not whole.by_row:
                yield whole
                continue
            if len(whole.indices) >= batch_size:
                yield whole[:batch_size]
                whole = whole[batch_size:]
            if whole.indices:
                waiting[shape] = whole
            elif whole.problems:
                yield whole
    yield from waiting.values()


@dataclass(frozen=True)
class _PrepareEach:
    samples: Sequence[Any]
    preprocess: Preprocess

    def __getitem__(self, group: list[int]) -> dict[object, Prepared]:
        """Return samples by the shape of their inputs; bad ones by none."""
        parts: dict[object, list[Prepared]] = {}
        for index in group:
            part = prepare(self.preprocess, [self.samples[index]], [index])
            inputs = part.inputs.items()
            shape = tuple((name, tensor.dtype, *tensor.shape[1:]) for name, tensor in inputs)
            parts.setdefault(shape if part.by_row else index, []).append(part)
        return {shape: merge(several) for shape, several in parts.items()}


def in_groups(job: Any, indices: Sequence[int], size: int, *, workers: int) -> Iterator[Any]:
    """Yield ``job[group]`` for groups of ``size`` indices, in order; few need no workers."""
    groups = [list(indices[i : i + size]) for i in range(0, len(indices), size)]
    yield from map_in_workers(
        job, groups, workers=workers if len(groups) > MIN_BATCHES_FOR_WORKERS else 0
    )


def map_in_workers(job: Any, groups: Iterable[Any], *, workers: int) -> Iterator[Any]:
    """Yield ``job[group]`` for each group, in order, computed ahead by worker processes.

    The loader draws its seeds from a generator of its own, so the caller's randomness stays put.

    Raises:
        LostWorker: a worker process was killed; what the caller has made is whole.
    """
    loader: DataLoader[Any] = DataLoader(
        cast("Any", _ReturnErrors(job)),
        sampler=cast("Any", groups),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )
    with _without_tokenizer_threads():
        results = Workers(lambda: iter(loader), workers)
    for result in results:
        if isinstance(result, ContrastiveError):
            try:
                raise result
            finally:  # else they hold each other, and the processes wait for Python's collector
                del result
        yield result


@contextmanager
def _without_tokenizer_threads() -> Generator[None]:
    """Let processes that start in a block tokenize in one thread: threads end at a fork."""
    name = "TOKENIZERS_PARALLELISM"
    if name in os.environ:
        yield
        return
    os.environ[name] = "false"
    try:
        yield
    finally:
        del os.environ[name]


@dataclass(frozen=True)
class _ReturnErrors:
    """Brings a mistake back from a worker as it is, a plugin's too, not wrapped in a traceback."""

    job: Any

    def __getitem__(self, group: Any) -> Any:
        try:
            return self.job[group]
        except ContrastiveError as error:
            return error
        except BaseException as error:  # a sys.exit of a plugin's would end the worker
            if get_worker_info() is None or not (found := foreign_error(error)):
                raise
            found.add_note(traceback.format_exc())  # which is lost on the way
            return found


def _start_worker(_: int) -> None:
    """Outlive the signals that a whole group gets: the parent needs its workers to end a step."""
    end_with_parent()
    end_without_files()
    for name in ("SIGINT", "SIGHUP", "SIGUSR1"):  # Windows has the first alone
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":  # which ends processes without a signal
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
