"""Samples in tar shards, in the format of WebDataset: columns of what is kept of each shard.

Shapes: M rows of all splits, I samples, S shards.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from contrastive.config.amounts import GB
from contrastive.config.garbage import garbage_later
from contrastive.config.local_files import ADDRESS
from contrastive.console import say
from contrastive.data.column_kinds import (
    Coded,
    Column,
    Integers,
    Numbered,
    Objects,
    RowNumbers,
    Strings,
)
from contrastive.data.shard_windows import ShardWindows
from contrastive.data.shards import TarImages
from contrastive.datasets.captions.splits import ReadCaptions, splits_of
from contrastive.datasets.captions.table import NO_SPLIT, Captions, Codes
from contrastive.datasets.quoting import name_list
from contrastive.datasets.shards.index import indexed
from contrastive.datasets.shards.lists import find_shards
from contrastive.datasets.shards.samples import MOST_NAMES, ROLES, Roles
from contrastive.datasets.splits import split_hash, split_named
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.columns import Columns
    from contrastive.data.shards import Shard
    from contrastive.datasets import Purpose, SplitReader, WebDataset
    from contrastive.datasets.shards.index import ShardRows

OF_HASH = ("test", "val", "train")
QUOTED_NAME = re.compile("^'.*?'")
REMEDY = "window: 8, say, reads that many shards at a time"


class _Data(NamedTuple):
    rows: ReadCaptions
    images: TarImages


def reader(config: WebDataset) -> SplitReader:
    """Return what reads splits; the shards are read when the first is asked for, once for all.

    Raises:
        DataError: see ``WebDataset.build``.
    """
    data = cache(lambda: _read(config))
    read = splits_of(config, lambda: data().rows)
    if not (window := config.window):
        return read

    def split_in_windows(split: str, /, *, purpose: Purpose = "evaluation") -> Columns:
        columns = read(split, purpose=purpose)
        (captions, *_), images = data()
        images_N = columns.rows_N if captions.image_M is None else captions.image_M[columns.rows_N]
        shards_N = images.shards_of(images_N).astype(np.int32)
        return replace(columns, order=ShardWindows(shards_N, window))

    return split_in_windows


@garbage_later()
def _read(config: WebDataset) -> _Data:
    """Return the captions of all splits, and what messages name."""
    several = config.shards if isinstance(config.shards, list) else [config.shards]
    given = [os.fspath(each) for each in several]
    origin = given[0] if len(given) == 1 else f"{given[0]} and {len(given) - 1} more"
    cache_bytes = int(config.cache_gb * GB)
    shards, splits = zip(*find_shards(given, cache_bytes=cache_bytes), strict=True)
    remote = sum(shard.size for shard in shards if shard.is_remote)
    if remote > cache_bytes and not config.window:
        size = f"{remote / GB:.3g} GB of shards are more than cache_gb, {config.cache_gb:g}"
        say(f"{origin}: {size}: they are fetched again and again; {REMEDY}")
    roles = Roles(*(getattr(config, f"{role}_column") for role in ROLES))
    table = _Table(shards, splits, roles, config.holdout)
    for shard, rows in indexed(shards, roles):
        table.add(shard, rows)
    table.check(origin)
    captions, hashed, images = table.built(origin)
    return _Data(ReadCaptions(captions, origin, hashed), images)


class _Table:
    """Gathers the rows of shards."""

    def __init__(
        self, shards: Sequence[Shard], splits: Sequence[str], roles: Roles, holdout: float
    ) -> None:
        """Gather rows of shards, whose names may say their splits."""
        self.names = short_names([shard.place for shard in shards])
        self.given, self.roles, self.holdout = splits, roles, holdout
        self.shards: list[Shard] = []
        self.parts: list[ShardRows] = []
        self.beginnings, self.groups, self.labels, self.splits = (Codes() for _ in range(4))
        self.found: set[str] = set()
        self.there: dict[str, None] = {}
        self.notes: dict[str, str] = {}
        self.hashed = False

    def add(self, shard: Shard, rows: ShardRows) -> None:
        """Add the next shard."""
        number = len(self.shards)
        self.shards.append(shard)
        self.parts.append(rows)
        names = rows.names
        self.found.update(names["found"])
        self.there |= dict.fromkeys(names["there"])
        for note in names["notes"]:  # of those alike, the first
            self.notes.setdefault(QUOTED_NAME.sub("", note), f"{shard.place}: {note}")
        beginnings = [f"{self.names[number]}:{each}" for each in names["beginnings"]]
        splits = [split_named(split) or split for split in names["splits"]]
        group_S, label_S, split_S = rows.named_S
        keys_S = _mapped(rows.keys_S[0], beginnings, self.beginnings)
        rows.keys_S = np.stack([keys_S, rows.keys_S[1]])
        group_S = _mapped(group_S, names["groups"], self.groups)
        label_S = _mapped(label_S, names["labels"], self.labels)
        split_S = _mapped(split_S, splits, self.splits)
        split_S = self._with_splits(split_S, rows.shares_S, self.given[number])
        rows.named_S = np.stack([group_S, label_S, split_S])

    def _with_splits(self, split_S: np.ndarray, shares_S: np.ndarray, given: str) -> np.ndarray:
        """Put the split of the shard, or that of the hash, where a sample does not say its own."""
        unknown_S = split_S < 0
        if not unknown_S.any():
            return split_S
        if given:
            return np.where(unknown_S, self.splits[given], split_S)
        self.hashed = True
        codes = np.array([self.splits[name] for name in OF_HASH], np.int32)
        share_S = shares_S / 2**64
        which_S = (share_S >= self.holdout).astype(np.int8) + (share_S >= 2 * self.holdout)
        return np.where(unknown_S, codes[which_S], split_S)

    def check(self, origin: str) -> None:
        """Tell what is odd about all of the data.

        Raises:
            DataError: what is needed, or what a spec names, is nowhere in it.
        """
        for note in self.notes.values():
            say(note)
        for role in ROLES:
            given: str | None = getattr(self.roles, role)
            names = self.roles.names(role)
            if role in self.found or not self.there or {*names} & self.there.keys():
                continue
            if given or role in ROLES[:2]:
                what = f"{role} ({', '.join(names)})"
                there = name_list([*self.there][:MOST_NAMES])
                msg = f"{origin}: no sample has a {what}; there are: {there}; "
                msg += self._first_problem() or f"set {role}_column"
                raise DataError(msg)

    def _first_problem(self) -> str:
        """Return what is wrong with the first bad sample, which may have had it."""
        for name, part in zip(self.names, self.parts, strict=True):
            if problems := part.names["problems"]:
                return f"{name}: {problems[0]}"
        return ""

    def built(self, origin: str) -> tuple[Captions, bool, TarImages]:
        """Return the rows, and whether a hash says some of their splits."""
        self._add_lost()
        firsts_S = np.cumsum([0, *(len(part.offsets_S) for part in self.parts)])
        starts_S = np.cumsum([0, *(len(part.texts) for part in self.parts)])
        first_rows = np.cumsum([0, *(len(part.samples_R) for part in self.parts)]).tolist()
        problems = {
            row + first: problem
            for part, first in zip(self.parts, first_rows, strict=False)
            for row, problem in zip(part.bad_B.tolist(), part.names["problems"], strict=True)
        }
        images = TarImages(
            tuple(self.shards), firsts_S[:-1], self._joined("offsets_S"), self._joined("lengths_S")
        )
        texts = Strings(self._joined("texts"), self._joined("ends_R", starts_S))
        image_M = self._joined("samples_R", firsts_S)
        single = np.array_equal(image_M, np.arange(len(images)))  # each sample has one caption

        def of_rows(values_I: np.ndarray) -> np.ndarray:
            return values_I.copy() if single else values_I[image_M]  # not a view of what may go

        key_I, number_I = self._joined("keys_S")
        group_I, label_I, split_I = self._joined("named_S")
        ids: Column = RowNumbers(len(images)) if single else Integers(image_M)
        if self.groups:
            alone_I = np.arange(len(images), dtype=np.int32)
            named_I = group_I + np.int32(len(images))
            ids = Integers(of_rows(np.where(group_I < 0, alone_I, named_I)))
        columns: dict[str, Column] = {
            "image": images if single else Coded(images, image_M),
            "text": texts,
            "id": ids,
            "source": Numbered(Strings.of(self.beginnings), of_rows(key_I), of_rows(number_I)),
        }
        if labels := [*self.labels]:
            columns["label"] = Coded(Objects(labels), of_rows(label_I))
        captions = Captions(
            columns=columns,
            images=origin,
            missing={},
            image_M=None if single else image_M,
            split_M=of_rows(split_I),
            splits=dict(self.splits),
            problems=problems,
            notes={},
            classes=tuple(sorted(labels)),
        )
        return captions, self.hashed, images

    def _add_lost(self) -> None:
        """Add bad rows for shards that could not be read to their end: as many as others have more.

        Nobody knows their splits: the first counts in each.
        """
        most = max((len(part.offsets_S) for part in self.parts), default=0)
        for number, part in enumerate(self.parts):
            if not part.fault:
                continue
            place, given = self.shards[number].place, self.given[number]
            count, there = max(1, most - len(part.offsets_S)), len(part.offsets_S)
            shares = np.array([split_hash(f"{place} {i}") for i in range(count)], np.uint64)
            split = self._with_splits(np.full(count, NO_SPLIT, np.int32), shares, given)
            if not given:
                split[0] = NO_SPLIT
            named = np.stack([np.full(count, -1, np.int32)] * 2 + [split])
            key = np.array([[self.beginnings[place]], [-1]], np.int32).repeat(count, axis=1)
            zeros, rows = np.zeros(count, np.int64), np.arange(count, dtype=np.int32)
            end = part.ends_R[-1] if len(part.ends_R) else 0
            part.names["problems"] += [part.fault] * count
            for name, more in {
                "bad_B": rows + len(part.samples_R),
                "samples_R": rows + there,
                "ends_R": zeros + end,
                "offsets_S": zeros,
                "lengths_S": zeros.astype(np.int32),
                "keys_S": key,
                "named_S": named,
            }.items():
                setattr(part, name, np.concatenate([getattr(part, name), more], axis=-1))

    def _joined(self, name: str, shifts: np.ndarray | None = None) -> np.ndarray:
        """Return an array of all shards, to whose parts numbers are added; the parts go."""
        parts: list[np.ndarray] = [getattr(part, name) for part in self.parts]
        size = sum(part.shape[-1] for part in parts)
        joined = np.empty((*parts[0].shape[:-1], size), parts[0].dtype)
        place = 0
        for i, part in enumerate(parts):
            into = joined[..., place : place + part.shape[-1]]
            into[...] = part if shifts is None else part + shifts[i].astype(part.dtype)
            place += part.shape[-1]
            setattr(self.parts[i], name, part[..., :0])
        return joined


def _mapped(codes_S: np.ndarray, names: Sequence[str], known: Codes) -> np.ndarray:
    """Return codes of this shard's names as those of all; -1 stays."""
    of_all = np.array([*(known[name] for name in names), -1], np.int32)
    return of_all[codes_S]


def short_names(places: Sequence[str]) -> list[str]:
    """Return places without the folders that they have in common.

    Example:
        >>> short_names(["s3://b/train/0.tar", "s3://b/val/0.tar"]), short_names(["/data/0.tar"])
        (['train/0.tar', 'val/0.tar'], ['0.tar'])
    """
    parts = [
        (place if ADDRESS.match(place) else Path(place).as_posix()).split("/") for place in places
    ]
    folders = [each[:-1] for each in parts]
    same = min(map(len, folders))
    while len({tuple(folder[:same]) for folder in folders}) > 1:
        same -= 1
    return ["/".join(each[same:]) for each in parts]
