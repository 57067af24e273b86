"""Bring an index to the rows of a dataset: which are new, which are gone, what has to be encoded.

Shapes: Q samples that are distinct in their group, D wide.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.columns import chosen, some_rows, some_values, sources_of, values_of
from contrastive.data.content_hash import keys_of
from contrastive.errors import DataError
from contrastive.indexes.segments import OWN, Row, is_scalar
from contrastive.indexes.structures import refresh
from contrastive.indexes.writer import SEGMENT_ROWS, Place, Writer
from contrastive.inference.embed import sample_name
from contrastive.inference.embed_distinct import distinct_rows
from contrastive.inference.index_encoding import drop_encoded, encode_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    """Samples that were given to the model."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = {modality: self.index.rows(modality) for modality in self.index.modalities}
        names = ("added", "removed", "changed", "encoded")
        done = {name: getattr(self, name) for name in names}
        return {"index": str(self.index.folder), "rows": rows} | done


@dataclass
class _Wanted:
    """Rows of a modality that an index is to have."""

    rows: list[int]
    """Of the dataset."""
    row_keys: list[bytes]
    content_keys: list[bytes]


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
        wanted.row_keys.append(made.key)
    return wanted


def _made(
    rows: Sequence[Sample], modality: str, number: int, wanted: _Wanted, which: Sequence[int]
) -> Iterator[Row]:
    """Yield what the index says of some of the wanted rows."""
    for start in range(0, len(which), AT_A_TIME):
        some = which[start : start + AT_A_TIME]
        held = some_rows(rows, np.array([wanted.rows[i] for i in some], np.int64))
        for i, row in zip(some, held, strict=True):
            others = {
                name: value
                for name, value in row.items()
                if name not in (modality, *OWN) and is_scalar(value)
            }
            name = sample_name(row[modality])
            source = str(row.get("source", ""))
            yield Row(
                wanted.content_keys[i],
                number,
                int(row["id"]),
                _text(source),
                name if name is None else _text(name),
                others,
            )


def _text(text: str) -> str:
    """Return a text that UTF-8 has: names of files may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


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
    changed = _same_contents(writer, there, wanted, new)
    writer.delete(there.values())
    writer.commit()
    drop_encoded(writer.encoding)
    writer.join_small()
    refresh(writer)
    return IndexChange(writer.index, added - changed, len(there) - changed, changed, encoded)


def _same_contents(
    writer: Writer,
    gone: dict[tuple[str, bytes], Place],
    wanted: dict[str, _Wanted],
    new: dict[str, list[int]],
) -> int:
    """Return how many rows that go have the content of one that comes."""
    came = Counter((name, wanted[name].content_keys[i]) for name in new for i in new[name])
    went: Counter[tuple[str, bytes]] = Counter()
    for number, segment in enumerate(writer.held):
        rows = [place.row for place in gone.values() if place.segment == number]
        keys = segment.table.column("content_key").take(rows).to_pylist() if rows else ()
        went.update((segment.about.modality, key) for key in keys)
    return (came & went).total()


def _rows_there(writer: Writer, number: int) -> dict[tuple[str, bytes], Place]:
    """Return the rows that the index has of some data, by modality and row key."""
    found: dict[tuple[str, bytes], Place] = {}
    for which, segment in enumerate(writer.held):
        keys = segment.table.column("row_key").to_pylist()
        data = segment.table.column("data").to_numpy()
        for row in segment.live_numbers():
            if data[row] == number:
                found[segment.about.modality, keys[row]] = Place(which, row)
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
