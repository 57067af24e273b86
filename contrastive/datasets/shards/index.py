"""What is kept of a shard, so that a later start reads no tar file: its rows, in arrays.

It lies in this user's cache folder, by the shard's version and what was looked for in it. It saves
time and no more: one that is damaged is made again, and where none can be kept, each start reads
the shards.

Shapes: S samples, R rows, of which a sample with several captions has several.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from contrastive.config.local_files import cache_folder
from contrastive.console import bar, say
from contrastive.data.column_kinds import Strings, StringsBuilder
from contrastive.data.images import MAX_BYTES
from contrastive.data.storage.atomic_files import BUILT, beside, sweep, write
from contrastive.data.storage.file_locks import locked
from contrastive.data.tar_members import TarFault, members
from contrastive.datasets.captions.rows import Row
from contrastive.datasets.captions.table import Codes, numbered
from contrastive.datasets.shards.samples import ROLES, Roles, SampleReader
from contrastive.datasets.splits import split_hash
from contrastive.errors import DataError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import BinaryIO

    from contrastive.data.shards import Shard

FORMAT = 1  # of what is kept; of another one, it is made again
NAMES = ("beginnings", "groups", "labels", "splits", "problems", "notes", "found", "there", "fault")
"""Texts of a shard that are kept together, as lists."""
MANY_SHARDS = 8  # that are new; for fewer, starting processes takes longer than they save
PATIENCE = 3600.0  # seconds, for another process that reads the same shard


@dataclass
class ShardRows:
    """The rows of a shard."""

    offsets_S: np.ndarray
    """Of the images, int64."""
    lengths_S: np.ndarray
    """Of the images, int32: larger ones are bad."""
    shares_S: np.ndarray
    """What says the split where nothing else does, uint64."""
    keys_S: np.ndarray
    """The codes of the beginnings of keys, and the numbers that they end with: ``[2, S]`` int32."""
    named_S: np.ndarray
    """The codes of group, label and split, -1 for none: ``[3, S]`` int32."""
    samples_R: np.ndarray
    """The sample of each row, int32."""
    texts: np.ndarray
    """The captions in one buffer, uint8."""
    ends_R: np.ndarray
    """Of the captions in it, int64."""
    bad_B: np.ndarray
    """Which rows are bad, int32."""
    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """By ``NAMES``: what the codes stand for, the problem of each bad row, and so on."""
    digest: str = ""

    @property
    def fault(self) -> str:
        """Why the shard could not be read to its end, or nothing."""
        return "".join(self.names["fault"])


ARRAYS = [each.name for each in fields(ShardRows)][:9]


def indexed(shards: Sequence[Shard], roles: Roles) -> Iterator[tuple[Shard, ShardRows]]:
    """Yield the rows of each shard, and the shard with its digest, reading those that are new.

    Several processes that begin at once read different ones.

    Raises:
        DataError: a shard is not there.
        StorageError: one cannot be fetched.
    """
    folder = _folder()
    paths = [folder / _name(shard, roles) if folder else None for shard in shards]
    new = [i for i, path in enumerate(paths) if path is None or not path.is_file()]
    if new and folder:
        _index_all([(shards[i], path) for i in new if (path := paths[i])], roles)
    for shard, path in zip(shards, paths, strict=True):
        rows = path and _kept(path, shard)
        if rows is None:
            rows = _read(shard, roles)
            if path:
                _keep(path, rows)
        yield replace(shard, digest=rows.digest), rows


def _index_all(new: Sequence[tuple[Shard, Path]], roles: Roles) -> None:
    """Read shards that are new; many in several processes. Those of others come last."""
    from contrastive.data.loading import map_in_workers  # torch, which a later start needs not
    from contrastive.data.worker_processes import worker_count

    workers = worker_count("auto") if len(new) >= MANY_SHARDS else 0
    with bar("reading shards", total=len(new)) as advance:
        left = [*range(len(new))]
        for job in (_IndexOne(new, roles, wait=0.0), _IndexOne(new, roles, wait=PATIENCE)):
            busy: list[int] = []
            for number, is_done in map_in_workers(job, left, workers=workers):
                if is_done:
                    advance(1, "")
                else:
                    busy.append(number)
            left = busy


@dataclass(frozen=True)
class _IndexOne:
    """What a worker process does: read a shard that no other process reads."""

    new: Sequence[tuple[Shard, Path]]
    roles: Roles
    wait: float

    def __getitem__(self, number: int) -> tuple[int, bool]:
        shard, path = self.new[number]
        locks = path.parent / "locks"
        with suppress(OSError):  # of which it is told when the index is not there
            locks.mkdir(exist_ok=True)
            with locked(locks / path.name[:2], wait=self.wait):
                if not path.is_file():
                    _keep(path, _read(shard, self.roles))
                return number, True
        return number, False


def _read(shard: Shard, roles: Roles) -> ShardRows:
    """Read the headers of a shard, and the members that hold texts; no image."""
    with shard.opened() as file:
        try:
            rows = read_rows(file, shard.size, roles)
            if shard.is_remote:
                file.seek(0)
                rows.digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            msg = f"{shard.place}: cannot be read: {reason_of(error)}"
            raise DataError(msg) from error
    return rows


def read_rows(file: BinaryIO, size: int, roles: Roles) -> ShardRows:
    """Return the rows of a tar file of so many bytes."""
    reader, fault = SampleReader(roles), ""
    try:
        for member in members(file, size):
            reader.add(file, member)
    except TarFault as error:
        fault = str(error)
    beginnings, *codes = (Codes() for _ in range(4))
    places: list[tuple[int, int]] = []
    keys: list[tuple[int, int]] = []
    named: list[list[int]] = []
    shares: list[int] = []
    rows, texts, bad, problems = list[int](), list[str](), list[int](), list[str]()
    for number, key in enumerate(reader.held):
        sample = reader.sample(key)
        places.append(sample.place)
        beginning, of_key = numbered(key)
        keys.append((beginnings[beginning], of_key))
        names = (sample.group, sample.label, sample.split)
        named.append([each[name] if name else -1 for each, name in zip(codes, names, strict=True)])
        shares.append(split_hash(sample.group or key))
        problem = [sample.problem] if sample.problem else []
        captions = [(caption.text, caption.problem) for caption in sample.captions if not problem]
        captions += [("", each) for each in problem]
        if sample.twice:
            captions.append(("", f"{sample.twice!r} is there twice; the first is taken"))
        for text, why in captions:
            if why := why or Row("", key, text, "", *names[:2]).flaw:
                bad.append(len(rows))
                problems.append(why)
            rows.append(number)
            texts.append("" if why else text)
    column = _strings(texts)
    places_S = np.array(places, np.int64).reshape(-1, 2)
    texts_of = {
        "beginnings": [*beginnings],
        **dict(zip(("groups", "labels", "splits"), map(list, codes), strict=True)),
        "problems": problems,
        "notes": [*reader.notes.values()],
        "found": sorted(reader.found),
        "there": [*reader.there],
        "fault": [fault] if fault else [],
    }
    return ShardRows(
        places_S[:, 0].copy(),
        np.minimum(places_S[:, 1], MAX_BYTES + 1).astype(np.int32),
        np.array(shares, np.uint64),
        np.array(keys, np.int32).reshape(-1, 2).T.copy(),
        np.array(named, np.int32).reshape(-1, 3).T.copy(),
        np.array(rows, np.int32),
        column.buffer,
        column.ends_M,
        np.array(bad, np.int32),
        texts_of,
    )


def _strings(texts: Sequence[str]) -> Strings:
    builder = StringsBuilder()
    builder.extend(texts)
    return builder.built()


def _folder() -> Path | None:
    """Return where indexes are kept; None, which is told, if they cannot be."""
    try:
        folder = cache_folder() / "shards"
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except (ValueError, OSError) as error:
        place = getattr(error, "filename", None) or "the cache folder"
        say(f"{place}: {reason_of(error)}; shards are read again at each start")
        return None
    return folder


def _name(shard: Shard, roles: Roles) -> str:
    place = shard.place if shard.is_remote else str(Path(shard.place).absolute())
    what = json.dumps([FORMAT, place, shard.size, shard.version, [roles.names(r) for r in ROLES]])
    return hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest() + ".safetensors"


def _keep(path: Path, rows: ShardRows) -> None:
    arrays = {name: getattr(rows, name) for name in ARRAYS}
    for name in NAMES:
        column = _strings(rows.names[name])
        arrays |= {f"{name} texts": column.buffer, f"{name} ends": column.ends_M}
    building = beside(path, BUILT)
    try:
        write(building, [safetensors.save(arrays, {"digest": rows.digest})])
        building.replace(path)
    except OSError as error:
        say(f"{path.parent}: {reason_of(error)}; shards are read again at each start")
        with suppress(OSError):
            building.unlink(missing_ok=True)


def _kept(path: Path, shard: Shard) -> ShardRows | None:
    """Return what is kept, if it is whole."""
    try:
        arrays: dict[str, np.ndarray] = safetensors.load_file(path)
        with path.open("rb") as file:  # whose header is one, or it would not have been loaded
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        names = {
            name: Strings(arrays[f"{name} texts"], arrays[f"{name} ends"]).at(
                np.arange(len(arrays[f"{name} ends"]))
            )
            for name in NAMES
        }
        digest = str(header["__metadata__"]["digest"])
        rows = ShardRows(**{name: arrays[name] for name in ARRAYS}, names=names, digest=digest)
    except (OSError, ValueError, KeyError, IndexError, SafetensorError):
        return None
    return rows if _is_whole(rows, shard) else None


def _is_whole(rows: ShardRows, shard: Shard) -> bool:
    """Whether arrays fit each other, and the shard."""
    samples, count = len(rows.offsets_S), len(rows.samples_R)
    sizes: list[Any] = [len(rows.lengths_S), len(rows.shares_S), rows.keys_S.shape[1]]
    return (
        {*sizes, rows.named_S.shape[1]} == {samples}
        and len(rows.ends_R) == count
        and len(rows.bad_B) == len(rows.names["problems"])
        and _fits(rows.keys_S[0], rows.names["beginnings"])
        and _fits(rows.samples_R, rows.offsets_S)
        and all(map(_fits, rows.named_S, map(rows.names.get, ("groups", "labels", "splits"))))
        and (not count or int(rows.ends_R[-1]) == len(rows.texts))
        and (not samples or int((rows.offsets_S + rows.lengths_S).max()) <= shard.size)
    )


def _fits(codes: np.ndarray, names: Any) -> bool:
    return not len(codes) or int(codes.max()) < len(names)
