"""What datasets promise: rows that are dicts, the same every time, in every process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from PIL import Image

from contrastive.config.registry import reason
from contrastive.data.images import open_image
from contrastive.data.samples import NOT_MODALITIES, Sample, Samples, rows_of
from contrastive.datasets import Dataset, Purpose
from contrastive.errors import BadSample, DataError
from contrastive.testing.checks import Check, Fault, Skipped, told
from contrastive.testing.generic import Subject
from contrastive.testing.processes import SubprocessError, in_subprocess, pickled, unpickled

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LOOKED_AT = 64  # rows of a split, evenly apart: they are cheap, but some splits are long
DECODED = 4


@dataclass(frozen=True)
class DatasetSubject(Subject):
    """A dataset that is examined."""

    config: Dataset
    split: str

    def make(self, purpose: Purpose = "evaluation") -> Samples:
        """Build the split."""
        return self.config.build(self.split, purpose=purpose)

    @cached_property
    def built(self) -> Any:
        """What build returns."""
        return self.make()

    @cached_property
    def samples(self) -> Samples:
        """The built split, by index; an iterable is held as a list, as in a run."""
        return self.built if hasattr(self.built, "__getitem__") else rows_of(self.built)

    @cached_property
    def rows(self) -> list[Sample]:
        """Some rows of it."""
        return some(self.samples)


def some(samples: Samples | Iterable[Sample]) -> list[Sample]:
    """Return rows that are evenly apart; of what has no index, from all of them."""
    if hasattr(samples, "__getitem__"):
        rows = cast("Samples", samples)
        return [rows[i] for i in range(0, len(rows), -(-len(rows) // LOOKED_AT) or 1)]
    rows = rows_of(samples)
    return rows[:: -(-len(rows) // LOOKED_AT) or 1]


def builds(subject: DatasetSubject) -> None:
    """Build reads a split that has rows, for evaluation and for training."""
    for purpose in get_args(Purpose):
        try:
            samples = subject.samples if purpose == "evaluation" else subject.make(purpose)
        except DataError as error:
            problem = f"the split {subject.split!r} cannot be built for {purpose}: {error}"
            raise Fault(problem, "name one that there is, as split=") from None
        if not some(samples):
            problem = f"the split {subject.split!r} has no rows for {purpose}"
            raise Fault(problem, "raise DataError for an empty split, or name another as split=")


def has_rows(subject: DatasetSubject) -> None:
    """Each row is a dict of one or more modalities, with an integer id and a source."""
    first = subject.rows[0]
    for row in cast("list[Any]", subject.rows):
        if not isinstance(row, dict):
            problem = f"a row is a {type(row).__name__}"
            raise Fault(problem, 'return {"image": ..., "text": ..., "id": ..., "source": ...}')
        row = cast("dict[str, Any]", row)
        modalities = sorted(row.keys() - set(NOT_MODALITIES))
        if not modalities or modalities != sorted(first.keys() - set(NOT_MODALITIES)):
            problem = f"a row has the modalities {modalities}"
            raise Fault(problem, "give every row the same, one or more")
        if not isinstance(row.get("id"), int) or isinstance(row["id"], bool):
            problem = f"the id of a row is {row.get('id')!r}, a {type(row.get('id')).__name__}"
            raise Fault(problem, "number the groups: ids are Python integers, equal in a group")
        if not isinstance(row.get("source"), str) or not row["source"]:
            problem = f"the source of a row is {row.get('source')!r}"
            raise Fault(problem, "say where it came from, such as captions.csv:17")
        if len(row["source"].splitlines()) > 1:
            raise Fault("the source of a row has several lines", "say it in one")
        classes = getattr(subject.built, "classes", ())
        if classes and (label := row.get("label")) and label not in classes:
            problem = f"the label {label!r} is not one of the {len(classes)} classes"
            raise Fault(problem, "list every label in the attribute classes of what build returns")


def has_samples(subject: DatasetSubject) -> None:
    """Images and texts are what encoders take: images that open, texts that are not empty."""
    step = -(-len(subject.rows) // DECODED)
    for row in subject.rows[::step]:
        try:
            image = row.get("image")
            if image is not None:
                open_image(image)
        except BadSample as error:
            problem = f"the image of {row['source']} cannot be opened ({error})"
            raise Fault(problem, "give a path, the bytes of a file, or a PIL image") from None
    for row in subject.rows:
        if "text" in row and (not isinstance(row["text"], str) or not row["text"].strip()):
            problem = f"the text of {row['source']} is {row['text']!r}"
            raise Fault(problem, "give a str, and leave rows without one out")


def repeats(subject: DatasetSubject) -> None:
    """The same rows come each time they are read, and from each build."""
    expected = digests(subject.rows)
    for what, samples in {"reading it": subject.samples, "building it": subject.make()}.items():
        found = digests(some(samples))
        if found != expected:
            problem = f"{what} twice gives other rows ({_first_other(subject.rows, found)})"
            raise Fault(problem, "sort what has no order, and leave shuffling to training")


def _first_other(rows: list[Sample], found: list[str]) -> str:
    for row, other in zip(rows, found, strict=False):
        if digests([row])[0] != other:
            return f"the first is {row['source']}"
    return f"{len(found)} of them after {len(rows)}"


def works_in_workers(subject: DatasetSubject) -> None:
    """What build returns can be sent to a worker process, and has the same rows there."""
    sent = pickled(subject.samples, "what build returns")
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    remedy = "let it hold all that it needs; open files in __getitem__, once in each process"
    try:
        there = in_subprocess(read_there, sent)
    except SubprocessError as error:
        raise Fault(f"rows cannot be read in a worker process: {error}", remedy) from None
    if there != digests(subject.rows):
        problem = "a worker process reads other rows"
        raise Fault(f"{problem} ({_first_other(subject.rows, there)})", remedy)


def repeats_elsewhere(subject: DatasetSubject) -> None:
    """Another process that builds the same spec gets the same rows, ids too."""
    if not subject.has_module:
        raise Skipped("its class is written in a notebook or a script, not in a module")
    try:
        there = in_subprocess(built_there, pickled(subject.config, "the config"), subject.split)
    except SubprocessError as error:
        problem = f"it cannot be built in another process: {error}"
        raise Fault(problem, "let the config say all that build() needs") from None
    if there != digests(subject.rows):
        problem = f"another process builds other rows ({_first_other(subject.rows, there)})"
        raise Fault(
            problem, "use neither hash() of texts nor the order of sets, which differ there"
        )


def knows_its_splits(subject: DatasetSubject) -> None:
    """An unknown split raises a DataError of one line that lists the known ones; + joins splits."""
    name = "no-such-split"
    remedy = "raise contrastive.errors.DataError, in one line, with the splits that there are"
    try:
        subject.config.build(name)
    except DataError as error:
        if "\n" in str(error):
            raise Fault("its DataError tells several lines", remedy) from None
        if subject.split not in str(error):
            raise Fault(f"of an unknown split it says: {error}", remedy) from None
    except Exception as error:
        raise Fault(f"an unknown split raises {told(error)}", remedy) from None
    else:
        raise Fault(f"it builds a split {name!r} that nobody has", remedy)
    joined = f"{subject.split}+{subject.split}"
    try:
        subject.config.build(joined)
    except Exception as error:
        problem = f"splits cannot be joined by +: {joined} raises {reason(error)}"
        raise Fault(problem, "split the name at + and give the rows of each") from None


def digests(rows: Sequence[Sample]) -> list[str]:
    """Return what tells rows apart, for comparison with another process."""
    return [
        json.dumps({key: _digest(value) for key, value in row.items()}, sort_keys=True)
        for row in rows
    ]


def _digest(value: Any) -> str:
    if isinstance(value, (str, Path, int, float)):
        return f"{type(value).__name__} {value}"
    if isinstance(value, Image.Image):
        value = f"{value.mode} {value.size}".encode() + value.tobytes()
    elif not isinstance(value, bytes):
        value = pickled(value, "a sample")
    return hashlib.sha256(cast("bytes", value)).hexdigest()


def read_there(sent: bytes) -> list[str]:
    """Return the digests of some rows in the process that this is called in."""
    return digests(some(unpickled(sent)))


def built_there(sent: bytes, split: str) -> list[str]:
    """Return the digests of some rows that are built in the process that this is called in."""
    config: Dataset = unpickled(sent)
    return digests(some(config.build(split)))


DATASET_CHECKS: tuple[Check[Any], ...] = (
    Check("build", builds),
    Check("rows", has_rows, needs=("build",)),
    Check("samples", has_samples, needs=("rows",)),
    Check("repeatable", repeats, needs=("rows",)),
    Check("other process", repeats_elsewhere, needs=("repeatable",)),
    Check("worker", works_in_workers, needs=("other process",)),
    Check("splits", knows_its_splits, needs=("build",)),
)
