"""The two files of a segment: vectors, which are mapped, and a table, which is read.

Shapes: M rows, D wide, K of some.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, time
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as tensors_to_bytes

from contrastive.config.extras import require
from contrastive.data.storage import atomic_files
from contrastive.errors import DataError
from contrastive.indexes.index_file import AFRESH, Segment
from contrastive.model.saved_files import Listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

VECTORS, TABLE = ".safetensors", ".parquet"
TENSOR = "embeddings"
OWN = ("content_key", "row_key", "data", "id", "source", "sample")
"""Columns that every table has; others are those of the data."""
KEY = 16  # bytes
SCALARS = (str, bool, int, float)
INT64 = 1 << 63
MOST_BITS = 1 << 10  # of an integer that is kept, as a text where it is too large for 64


@dataclass(frozen=True)
class Row:
    """What an index says of a sample."""

    content_key: bytes
    """The SHA-256 of its content."""
    data: int
    """Of which data of the index it is."""
    id: int
    source: str
    sample: str | None
    """The text, the path or the name."""
    others: Mapping[str, Any]
    """Further columns."""
    stored_key: bytes = field(default=b"", compare=False, repr=False)
    """As a table has it, whose columns have one type each: 1 may have become 1.0."""

    @property
    def key(self) -> bytes:
        """What tells it apart from any other row, but for its id."""
        if self.stored_key:
            return self.stored_key
        plain = [self.data, self.source, self.sample, sorted(self.others.items())]
        text = json.dumps(plain).encode()
        return hashlib.blake2b(self.content_key + text, digest_size=KEY).digest()


def with_id(key: bytes, number: int) -> bytes:
    """Return the key of a row and its id."""
    return key + number.to_bytes(8, "little", signed=True)


def table_bytes(rows: Sequence[Row]) -> bytes:
    """Return the Parquet file of a segment's rows."""
    arrow, parquet = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.parquet"))
    own = {name: [getattr(row, name) for row in rows] for name in OWN if name != "row_key"}
    own["row_key"] = [row.key for row in rows]
    arrays = {name: arrow.array(own[name], kind) for name, kind in _own_kinds(arrow).items()}
    for name in dict.fromkeys(name for row in rows for name in row.others):
        arrays[name] = _column(arrow, [row.others.get(name) for row in rows])
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(arrays), buffer)
    return buffer.getvalue()


def _own_kinds(arrow: Any) -> dict[str, Any]:
    """Return the types of the columns that every table has."""
    keys = (arrow.binary(32), arrow.binary(KEY))
    return dict(
        zip(OWN, (*keys, arrow.int32(), arrow.int64(), arrow.string(), arrow.string()), strict=True)
    )


def _column(arrow: Any, values: list[Any]) -> Any:
    """Return a column of one type; values of several are texts."""
    kinds: set[type[Any]] = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        values = [value if value is None else float(value) for value in values]
    elif len(kinds) > 1 or (
        kinds == {int} and not all(-INT64 <= value < INT64 for value in values if value is not None)
    ):
        values = [value if value is None else _shown(value) for value in values]
    return arrow.array(values)


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def scalar_of(value: Any) -> str | bool | int | float | None:
    """Return a value as a table takes it; None for one that it does not take.

    A number of numpy is one, a date or a time is its text by ISO 8601.
    """
    if type(value) in SCALARS:
        plain = value
    elif isinstance(value, (date, time)):
        plain = value.isoformat()
    elif isinstance(value, np.generic):
        plain = str(cast("Any", value)) if value.dtype.kind == "M" else cast("Any", value).item()
    else:
        plain = next((kind(value) for kind in SCALARS if isinstance(value, kind)), None)
    if isinstance(plain, str):
        return utf8(plain)
    if isinstance(plain, int) and plain.bit_length() > MOST_BITS:
        return None
    return plain if isinstance(plain, SCALARS) else None


