"""Several datasets as one: their rows one below the other, and an order that has each its share.

Shapes: N rows of all datasets.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from contrastive.console import say
from contrastive.data.bad_rows import BadRows, bad_rows_of
from contrastive.data.column_kinds import Column, Integers, Objects, Strings
from contrastive.data.columns import Columns, ids_of, keys_in, sources_of
from contrastive.data.row_order import order_of
from contrastive.data.samples import ID_LIMIT, NOT_MODALITIES, rows_of
from contrastive.data.stacked_columns import Prefixed, stacked
from contrastive.datasets.built_split import split_reader
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.mix.order import MixOrder, shares_of
from contrastive.datasets.quoting import quoted
from contrastive.errors import DataError, EmptySplit, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from contrastive.data.samples import Sample, Samples
    from contrastive.datasets import Mix, Purpose, SplitReader

BETWEEN = ": "  # the name of a dataset, and what it says of a row


class Part(NamedTuple):
    """A split of one of the datasets."""

    name: str
    number: int
    """Of the dataset, by its name."""
    rows: Sequence[Sample]
    built: Samples


def reader(config: Mix) -> SplitReader:
    """Return what reads splits of all datasets."""
    readers = {name: split_reader(data) for name, data in sorted(config.datasets.items())}

    def split_named(split: str, /, *, purpose: Purpose = "evaluation") -> Columns:
        parts: list[Part] = []
        missing: list[UnknownSplit | EmptySplit] = []
        for number, (name, read) in enumerate(readers.items()):
            built = _built(name, read, split, purpose)
            if isinstance(built, (UnknownSplit, EmptySplit)):
                missing.append(built)
            else:
                rows = rows_of(built, needs_ids=purpose == "training")
                parts.append(Part(name, number, rows, built))
        if missing and (purpose == "training" or not parts):
            for error in missing:
                if isinstance(error, EmptySplit):
                    raise error
            known = {split for error in missing for split in getattr(error, "known", ())}
            raise UnknownSplit(str(missing[0]), known)
        for error in missing:
            say(f"{error}; the mix goes without it")
        return mixed(config, parts, purpose)

    return split_named


def _built(
    name: str, read: SplitReader, split: str, purpose: Purpose
) -> Samples | UnknownSplit | EmptySplit:
    """Return a split of a dataset; of several that are joined, those that it has.

    Raises:
        DataError: it cannot be read; names the dataset.
    """
    try:
        return read(split, purpose=purpose)
    except EmptySplit as error:
        return EmptySplit(f"{name}{BETWEEN}{error}")
    except UnknownSplit as error:
        unknown = UnknownSplit(f"{name}{BETWEEN}{error}", error.known)
    except DataError as error:
        msg = f"{name}{BETWEEN}{error}"
        raise DataError(msg) from error
    names = dict.fromkeys(each.strip() for each in split.split("+"))
    there = [each for each in names if len(names) > 1 and _has(read, each, purpose)]
    if not there:
        return unknown
    say(f"{unknown}; of {quoted(split)} it gives {quoted('+'.join(there))}")
    return _built(name, read, "+".join(there), purpose)


def _has(read: SplitReader, split: str, purpose: Purpose) -> bool:
    try:
        read(split, purpose=purpose)
    except UnknownSplit:
        return False
    except DataError:  # which is told when all are read
        return True
    return True


def mixed(config: Mix, parts: Sequence[Part], purpose: Purpose) -> Columns:
    """Return the rows of some splits as one; those of the first dataset by name come first."""
    keys = dict.fromkeys(
        key for part in parts for key in keys_in(part.rows) if key not in NOT_MODALITIES
    )
    held = {key: [_of_part(part.rows, key) for part in parts] for key in (*keys, "label")}
    columns: dict[str, Column] = {key: stacked(held[key]) for key in keys}
    ids = [_ids(part, len(config.datasets), config.ids) for part in parts]
    columns["id"] = Integers(np.concatenate(ids))
    columns["source"] = stacked([_sources(part) for part in parts])
    classes = {name for part in parts for name in getattr(part.built, "classes", ())}
    if any((rows >= 0).any() for _, rows in held["label"]):
        columns["label"] = stacked(held["label"])
    tell_of_alike(tuple(sorted(classes)), " + ".join(part.name for part in parts))
    count = len(columns["id"])
    weights = tuple(config.weights[part.name] for part in parts) if config.weights else ()
    if purpose == "training":
        _tell_of_shares(parts, weights)
    return Columns(
        columns,
        np.arange(count, dtype=np.int32 if count < 1 << 31 else np.int64),
        MixedBadRows.of(parts),
        tuple(sorted(classes)),
        order=MixOrder(
            tuple(part.name for part in parts),
            tuple(np.cumsum([len(part.rows) for part in parts]).tolist()),
            weights,
            tuple(order_of(part.rows) for part in parts),
        ),
        sparse=frozenset(
            {"label", *(key for key in keys if any((rows < 0).any() for _, rows in held[key]))}
        ),
    )


def _of_part(rows: Sequence[Sample], key: str) -> tuple[Column, np.ndarray]:
    """Return a column, and which of its values each row has; -1 for none."""
    if isinstance(rows, Columns) and key in rows.columns:
        return rows.columns[key], rows.rows_N
    if isinstance(rows, Columns):
        return Objects([]), np.full(len(rows), -1)
    held = {id(row[key]): row[key] for row in rows if row.get(key) is not None}
    number = {name: i for i, name in enumerate(held)}
    found = (number.get(id(row.get(key)), -1) for row in rows)
    return Objects([*held.values()]), np.fromiter(found, np.int64, len(rows))


def _sources(part: Part) -> tuple[Column, np.ndarray]:
    if isinstance(part.rows, Columns) and "source" in part.rows.columns:
        column, rows = part.rows.columns["source"], part.rows.rows_N
    else:
        column, rows = Strings.of(sources_of(part.rows)), np.arange(len(part.rows))
    return Prefixed(f"{part.name}{BETWEEN}", column), rows


def _ids(part: Part, datasets: int, ids: str) -> np.ndarray:
    """Return group ids that no other dataset has, unless they share theirs."""
    found = ids_of(part.rows)
    if ids == "shared":
        return found
    if len(found) and max(abs(int(found.min())), abs(int(found.max()))) >= ID_LIMIT // datasets - 1:
        found = np.unique(found, return_inverse=True)[1].astype(np.int64)
    return found * datasets + part.number


def _tell_of_shares(parts: Sequence[Part], weights: tuple[float, ...]) -> None:
    sizes = np.array([len(part.rows) for part in parts])
    if not sizes.any():
        return  # which whoever reads them tells
    shares = shares_of(weights or sizes)
    for part, size, share in zip(parts, sizes.tolist(), shares.tolist(), strict=True):
        times = share * sizes.sum() / size if size else 0
        what = f"{size:,} rows, {share:.1%} of each batch"
        say(f"{part.name}: {what}, read {times:.3g} times an epoch")


@dataclass
class MixedBadRows(BadRows):
    """The ledgers of several datasets, each with its own budget, as one."""

    parts: Mapping[str, BadRows] = field(default_factory=dict[str, BadRows])
    totals: Mapping[str, int] = field(default_factory=dict[str, int])

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Self:
        """Return one ledger of what was left out of splits."""
        held = {part.name: bad_rows_of(part.built).copy() for part in parts}
        lines = [f"{name}{BETWEEN}{line}" for name, known in held.items() for line in known.lines]
        return cls(
            max((known.budget for known in held.values()), default=0.0),
            lines=lines,
            bad=sum(known.bad for known in held.values()),
            reported={*lines},
            parts=held,
            totals={part.name: len(part.rows) + held[part.name].bad for part in parts},
        )

    def copy(self) -> Self:
        """Return a ledger that goes on from this one, which stays as it is."""
        parts = {name: part.copy() for name, part in self.parts.items()}
        return replace(self, lines=[*self.lines], reported={*self.reported}, parts=parts)

    def report(self, source: str, problem: str, *, rows: int = 1) -> None:
        """Note one fault, for the dataset that ``source`` begins with."""
        super().report(source, problem, rows=rows)
        name, _, place = source.partition(BETWEEN)
        if part := self.parts.get(name):
            part.bad += rows
            part.lines.append(f"{place}{BETWEEN}{problem}")

    def check(self, total: int) -> None:
        """Raise if a dataset has more bad rows than its own budget allows; ``total`` is of all.

        Raises:
            DataError: names the dataset.
        """
        del total
        for name, part in self.parts.items():
            try:
                part.check(self.totals[name])
            except DataError as error:
                msg = f"{name}{BETWEEN}{error}"
                raise DataError(msg) from None
