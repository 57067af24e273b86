"""Bring an index to the rows of a dataset: which are new, which are gone, what has to be encoded.

Shapes: Q samples that are distinct in their group, D wide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from contrastive.console import say, say_omission
from contrastive.data.bad_rows import BadRows
from contrastive.data.columns import chosen, some_rows, some_values, sources_of, values_of
from contrastive.data.content_hash import keys_of
from contrastive.data.frames import column_names, frame_column, library_of
from contrastive.errors import DataError, is_missing
from contrastive.indexes.segments import KEY, OWN, Row, scalar_of, utf8, with_id
from contrastive.indexes.structures import refresh
from contrastive.indexes.writer import SEGMENT_ROWS, Place, Writer
from contrastive.inference.embed import sample_name
from contrastive.inference.embed_distinct import distinct_rows
from contrastive.inference.index_encoding import drop_encoded, encode_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from torch import Tensor

    from contrastive.data.samples import Sample
    from contrastive.indexes.index import Index
    from contrastive.inference.index_encoding import Encode, Shard
    from contrastive.model.model import ContrastiveModel

AT_A_TIME = 4096  # rows that are made together


@dataclass(frozen=True)
class IndexChange:
    """What a call has done to an index.

    Example:
        >>> change = build_index(model, rows, "changed")
        >>> change.added, change.removed, change.encoded
        (4, 0, 4)
    """

    index: Index
    """As it is now."""
    added: int
    removed: int
    changed: int
    """Rows of a content that stays, of which something else is said now, such as the place."""
    encoded: int
    """Samples that were embedded."""
    renumbered: int = 0
    """Rows of which the id alone is another: datasets number the groups that they find."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = {modality: self.index.rows(modality) for modality in self.index.modalities}
        names = ("added", "removed", "changed", "renumbered", "encoded")
        done = {name: getattr(self, name) for name in names}
        return {"index": str(self.index.folder), "rows": rows} | done


@dataclass
class _Wanted:
    """Rows of a modality that an index is to have."""

    rows: list[int]
    """Of the dataset."""
    row_keys: list[bytes]
    """What tells rows apart, with the id."""
    content_keys: list[bytes]
    left_out: dict[str, None] = field(default_factory=dict[str, None])
    """Names of what rows say besides, and an index does not take."""
    kinds: dict[str, set[type]] = field(default_factory=dict[str, set[type]])
    """Of the values of each column."""


def _wanted(rows: Sequence[Sample], modality: str, number: int) -> _Wanted:
    """Return a modality's distinct samples, without those that cannot be read."""
    first_Q = distinct_rows(rows, modality).first_Q
    found = keys_of(some_values(values_of(rows, modality), first_Q), modality)
    bad_rows = BadRows(on_report=lambda line: say(f"{line}; left out"))
    if found.problems:
        sources = sources_of(rows)
        found.report(lambda i, problem: bad_rows.report(chosen(sources, [first_Q[i]])[0], problem))
    good_Q = found.good()
    packed = found.keys_D.tobytes()
    content = [packed[32 * i : 32 * i + 32] for i in found.which_N[good_Q].tolist()]
    wanted = _Wanted(first_Q[good_Q].tolist(), [], content)
    for made in _made(rows, modality, number, wanted, range(len(content))):
        wanted.row_keys.append(with_id(made.key, made.id))
    return wanted


def _made(
    rows: Sequence[Sample], modality: str, number: int, wanted: _Wanted, which: Sequence[int]
) -> Iterator[Row]:
    """Yield what the index says of some of the wanted rows."""
    for start in range(0, len(which), AT_A_TIME):
        some = which[start : start + AT_A_TIME]
        held = some_rows(rows, np.array([wanted.rows[i] for i in some], np.int64))
        for i, row in zip(some, held, strict=True):
            name = sample_name(row[modality])
            source = str(row.get("source") or "")
            yield Row(
                wanted.content_keys[i],
                number,
                int(row["id"]),
                utf8(source),
                name if name is None else utf8(name),
                _others(row, modality, wanted),
            )