def utf8(text: str) -> str:
    """Return a text that UTF-8 has: names of files may be any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_segment(
    folder: Path, modality: str, number: int, rows: Sequence[Row], vectors: Tensor | Path
) -> Segment:
    """Write the two files of a segment; ``vectors`` may be a file that has them already."""
    about = Segment.model_construct(modality=modality, number=number, rows=len(rows), deleted=[])
    place = folder / f"{about.stem}{VECTORS}"
    if isinstance(vectors, torch.Tensor):
        listed = write_tensors(place, {TENSOR: vectors.contiguous()})
    else:
        place.unlink(missing_ok=True)
        atomic_files.link(vectors, place)
        listed = listed_file(place)
    table = _written(place.with_suffix(TABLE), table_bytes(rows))
    return about.model_copy(update={"vectors": listed, "table": table})


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Listed:
    """Write a file of tensors."""
    return _written(path, tensors_to_bytes({**tensors}))


def _written(path: Path, content: bytes) -> Listed:
    atomic_files.write(path, [content])
    return Listed(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def listed_file(path: Path) -> Listed:
    """Return the size and the checksum of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Listed(bytes=path.stat().st_size, sha256=digest)


def read_vectors(folder: Path, about: Segment, dim: int) -> Tensor:
    """Map the vectors of a segment: ``[M, D]`` fp32.

    Raises:
        DataError: they are damaged, or not those that are listed.
        FileNotFoundError: they are not there.
    """
    path = folder / f"{about.stem}{VECTORS}"
    check_size(path, about.vectors)
    try:
        vectors = load_file(path)[TENSOR]
    except (SafetensorError, KeyError) as error:
        raise _damaged(path, error) from None
    if vectors.dtype != torch.float32 or vectors.shape != (about.rows, dim):
        problem = f"{vectors.dtype} of {[*vectors.shape]}, not {about.rows} rows of {dim} floats"
        raise _damaged(path, problem)
    return vectors


def read_table(folder: Path, about: Segment) -> Any:
    """Read the table of a segment, with pyarrow.

    Raises:
        DataError: it is damaged, or not the one that is listed.
        FileNotFoundError: it is not there.
    """
    arrow, parquet = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.parquet"))
    path = folder / f"{about.stem}{TABLE}"
    check_size(path, about.table)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != about.table.sha256:
        raise _damaged(path, "another checksum than the one that is listed")
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content))
        problem = _problem(arrow, file.schema_arrow, file.metadata.num_rows, about)
        table = None if problem else file.read()
        if table is not None:
            table.validate(full=True)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if table is None:
        raise _damaged(path, problem)
    for name in OWN:
        if name != "sample" and table.column(name).null_count:
            raise _damaged(path, f"{name} is missing in some rows")
    if table.num_rows != about.rows:
        raise _damaged(path, f"{table.num_rows} rows, not {about.rows}")
    return table


def _problem(arrow: Any, schema: Any, rows: int, about: Segment) -> str:
    """Return what is wrong with a table before it is read: a few bytes can stand for many rows."""
    if rows != about.rows:
        return f"{rows} rows, not {about.rows}"
    own = _own_kinds(arrow)
    if lacking := [f"{name} of {own[name]}" for name in own if name not in schema.names]:
        return f"no column {lacking[0]}"
    written = (arrow.string(), arrow.bool_(), arrow.int64(), arrow.float64())
    counted = Counter[str](schema.names)
    for name, kind in zip(schema.names, schema.types, strict=True):
        if counted[name] > 1:
            return f"has {name} twice"
        if kind not in ((own[name],) if name in own else written):
            return f"its column {name} is of {kind!s:.80}"
    return ""


FEW = 100  # rows that are taken value by value


def rows_of_table(table: Any, numbers: Sequence[int]) -> list[Row]:
    """Return some rows of a table."""
    if len(numbers) <= FEW:
        columns = {
            name: [values[number].as_py() for number in numbers]
            for name, values in zip(table.schema.names, table.columns, strict=True)
        }
    else:
        columns = table.take([*numbers]).to_pydict()
    others = {name: values for name, values in columns.items() if name not in OWN}
    return [
        Row(
            columns["content_key"][i],
            columns["data"][i],
            columns["id"][i],
            columns["source"][i],
            columns["sample"][i],
            {name: values[i] for name, values in others.items() if values[i] is not None},
            columns["row_key"][i],
        )
        for i in range(len(columns["id"]))
    ]


def check_size(path: Path, listed: Listed) -> None:
    """Check that a file is as large as it was written.

    Raises:
        DataError: it is not.
        FileNotFoundError: it is not there.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe or a device has no end
        raise _damaged(path, "is no regular file")
    if about.st_size != listed.bytes:
        raise _damaged(path, f"{about.st_size:,} bytes, {listed.bytes:,} are listed")


def _damaged(path: Path, problem: object) -> DataError:
    text = " ".join(str(problem).split())
    return DataError(f"{path}: damaged ({text:.200}); {AFRESH}")
