"""Datasets as tar shards in the format of WebDataset, which any number of machines reads fast.

Shapes: N rows of a split, S samples, of which one with several captions has several rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from contrastive.config.amounts import byte_count
from contrastive.config.arguments import count
from contrastive.config.mistakes import misplaced, mistakes_of
from contrastive.console import bar, say
from contrastive.curation.grouped_rows import Split, grouped, prepared
from contrastive.curation.shard_folder import PARTIAL, begun, note, opened_folder
from contrastive.curation.tar_shards import (
    DIGITS,
    END,
    Tar,
    TarWriter,
    size_in_tar,
)
from contrastive.data.columns import in_tuples
from contrastive.data.storage.remote_folders import LOCAL_DISK
from contrastive.datasets import Dataset
from contrastive.datasets.bare_folder import dataset_at
from contrastive.datasets.built_split import split_reader
from contrastive.datasets.splits import SPLITS
from contrastive.errors import (
    BadSample,
    DataError,
    EmptySplit,
    SpecError,
    UnknownSplit,
    a_type,
    reason_of,
)
from contrastive.model.loading import run_spec
from contrastive.spec import RunSpec

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from contrastive.curation.shard_folder import ShardFolder
    from contrastive.data.samples import Sample, Samples

FORMAT = 1
SHARD_SIZE = "512MB"


def shard_data(
    data: Dataset | RunSpec | Mapping[str, Any] | str | Path,
    output: str | Path,
    *,
    split: str | None = None,
    shard_size: int | str = SHARD_SIZE,
    samples: int | None = None,
) -> dict[str, Any]:
    """Write a dataset as tar shards in the format of WebDataset; goes on where it was interrupted.

    A sample is ``KEY.jpg`` (the encoded image as it is), ``KEY.txt`` (its first caption) and
    ``KEY.json``: ``group_id``, ``source``, ``split``, ``label``, and all ``captions`` if there are
    several. The same data give the same bytes.

    Args:
        data: a dataset, a run's spec, or the file of one; the fields of either; or a folder of
            images, a table or shards.
        output: an empty folder, one in which this was begun, or an address (``s3://bucket/a``).
        split: a name, or several joined by ``+``, each written for itself; all that there are if
            None.
        shard_size: most bytes of a shard, such as ``"512MB"``; a larger sample has one for itself.
        samples: most samples of a shard.

    Returns:
        What ``shards.json`` says: ``splits`` with their samples and rows, and ``shards`` with their
        names, sizes, SHA-256 and the bad samples that are left out.

    Raises:
        DataError: the data cannot be read, or too many of them are bad; or the folder holds
            something else.
        SpecError: an argument is none of these.
        StorageError: the storage refuses something.

    Example:
        >>> data = {"type": "image-folder", "folder": "photos"}
        >>> [shard["name"] for shard in shard_data(data, "shards")["shards"]]
        ['train-000000.tar', 'val-000000.tar']
    """
    config = _dataset(data)
    limit = byte_count("shard_size", shard_size)
    most = None if samples is None else count("samples", samples)
    splits = [grouped(name, built) for name, built in _built(config, split).items()]
    about = {
        "format": FORMAT,
        "data": _fingerprint(splits),
        "shard_size": limit,
        "samples": most,
    }
    with _room_told(), opened_folder(output) as folder:
        state, is_done = begun(folder, about)
        if is_done:
            say(f"{folder.name}: has all of these shards already; nothing is written")
            folder.remove(PARTIAL)
            return state
        note(folder, state)
        total = sum(len(each.ends_S) for each in splits)
        done = sum(shard["next"] - shard["first"] for shard in state["shards"])
        with bar("writing shards", total, done=done) as advance:
            for each in splits:
                _Writing(folder, state, each, limit, most, advance).write()
        names = [each.name for each in splits]
        shards = cast("list[dict[str, Any]]", state["shards"])
        shards.sort(key=lambda shard: (names.index(shard["split"]), shard["name"]))
        note(folder, state, done=True)
        return state


@contextmanager
def _room_told() -> Generator[None]:
    """Say in one line that a disk takes no more.

    Raises:
        DataError: it does not.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in LOCAL_DISK:
            raise
        msg = f"{error.filename}: {reason_of(error)}; when there is room, the same goes on"
        raise DataError(msg) from error


def _dataset(data: Any) -> Dataset:
    """Return the dataset that an argument is, or that a spec has.

    Raises:
        SpecError: it is none.
    """
    if isinstance(data, Dataset):
        return data.check_again()
    if isinstance(data, Mapping) and "type" in data:
        with mistakes_of("data"):
            return cast("Dataset", Dataset.choose(cast("object", data)))
    if isinstance(data, (str, Path)) and (dataset := dataset_at(str(data))):
        return dataset
    if isinstance(data, (RunSpec, Mapping, str, Path)):
        return run_spec(cast("Any", data)).data
    if why := misplaced(data, "a dataset"):
        raise SpecError(f"data: {why}")
    msg = f"data is {a_type(data)}; give a dataset, a folder, a run's spec, or the file of one"
    raise SpecError(msg)


def _built(config: Dataset, split: str | None) -> dict[str, Samples]:
    """Return the splits that are asked for, or all that have samples, by name."""
    read = split_reader(config)
    if split is not None:
        names = dict.fromkeys(name.strip() for name in split.split("+"))
        return {name: read(name) for name in names}
    found: dict[str, Samples] = {}
    problems: list[DataError] = []
    for name in _names(read):
        try:
            found[name] = read(name)
        except (UnknownSplit, EmptySplit) as error:
            problems.append(error)
    if not found:
        raise problems[0]
    for error in problems:
        say(f"{error}; the others are written")
    return found


def _names(read: Any) -> list[str]:
    """Return the names of all splits; the usual ones, where a dataset does not say."""
    try:
        read("no split has this name")
    except UnknownSplit as error:
        if error.known:
            return sorted(error.known, key=lambda name: (name not in SPLITS, name))
    except DataError:  # which is told when a split is read
        pass
    return [*SPLITS]


def _fingerprint(splits: Sequence[Split]) -> str:
    """Return the SHA-256 of all rows: their texts, ids and places, not what files hold."""
    total = hashlib.sha256()
    for split in splits:
        total.update(f"\0{split.name}\0{len(split.rows)}\0".encode("utf-8", "surrogatepass"))
        for some in in_tuples(split.rows, ("id", "text", "source", "label")):
            total.update("".join(map(repr, some)).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


class _Writing:
    """Writes the shards of a split."""

    def __init__(
        self,
        folder: ShardFolder,
        state: dict[str, Any],
        split: Split,
        limit: int,
        most: int | None,
        advance: Any,
    ) -> None:
        self.folder, self.state, self.split, self.advance = folder, state, split, advance
        self.limit, self.most = limit, most
        self.done = [shard for shard in state["shards"] if shard["split"] == split.name]
        self.bad_rows = split.bad_rows
        self.total = len(split.rows) + split.bad_rows.bad
        for line in self.bad_rows.lines:
            say(line)
        self.bad_rows.on_report = say
        for source, problem, rows in (bad for shard in self.done for bad in shard["bad"]):
            self.bad_rows.report(source, problem, rows=rows)

    def write(self) -> None:
        number = self.done[-1]["next"] if self.done else 0
        self.prepared = prepared(self.split, number)
        self.next = next(self.prepared, None)
        while self.next:
            number = self._write_shard(number)
        samples, rows = (sum(shard[what] for shard in self.done) for what in ("samples", "rows"))
        if not samples and self.split.ends_S.size:
            msg = f"split {self.split.name!r}: no sample can be read: {self.bad_rows.lines[0]}"
            raise DataError(msg)
        self.state["splits"][self.split.name] = {
            "samples": samples,
            "rows": rows,
            "bad": self.bad_rows.bad,
        }

    def _write_shard(self, first: int) -> int:
        """Write a shard that begins with a sample; return the sample after it."""
        name = f"{quote(self.split.name, safe='')}-{len(self.done):06}.tar"
        self.bad: list[list[Any]] = []
        with self.folder.building(name) as path:
            tar = TarWriter(path)
            try:
                number = self._fill(tar, first)
            except BaseException:
                tar.abandon()
                raise
            written = tar.end()
            if not written.samples:  # the last ones of the split are all bad
                path.unlink()
                return number
        self._note(name, written, first, number)
        return number

    def _fill(self, tar: TarWriter, number: int) -> int:
        """Add samples as long as there is room; return the one for which there is none."""
        while self.next and tar.samples != self.most:
            rows, members = self.next
            if isinstance(members, BadSample):
                self._report(rows, str(members))
            elif tar.samples and tar.size + size_in_tar(members) + len(END) > self.limit:
                break
            else:
                tar.add(f"{number:0{DIGITS}}", members, rows=len(rows))
            self.next = next(self.prepared, None)
            number += 1
            self.advance(1, "")
        return number

    def _report(self, rows: list[Sample], problem: str) -> None:
        source = str(rows[0].get("source") or "")
        self.bad.append([source, problem, len(rows)])
        self.bad_rows.report(source, problem, rows=len(rows))
        self.bad_rows.check(self.total)

    def _note(self, name: str, written: Tar, first: int, number: int) -> None:
        shard = {"name": name, "split": self.split.name, **asdict(written)}
        self.done.append(shard | {"first": first, "next": number, "bad": self.bad})
        self.state["shards"].append(self.done[-1])
        note(self.folder, self.state)