def _others(row: Sample, modality: str, wanted: _Wanted) -> dict[str, Any]:
    """Return what a row says besides, and note the names of what an index does not take."""
    said: dict[str, Any] = {}
    name: Any
    for name, value in row.items():
        if name in (modality, "id", "source") or is_missing(value):
            continue
        plain = None if name in OWN or not isinstance(name, str) else scalar_of(value)
        if plain is None:
            wanted.left_out[str(name)] = None
        else:
            said[utf8(name)] = plain
            wanted.kinds.setdefault(name, set()).add(type(plain))
    return said


def _tell_of_columns(wanted: Sequence[_Wanted], modalities: Iterable[str]) -> None:
    names = dict.fromkeys(name for each in wanted for name in each.left_out)
    for name in (*modalities, "image", "text"):  # of which the other rows are
        names.pop(name, None)
    if own := [name for name in names if name in OWN]:
        say(f"not kept as columns: {', '.join(own)}; the index has such of its own; rename them")
    if others := [name for name in names if name not in OWN]:
        say(f"not kept as columns: {', '.join(others)}; they hold texts, numbers, dates or bools")
    mixed = {
        name: None
        for each in wanted
        for name, kinds in each.kinds.items()
        if len(kinds) > 1 and kinds != {int, float}
    }
    if mixed:
        say(f"kept as texts where their values are of several types: {', '.join(mixed)}")


def tell_of_ids(samples: Any) -> None:
    """Tell of ids that become numbers."""
    ids: Any = ()
    if library_of(samples):
        ids = frame_column(samples, "id") if "id" in column_names(samples) else ()
    elif isinstance(samples, (list, tuple)):
        rows = cast("Sequence[Any]", samples)
        ids = (cast("Sample", row).get("id") for row in rows if isinstance(row, dict))
    if (text := next((each for each in ids if isinstance(each, str)), None)) is not None:
        say(f"ids such as {text!r} are numbered; another column with them as well keeps them")


def bring(
    writer: Writer,
    model: ContrastiveModel,
    rows: Sequence[Sample],
    modalities: Sequence[str],
    number: int,
    encode: Encode,
) -> IndexChange:
    """Let the index have of one of its data just these rows."""
    wanted = {modality: _wanted(rows, modality, number) for modality in modalities}
    _tell_of_columns([*wanted.values()], model.towers)
    if not any(each.rows for each in wanted.values()):
        msg = f"nothing to index: none of {len(rows)} rows has a sample that can be read"
        raise DataError(msg)
    there = _rows_there(writer, number)
    new: dict[str, list[int]] = {}
    for modality, each in wanted.items():
        new[modality] = [
            i for i, key in enumerate(each.row_keys) if there.pop((modality, key), None) is None
        ]
    known = _known_contents(writer, {m: {wanted[m].content_keys[i] for i in new[m]} for m in new})
    to_encode: dict[str, dict[bytes, int]] = {}
    for modality, several in new.items():
        each = wanted[modality]
        keys = to_encode.setdefault(modality, {})
        for i in several:
            if (modality, each.content_keys[i]) not in known:
                keys.setdefault(each.content_keys[i], each.rows[i])
    about = writer.about
    shards, encoded = encode_keys(
        model,
        rows,
        {modality: keys for modality, keys in to_encode.items() if keys},
        writer.encoding,
        dim=about.dim,
        sha256=about.model.sha256,
        encode=encode,
    )
    added = 0
    for modality, several in new.items():
        each = wanted[modality]
        made = partial(_made, rows, modality, number, each)
        by_key: dict[bytes, list[int]] = {}
        for i in several:
            by_key.setdefault(each.content_keys[i], []).append(i)
        added += _add_shards(writer, modality, shards, by_key, made)
        copied = [i for key, same in by_key.items() if (modality, key) in known for i in same]
        for start in range(0, len(copied), SEGMENT_ROWS):
            some = copied[start : start + SEGMENT_ROWS]
            places = [known[modality, each.content_keys[i]] for i in some]
            writer.add(modality, [*made(some)], _gathered(writer, places))
        added += len(copied)
        _tell_of_equal(
            rows, each, [same for key, same in by_key.items() if (modality, key) not in known]
        )
    changed, renumbered = _changes(writer, there, wanted, new)
    writer.delete(there.values())
    writer.commit()
    drop_encoded(writer.encoding)
    writer.join_small()
    refresh(writer)
    stay = changed + renumbered
    return IndexChange(writer.index, added - stay, len(there) - stay, changed, encoded, renumbered)


