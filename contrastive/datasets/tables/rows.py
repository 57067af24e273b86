"""Columns of tables, some thousand rows at a time, as the columns of a dataset.

What a row says is judged as in tables of captions, but for many rows at once, by pyarrow; a cell
that is odd is looked at by itself. Rows are not made.

Shapes: T rows of tables, M captions of all splits, U distinct names.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from contrastive.config.extras import require
from contrastive.data.column_kinds import StringsBuilder
from contrastive.datasets.quoting import quoted
from contrastive.datasets.tables.columns import NO_CAPTION, NO_VALUE, text_of
from contrastive.datasets.tables.text_decoding import NOT_TEXT, text_problem
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ODD = "[^ -~]"  # letters that are not plainly seen


class Block(NamedTuple):
    """Several rows of a table that follow each other."""

    rows: int
    cells: dict[str, Any]
    """Arrays of pyarrow by role: the path of the image, text, group, label, split."""
    problems: dict[int, str]
    """Of rows that are broken."""
    lines: Sequence[int] | None = None
    """Where they are, if they are not numbered one by one."""


class Names(NamedTuple):
    """What rows have of some role, by number."""

    distinct: Any
    """The U names, in an array of pyarrow."""
    codes_T: np.ndarray
    """int32; -1 for nothing."""


class TableRows:
    """Gathers the rows of all files of a table."""

    def __init__(self, columns: dict[str, str]) -> None:
        """Gather rows; ``columns`` has the name of each role's column, for messages."""
        self.columns = columns
        self.arrow = require("pyarrow", extra="parquet")
        self.compute = require("pyarrow.compute", extra="parquet")
        self.rows = 0
        self._path: Path | None = None
        self.texts = StringsBuilder()
        self.chunks: dict[str, list[Any]] = {role: [] for role in columns if role != "text"}
        self.lengths: list[np.ndarray | int] = []
        """How many captions rows have; a number of rows that have one each."""
        self.lines: list[np.ndarray] = []
        self.problems: dict[int, str] = {}
        """By row."""
        self.text_problems: dict[int, str] = {}
        """By caption."""

    def add(self, block: Block, path: Path) -> None:
        """Judge rows of a file, and add them.

        Raises:
            DataError: a column holds no texts.
        """
        self._path = path
        for i, problem in block.problems.items():
            self.problems.setdefault(self.rows + i, problem)
        for role, chunks in self.chunks.items():
            if role in block.cells:
                cells, problems = self._names(block.cells[role], self.columns[role])
                if role in ("split", "image"):
                    column = quoted(self.columns[role])
                    empty = cells.is_null().to_numpy(zero_copy_only=False).nonzero()[0].tolist()
                    problems = dict.fromkeys(empty, f"{column} is empty or not a text") | problems
                for i, problem in problems.items():
                    self.problems.setdefault(self.rows + i, problem)
            else:
                cells = self.arrow.nulls(block.rows, self.arrow.large_string())
            chunks.append(cells)
        if "text" in self.columns:
            self._add_texts(block)
        lines = range(block.rows) if block.lines is None else block.lines
        if block.lines is not None:
            self.lines.append(np.asarray(lines, np.int32))
        self.rows += block.rows

    def _add_texts(self, block: Block) -> None:
        cells = block.cells["text"]
        if _is_list(cells.type):
            cells, lengths = self._flat(cells)
            self.lengths.append(lengths)
        else:
            self.lengths.append(block.rows)
        texts, problems = self._texts(cells, self.columns["text"])
        self.text_problems |= {self.texts.rows + i: why for i, why in problems.items()}
        _, ends, content = texts.buffers()
        ends = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        part = memoryview(content or b"")[int(ends[0]) : int(ends[-1])]
        self.texts.extend_encoded(part, np.diff(ends))

    def _flat(self, cells: Any) -> tuple[Any, np.ndarray]:
        """Return the captions of rows that list them, and how many each has; one that is null."""
        lengths = self.compute.list_value_length(cells).fill_null(0)
        lengths = lengths.to_numpy(zero_copy_only=False).astype(np.int32)
        if lengths.all():
            return cells.flatten(), lengths
        several = [each or [None] for each in cells.to_pylist()]
        flat = self.arrow.array([x for each in several for x in each], cells.type.value_type)
        return flat, np.array([*map(len, several)], np.int32)

    def _texts(self, cells: Any, column: str) -> tuple[Any, dict[int, str]]:
        """Return captions without spaces around them; one that is none is empty."""
        texts, problems = self._strings(cells, column)
        texts = self.compute.utf8_trim_whitespace(texts)
        empty = self._which(self.compute.equal(self.compute.binary_length(texts).fill_null(0), 0))
        nothing = self._which(self.compute.is_in(texts, self._values(NO_CAPTION)))
        for i in nothing:
            problems.setdefault(i, f"{quoted(column)} is {quoted(texts[i].as_py())}: no value")
        for i in empty:
            problems.setdefault(i, f"{quoted(column)} is empty or not a text")
        for i in self._which(self.compute.match_substring_regex(texts, ODD)):
            if flaw := text_problem(texts[i].as_py()):
                problems.setdefault(i, f"the caption {flaw}")
        return self._without(texts, problems).fill_null(""), problems

    def _names(self, cells: Any, column: str) -> tuple[Any, dict[int, str]]:
        """Return names, null for one that is blank or not there."""
        texts, problems = self._strings(cells, column)
        texts = self.compute.utf8_trim_whitespace(texts)
        blank = self.compute.or_(
            self.compute.equal(self.compute.binary_length(texts), 0),
            self.compute.is_in(texts, self._values(NO_VALUE)),
        )
        texts = self._none_where(texts, blank.fill_null(True))
        for i in self._which(self.compute.match_substring_regex(texts, ODD)):
            if flaw := text_problem(texts[i].as_py()):
                problems.setdefault(i, f"{quoted(column)} {flaw}")
        return self._without(texts, problems), problems

    def _strings(self, cells: Any, column: str) -> tuple[Any, dict[int, str]]:
        """Return cells of any type as strings of 64-bit offsets, and what is wrong with some.

        Raises:
            DataError: this type has no texts.
        """
        kind, types = cells.type, self.arrow.types
        if types.is_dictionary(kind):
            cells = cells.dictionary_decode()
            kind = cells.type
        wanted = self.arrow.large_string()
        if types.is_null(kind) or types.is_integer(kind):
            return cells.cast(wanted), {}
        if types.is_floating(kind):  # whole numbers with gaps, as pandas writes them
            texts = [text_of(each) or None for each in cells.to_pylist()]
            return self.arrow.array(texts, wanted), {}
        if str(kind).removeprefix("large_").removesuffix("_view") not in ("string", "binary"):
            role = next(role for role, name in self.columns.items() if name == column)
            what = f"column {quoted(column)} holds {str(kind)[:80]}, not texts"
            remedy = f"name another as {role}_column, or '' for none"
            msg = f"{self._path}: {what}; {remedy}"
            raise DataError(msg)
        try:
            cells.validate(full=True)
            return cells.cast(wanted), {}
        except self.arrow.ArrowInvalid:
            return self._decoded(cells, wanted, column)

    def _decoded(self, cells: Any, wanted: Any, column: str) -> tuple[Any, dict[int, str]]:
        """Return what is UTF-8 of bytes."""
        texts: list[str | None] = []
        problems: dict[int, str] = {}
        for i, each in enumerate(cells.cast(self.arrow.large_binary()).to_pylist()):
            try:
                texts.append(each and each.decode())
            except UnicodeDecodeError:
                texts.append(None)
                problems[i] = f"{quoted(column)} {NOT_TEXT}"
        return self.arrow.array(texts, wanted), problems

    def _values(self, values: frozenset[str]) -> Any:
        return self.arrow.array(sorted(values), self.arrow.large_string())

    def _which(self, mask: Any) -> list[int]:
        return mask.fill_null(False).to_numpy(zero_copy_only=False).nonzero()[0].tolist()

    def _without(self, texts: Any, problems: dict[int, str]) -> Any:
        if not problems:
            return texts
        mask = np.zeros(len(texts), np.bool_)
        mask[[*problems]] = True
        return self._none_where(texts, self.arrow.array(mask))

    def _none_where(self, texts: Any, mask: Any) -> Any:
        return self.compute.if_else(mask, self.arrow.scalar(None, texts.type), texts)

    def names(self, role: str) -> Names:
        """Return what rows have of a role, in the order in which they come; lets go of it."""
        chunks = self.chunks.pop(role)
        chunked = self.arrow.chunked_array(chunks, self.arrow.large_string())
        del chunks
        encoded = chunked.dictionary_encode().unify_dictionaries()
        codes = [
            chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False) for chunk in encoded.chunks
        ]
        distinct = encoded.chunk(0).dictionary if codes else chunked
        return Names(distinct, np.concatenate([np.empty(0, np.int32), *codes]).astype(np.int32))

    def captions_of_rows(self) -> np.ndarray | None:
        """Return how many captions each row has: ``[T]``; None if each has one."""
        if all(isinstance(each, int) for each in self.lengths):
            return None
        parts = [np.ones(x, np.int32) if isinstance(x, int) else x for x in self.lengths]
        lengths = np.concatenate(parts)
        return None if (lengths == 1).all() else lengths


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list", "large_list", "fixed_size_list"))


def shares(place: str, rows: int) -> np.ndarray:
    """Return a number from 0 to 1 for each row of a file: the same on every machine.

    It is SplitMix64 of the row's number, begun with a hash of the file's name.
    """
    seed = int.from_bytes(hashlib.sha256(place.encode("utf-8", "surrogateescape")).digest()[:8])
    with np.errstate(over="ignore"):
        mixed = np.arange(rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        return (mixed ^ (mixed >> np.uint64(31))) / 2.0**64
