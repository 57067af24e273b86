"""Frames of pandas, polars and pyarrow, and datasets of the Hugging Face hub, as rows in columns.

Their columns have the names of a row's keys: ``image``, ``text`` and so on for the samples of a
modality; ``id``, ``label`` and ``source``. None of these libraries is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from contrastive.data.column_kinds import (
    Column,
    Objects,
    PlacesInFiles,
    StoredImages,
    Strings,
)
from contrastive.data.columns import Columns, Values
from contrastive.data.content_index import PartsOfFile
from contrastive.data.images import StoredImage
from contrastive.errors import BadSample, DataError, a_type, is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RENAME = {
    "pandas": "frame.rename(columns={{{0!r}: {1!r}}})",
    "polars": "frame.rename({{{0!r}: {1!r}}})",
    "pyarrow": "table.rename_columns({{{0!r}: {1!r}}})",
    "datasets": "dataset.rename_column({0!r}, {1!r})",
}
"""How each library renames a column."""
EXPLODE = {
    "pandas": 'frame.explode("text", ignore_index=True)',
    "polars": 'frame.explode("text")',
    "pyarrow": 'pyarrow.Table.from_pandas(table.to_pandas().explode("text"), preserve_index=False)',
    "datasets": 'datasets.Dataset.from_pandas(dataset.to_pandas().explode("text"), preserve_index='
    "False)",
}
"""How each library makes a row of each of several captions."""
FRAMES = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "Table", "datasets": "Dataset"}
MEANT = {
    "image": ("img", "jpg", "png", "file_name", "filename", "filepath", "image_path", "path"),
    "text": ("caption", "captions", "title", "sentence"),
}
"""Usual names of columns that are not those of a row's keys."""


def library_of(given: Any) -> str:
    """Return the library of which something is a frame; "" for anything else.

    Example:
        >>> library_of([{"text": "a dog"}])
        ''
    """
    for kind in type(given).__mro__:
        library = kind.__module__.partition(".")[0]
        if FRAMES.get(library) == kind.__name__:
            return library
    return ""


def column_names(frame: Any) -> list[str]:
    """Return the names of a frame's columns."""
    names: Any = frame.column_names if hasattr(frame, "column_names") else frame.columns
    return [str(name) for name in names]


def frame_column(frame: Any, name: str) -> Sequence[Any]:
    """Return the values of a frame's column; images of the hub's datasets are read when needed."""
    library = library_of(frame)
    if library == "datasets":
        kind = getattr(frame.features.get(name), "_type", type(frame.features.get(name)).__name__)
        if kind == "Image":
            column = HubImages.of(frame, name)
            return Values(column, np.arange(len(column)))
        values: list[Any] = frame.with_format(None)[name][:]
        if kind == "ClassLabel":
            names = cast("list[str]", frame.features[name].names)
            return [names[i] if i is not None and i >= 0 else None for i in values]
        return values
    column: Any = frame.column(name) if library == "pyarrow" else frame[name]
    return cast("list[Any]", getattr(column, TO_LIST[library])())


TO_LIST = {"pandas": "tolist", "polars": "to_list", "pyarrow": "to_pylist"}


def frame_rows(frame: Any) -> Columns:
    """Return the rows of a frame, whose columns have the names of a row's keys; ids as they are.

    Raises:
        DataError: a column has the name that it has elsewhere; says how to rename it.
    """
    names, library = column_names(frame), library_of(frame)
    for key, others in MEANT.items():
        if key in names or not (found := [name for name in others if name in names]):
            continue
        rename = RENAME[library].format(found[0], key)
        msg = f"{a_type(frame)} has no column {key!r}; rename {found[0]!r}: {rename}"
        raise DataError(msg)
    rows = len(frame)
    columns: dict[str, Column] = {}
    for name in names:
        values = frame_column(frame, name)
        if isinstance(values, Values):
            columns[name] = values.column
        elif name != "id" and all(type(value) is str for value in values):
            columns[name] = Strings.of(values)
        elif name == "label":
            columns[name] = Objects([None if is_missing(x) else str(x) for x in values])
        else:
            if name == "text" and any(isinstance(x, (list, tuple, np.ndarray)) for x in values):
                msg = f"{a_type(frame)} has lists in its column 'text'; give each caption a row, "
                msg += f"after ids are there: {EXPLODE[library]}"
                raise DataError(msg)
            columns[name] = Objects(values)
    if "source" not in columns:
        columns["source"] = PlacesInFiles(Strings.of(["row "]), np.array([0, rows], np.int64))
    return Columns(columns, np.arange(rows, dtype=np.int32))


@dataclass(frozen=True)
class HubImage(StoredImage):
    """The image in one row of a dataset of the hub."""

    dataset: Any = field(repr=False, compare=False)
    """With the undecoded column alone."""
    fingerprint: str
    """The library's own, which is another where the content is."""
    column: str
    row: int

    def read(self) -> bytes:
        """Return the encoded image.

        Raises:
            BadSample: there is none.
        """
        cell: Any = self.dataset[self.row][self.column]
        if cell and cell.get("bytes"):
            return cell["bytes"]
        if cell and cell.get("path"):
            with open(cell["path"], "rb") as file:  # noqa: PTH123
                return file.read()
        msg = f"{self}: {self.column!r} holds no image"
        raise BadSample(msg)

    @property
    def file_part(self) -> PartsOfFile:
        """Which row it is."""
        return _part(self.fingerprint, self.column, np.array([self.row]))

    def __str__(self) -> str:
        return f"row {self.row}"


@dataclass(eq=False)
class HubImages(StoredImages):
    """The images of a dataset of the hub."""

    dataset: Any
    fingerprint: str
    column: str

    @classmethod
    def of(cls, dataset: Any, column: str) -> HubImages:
        """Return the images of a column."""
        alone = dataset.select_columns([column]).with_format(None)
        encoded = alone.cast_column(column, type(dataset.features[column])(decode=False))
        return cls(encoded, str(dataset._fingerprint), column)

    def __len__(self) -> int:
        return len(self.dataset)

    def at(self, rows_N: np.ndarray) -> list[StoredImage]:
        """Return some images."""
        held = self.dataset, self.fingerprint, self.column
        return [HubImage(*held, row) for row in rows_N.tolist()]

    def parts(self, rows_N: np.ndarray) -> Iterator[tuple[np.ndarray, PartsOfFile]]:
        """Yield the rows that they are in."""
        part = _part(self.fingerprint, self.column, rows_N.astype(np.int64))
        yield np.arange(len(rows_N)), part


def _part(fingerprint: str, column: str, rows: np.ndarray) -> PartsOfFile:
    return PartsOfFile(f"datasets://{fingerprint}", f"rows of {column}", rows, fingerprint)