def _tell_of_equal(rows: Sequence[Sample], wanted: _Wanted, bad: Sequence[list[int]]) -> None:
    """Tell of rows with the content of one that could not be read, which alone was told."""
    sources = sources_of(rows)
    for first, *others in ([wanted.rows[i] for i in same] for same in bad):
        for row in others:
            of, other = chosen(sources, [first, row])
            say_omission(f"{other}: its content is that of {of}; left out")


def _changes(
    writer: Writer,
    gone: dict[tuple[str, bytes], Place],
    wanted: dict[str, _Wanted],
    new: dict[str, list[int]],
) -> tuple[int, int]:
    """Return how many rows that go have the content of one that comes, and differ; or by the id."""
    came, came_said = Counter[tuple[str, bytes]](), Counter[tuple[str, bytes]]()
    for name, several in new.items():
        came.update((name, wanted[name].content_keys[i]) for i in several)
        came_said.update((name, wanted[name].row_keys[i][:KEY]) for i in several)
    went, went_said = Counter[tuple[str, bytes]](), Counter[tuple[str, bytes]]()
    for number, segment in enumerate(writer.held):
        numbers = [place.row for place in gone.values() if place.segment == number]
        name = segment.about.modality
        for column, counted in (("content_key", went), ("row_key", went_said)):
            keys = segment.table.column(column).take(numbers).to_pylist() if numbers else ()
            counted.update((name, key) for key in keys)
    renumbered = (came_said & went_said).total()
    return (came & went).total() - renumbered, renumbered


def _rows_there(writer: Writer, number: int) -> dict[tuple[str, bytes], Place]:
    """Return the rows that the index has of some data, by modality and row key."""
    found: dict[tuple[str, bytes], Place] = {}
    for which, segment in enumerate(writer.held):
        keys = segment.table.column("row_key").to_pylist()
        data, ids = (segment.table.column(name).to_numpy() for name in ("data", "id"))
        for row in segment.live_numbers():
            if data[row] == number:
                key = with_id(keys[row], int(ids[row]))
                found[segment.about.modality, key] = Place(which, row)
    return found


def _known_contents(
    writer: Writer, wanted: dict[str, set[bytes]]
) -> dict[tuple[str, bytes], Place]:
    """Return where the index has some contents; a deleted row has its vector still."""
    found: dict[tuple[str, bytes], Place] = {}
    for which, segment in enumerate(writer.held):
        modality = segment.about.modality
        if some := wanted.get(modality):
            for row, key in enumerate(segment.table.column("content_key").to_pylist()):
                if key in some:
                    found.setdefault((modality, key), Place(which, row))
    return found


def _add_shards(
    writer: Writer,
    modality: str,
    shards: Sequence[Shard],
    by_key: dict[bytes, list[int]],
    made: Callable[[Sequence[int]], Iterator[Row]],
) -> int:
    """Add the rows whose contents shards have, and take them out of ``by_key``; return how many."""
    added = 0
    for shard in shards:
        if shard.modality != modality:
            continue
        first: list[tuple[int, int]] = []  # of the shard's row and the wanted one
        more: list[tuple[int, int]] = []  # the same content in other groups
        for row, key in enumerate(shard.keys):
            if same := by_key.pop(key, None):
                first.append((row, same[0]))
                more += [(row, i) for i in same[1:]]
        added += len(first) + len(more)
        if first and len(first) == len(shard.keys):
            writer.add(modality, [*made([i for _, i in first])], shard.path)
        else:
            more = first + more
        for start in range(0, len(more), SEGMENT_ROWS):
            some = more[start : start + SEGMENT_ROWS]
            vectors_QD = shard.vectors()[[row for row, _ in some]]
            writer.add(modality, [*made([i for _, i in some])], vectors_QD)
    return added


def _gathered(writer: Writer, places: Sequence[Place]) -> Tensor:
    """Return the vectors of rows: ``[Q, D]``."""
    rows_of: dict[int, list[int]] = {}
    for i, place in enumerate(places):
        rows_of.setdefault(place.segment, []).append(i)
    vectors_QD = writer.held[0].vectors_MD.new_empty(len(places), writer.about.dim)
    for segment, which in rows_of.items():
        vectors_QD[which] = writer.held[segment].vectors_MD[[places[i].row for i in which]]
    return vectors_QD
