"""Checks of datasets: rows that are dicts, and the same rows in every call, build and process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from PIL import Image

from contrastive.data.content_hash import sample_key
from contrastive.data.images import open_image
from contrastive.data.samples import NOT_MODALITIES, Sample, Samples, rows_of
from contrastive.datasets import Dataset, Purpose
from contrastive.errors import BadSample, DataError, a_type
from contrastive.testing.checks import Check, Fault, expect, short_reason
from contrastive.testing.generic import Subject
from contrastive.testing.processes import pickled

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOKED_AT = 64  # rows of a split, evenly spaced: they are cheap, but some splits are long
DECODED = 4  # of them, as decoding is slow


@dataclass(frozen=True)
class DatasetSubject(Subject):
    """The dataset under test."""

    config: Dataset
    split: str

    def make(self, purpose: Purpose = "evaluation") -> Samples:
        """Build the split."""
        return self.config.build(self.split, purpose=purpose)

    @cached_property
    def built(self) -> Any:
        """The result of build."""
        return self.make()

    @cached_property
    def samples(self) -> Samples:
        """The built split, by index; an iterable becomes a list, as in a run."""
        return self.built if hasattr(self.built, "__getitem__") else rows_of(self.built)

    @cached_property
    def rows(self) -> list[Sample]:
        """Some rows of it."""
        return some(self.samples)

    def compare(self, found: list[str], problem: str, remedy: str) -> None:
        """Raise a Fault unless these are the hashes of the rows."""
        expected = digests_of_some(self.rows)
        triples = zip(self.rows, expected, found, strict=False)
        sources = [f"the first is {row['source']}" for row, x, y in triples if x != y]
        where = sources[0] if sources else f"{len(found)} of them after {len(expected)}"
        expect(found == expected, f"{problem} ({where})", remedy)


def some(samples: Samples | Iterable[Sample]) -> list[Sample]:
    """Return rows at even distances; of an iterable, from all of its rows."""
    rows = cast("Samples", samples) if hasattr(samples, "__getitem__") else rows_of(samples)
    return [rows[i] for i in range(0, len(rows), -(-len(rows) // LOOKED_AT) or 1)]


def builds(subject: DatasetSubject) -> None:
    """Build reads a split (the one of split=) that has rows, for evaluation and for training."""
    for purpose in get_args(Purpose):
        samples = subject.samples if purpose == "evaluation" else subject.make(purpose)
        problem = f"the split {subject.split!r} has no rows for {purpose}"
        expect(some(samples), problem, "raise DataError for it, or name another as split=")


def has_rows(subject: DatasetSubject) -> None:
    """Each row is a dict of one or more modalities, with an integer id and a source."""
    first = subject.rows[0]
    classes = getattr(subject.built, "classes", ())
    for row in cast("list[Any]", subject.rows):
        expect(isinstance(row, dict), f"a row is {a_type(row)}")
        modalities = sorted(row.keys() - set(NOT_MODALITIES))
        same = modalities and modalities == sorted(first.keys() - set(NOT_MODALITIES))
        expect(same, f"a row has the modalities {modalities}", "give every row the same")
        number, source, label = row.get("id"), row.get("source"), row.get("label")
        problem = f"the id of a row is {number!r}, {a_type(number)}"
        remedy = "number the groups: ids are Python integers, equal in a group"
        expect(isinstance(number, int) and not isinstance(number, bool), problem, remedy)
        remedy = "say where it came from in one line, such as captions.csv:17"
        one_line = isinstance(source, str) and len(source.splitlines()) == 1
        expect(one_line, f"the source of a row is {source!r}", remedy)
        listed = not classes or not label or label in classes
        expect(listed, f"the label {label!r} is not in classes", "list every label there")


def has_samples(subject: DatasetSubject) -> None:
    """Samples have a form of docs/data.md; images open, and texts are not empty."""
    for row in subject.rows[:: -(-len(subject.rows) // DECODED)]:
        try:
            if (image := row.get("image")) is not None:
                open_image(image)
        except BadSample as error:
            problem = f"the image of {row['source']} cannot be opened ({error})"
            raise Fault(problem, "give a path, the bytes of a file, or a PIL image") from None
    for row in subject.rows:
        for modality in row.keys() - {*NOT_MODALITIES, "image"}:
            has_a_form(row[modality], modality, row["source"])
        text = row.get("text", "text")
        filled = isinstance(text, str) and text.strip()
        expect(filled, f"the text of {row['source']} is {text!r}", "leave rows without one out")


def has_a_form(sample: Any, modality: str, source: str) -> None:
    """Insist on a sample that a run can tell from others: it finds features and leaks by that."""
    try:
        sample_key(sample, modality)
    except BadSample as error:
        problem, _, remedy = str(error).partition("; ")
        raise Fault(f"{source}: {problem}", remedy or "give what can be read") from None


def repeats(subject: DatasetSubject) -> None:
    """The same rows come each time they are read, and from each build."""
    remedy = "sort what has no order, and leave shuffling to training"
    for what, samples in {"reading it": subject.samples, "building it": subject.make()}.items():
        subject.compare(digests_of_some(samples), f"{what} twice gives other rows", remedy)


def works_in_workers(subject: DatasetSubject) -> None:
    """What build returns can be sent to a worker process, and has the same rows there."""
    found = subject.in_subprocess("what build returns", digests_of_some, subject.samples)
    remedy = "let it hold all that it needs; open files in __getitem__, once in each process"
    subject.compare(found, "a worker process reads other rows", remedy)


def repeats_in_subprocess(subject: DatasetSubject) -> None:
    """Another process that builds the same spec gets the same rows, ids too."""
    found = subject.in_subprocess("the config", build_in_subprocess, subject.config, subject.split)
    remedy = "use neither hash() of texts nor the order of sets, which differ there"
    subject.compare(found, "another process builds other rows", remedy)


def build_in_subprocess(config: Dataset, split: str) -> list[str]:
    """Return the hashes of some rows of a dataset that is yet to be built."""
    return digests_of_some(config.build(split))


def lists_its_splits(subject: DatasetSubject) -> None:
    """An unknown split raises a DataError of one line that lists the known ones; + joins splits."""
    remedy = "raise contrastive.errors.DataError, in one line, with the splits that exist"
    try:
        subject.config.build("no-such-split")
    except DataError as error:
        expect("\n" not in str(error), "its DataError has several lines", remedy)
        expect(subject.split in str(error), f"of an unknown split it says: {error}", remedy)
    except Exception as error:
        raise Fault(f"an unknown split raises {short_reason(error)}", remedy) from None
    else:
        raise Fault("it builds a split 'no-such-split' that nobody has", remedy)
    subject.config.build(f"{subject.split}+{subject.split}")


def digests_of_some(samples: Samples | Iterable[Sample]) -> list[str]:
    """Return a hash of each of some rows, to compare between processes."""
    rows = ({key: _digest(value) for key, value in row.items()} for row in some(samples))
    return [json.dumps(row, sort_keys=True) for row in rows]


def _digest(value: Any) -> str:
    if isinstance(value, (str, Path, int, float)):
        return f"{type(value).__name__} {value}"
    if isinstance(value, Image.Image):
        value = f"{value.mode} {value.size}".encode() + value.tobytes()
    elif not isinstance(value, bytes):
        value = pickled(value, "a sample")
    return hashlib.sha256(cast("bytes", value)).hexdigest()


DATASET_CHECKS: tuple[Check, ...] = (
    Check("build", builds),
    Check("rows", has_rows, needs=("build",)),
    Check("samples", has_samples, needs=("rows",)),
    Check("repeatable", repeats, needs=("rows",)),
    Check("other process", repeats_in_subprocess, needs=("repeatable",)),
    Check("worker", works_in_workers, needs=("other process",)),
    Check("splits", lists_its_splits, needs=("build",)),
)
