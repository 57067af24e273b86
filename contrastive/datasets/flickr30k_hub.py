"""Flickr30k as the Hugging Face hub has it: Parquet with the images inside.

The hub's own split holds all images under the name ``test``; who is in train, val and test is said
by the column ``split``, and that is what counts here.

The repository's loading script is not run. What is read are the Parquet files into which the hub
converts it, downloaded by their revision and opened by ``datasets``, which keeps them as Arrow on
disk: a row is read when its image is needed, and nothing is decoded.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from contrastive.config.extras import require
from contrastive.console import console
from contrastive.data.folders import files_below
from contrastive.data.images import StoredImage
from contrastive.datasets.caption_table import CaptionTable
from contrastive.datasets.flickr30k_forms import captions_of
from contrastive.datasets.quoting import name_list
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from contrastive.data.columns import Columns
    from contrastive.datasets import Flickr30k, Purpose, SplitReader
    from contrastive.datasets.caption_rows import Row
    from contrastive.datasets.caption_table import Captions

HUB_COLUMNS = ("image", "caption", "split", "filename")


def reader(config: Flickr30k) -> SplitReader:
    """Return what reads splits; the Parquet files are opened when the first is asked for.

    Raises:
        DataError: see ``Flickr30k.build``.
        MissingExtra: ``datasets`` is not installed.
    """

    @cache
    def captions() -> Captions:
        require("datasets", extra="datasets")  # before anything is downloaded for it
        table = _open_table(config.repo, _find_files(config.repo, config.revision))
        rows = _rows(table, PurePath(config.repo).name or config.repo)
        return CaptionTable.of(rows, table).built()

    def split_named(split: str, /, *, purpose: Purpose = "evaluation") -> Columns:
        return captions().split(
            split,
            origin=config.repo,
            captions_per_image=config.captions_per_image if purpose == "training" else None,
            max_bad=config.max_bad,
        )

    return split_named


@dataclass(frozen=True)
class Cell(StoredImage):
    """The image of one row."""

    images: Any = field(repr=False)
    """A table with the undecoded column ``image``."""
    row: int
    name: str

    def read(self) -> bytes:
        """Return the encoded image."""
        return self.images[self.row]["image"]["bytes"]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class _Table:
    """What a table says of its images, and the images by their name."""

    place: str
    names: list[object]
    splits: list[object]
    captions: list[object]
    cells: dict[str, Cell]
    """Of the rows that hold an image; the first, if a name stands twice."""

    def __contains__(self, name: str) -> bool:
        return name in self.cells

    def __getitem__(self, name: str) -> Cell:
        return self.cells[name]

    def __str__(self) -> str:
        return self.place


def _open_table(repo: str, files: list[str]) -> _Table:
    """Read all but the images.

    Raises:
        DataError: a column is missing, or the files cannot be read.
    """
    library = require("datasets", extra="datasets")
    compute = require("pyarrow.compute", extra="datasets")
    with _quietly(library), _in_one_line(repo):
        table = library.Dataset.from_parquet(files, keep_in_memory=False)
        if missing := [name for name in HUB_COLUMNS if name not in table.column_names]:
            there = name_list(table.column_names)
            msg = f"{repo}: no column {name_list(missing)}; there are: {there}"
            raise DataError(msg)
        table = table.cast_column("image", library.Image(decode=False))
        stored = compute.struct_field(table.data.column("image"), "bytes")
        sizes = compute.binary_length(stored).to_pylist()  # without reading the images
        captions, splits, names = (table.data.column(name).to_pylist() for name in HUB_COLUMNS[1:])
    images = table.select_columns(["image"])
    cells: dict[str, Cell] = {}
    for row, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if isinstance(name, str) and size:
            cells.setdefault(name, Cell(images, row, name))
    return _Table(repo, names, splits, captions, cells)


def _rows(table: _Table, name: str) -> Iterator[Row]:
    """Yield the captions of each image; rows count from 0, as on the hub's pages."""
    seen: set[str] = set()
    columns = zip(table.names, table.splits, table.captions, strict=True)
    for row, (image, split, captions) in enumerate(columns):
        several = cast("list[object]", captions) if isinstance(captions, list) else []
        yield from captions_of(f"{name}: row {row}", image, split, several, seen)


def _find_files(repo: str, revision: str) -> list[str]:
    """Return the Parquet files of a folder or a repository, in the order of their names.

    Raises:
        DataError: there are none, or the hub cannot be asked; says how to supply them.
    """
    folder = Path(repo).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or repo.startswith((".", "~")) or repo.count("/") > 1:
            msg = f"{repo}: no such folder"
            raise DataError(msg)
        folder = _download(repo, revision)
    return [str(path) for path in files_below(folder, (".parquet",), what="Parquet files")]


def _download(repo: str, revision: str) -> Path:
    """Return the folder in the Hugging Face cache; ``HF_HOME`` and ``HF_HUB_OFFLINE`` count."""
    hub = require("huggingface_hub", extra="datasets")
    try:
        found = hub.snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns="*.parquet"
        )
    except (OSError, ValueError) as error:
        msg = (
            f"{repo}: its Parquet files at {revision} are neither in the Hugging Face cache nor to "
            f"be had from the hub ({_first_sentence(error)}); run `hf download {repo} --repo-type "
            f"dataset --revision {revision} --include '*.parquet'` on a connected machine and set "
            "HF_HOME to its cache, or give their folder as repo"
        )
        raise DataError(msg) from error
    return Path(found)


@contextmanager
def _in_one_line(repo: str) -> Generator[None]:
    """Say in one line what the libraries say of files that they cannot read.

    Raises:
        DataError: chained to its cause.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged files make them raise many kinds of error
        cause = error.__cause__ or error  # "An error occurred while generating the dataset"
        msg = f"{repo}: cannot be opened as Parquet: {_first_sentence(cause)}"
        raise DataError(msg) from error


def _first_sentence(error: BaseException) -> str:
    line = str(error).strip().partition("\n")[0]
    return line.partition(". ")[0].strip(".: ")[:200] or type(error).__name__


@contextmanager
def _quietly(library: Any) -> Generator[None]:
    """Leave the library's bars to terminals, and what it logs to the errors that it raises."""
    log = library.utils.logging
    verbosity, hidden = log.get_verbosity(), library.are_progress_bars_disabled()
    log.set_verbosity(log.CRITICAL)
    if not console().is_terminal:
        library.disable_progress_bars()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if not hidden:
            library.enable_progress_bars()
