"""``index.json``: what an index is made of. Whoever replaces it commits all that it lists.

::

    index.json                     of which model and data, and its segments
    image-000003.safetensors       "embeddings" [M, D] of up to 8,192 samples, as embed writes them
    image-000003.parquet           a row for each: what tells it apart, and what it says of itself
    image-000004.small.safetensors what finds candidates in segments: a structure of a backend
    .encoding/                     embeddings of a build that was interrupted, for the next
    .lock                          held by whoever writes

What is no longer listed stays until the next writer comes, for those who read it still.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field, StringConstraints, ValidationError

from contrastive.config.mistakes import in_one_line
from contrastive.data.storage.atomic_files import replace_file
from contrastive.errors import DataError, WeightsError
from contrastive.indexes.vector_form import Quantize  # noqa: TC001 - pydantic reads it
from contrastive.model.saved_files import MAX_JSON, Listed, Names, Sha256, Shape, read_json

FORMAT = 1
INDEX = "index.json"
BACKENDS = ("exact", "faiss", "faiss-ivf")
MOST = 10**9 - 1  # of what is numbered
WIDEST = 1 << 17
Name = Annotated[str, StringConstraints(pattern=r"^\w{1,64}$")]
Whole = Annotated[int, Field(ge=0, le=MOST)]
AFRESH = "build the index in another folder (contrastive index build)"


class ModelOf(Shape):
    """The model that made the vectors."""

    sha256: Sha256
    """Of its weights."""
    place: str | None = None
    """Where it was: the whole path of a folder, or a name such as ``hf:OWNER/NAME``."""
    beside: str | None = None
    """The path from the index."""


class DataOf(Shape):
    """Data whose rows the index has."""

    name: str
    """What they are called here."""
    text: str | None = None
    """As the command line was given them; None where Python built the index."""
    place: str | None = None
    """The whole path, if that is one of a file or a folder."""
    beside: str | None = None
    """The same path, from the index."""
    split: str | None = None
    paths: Names = Field(default={}, validate_default=True)
    """By field, the whole path of what the data name by a relative one."""
    paths_beside: Names = Field(default={}, validate_default=True)
    """The same paths, from the index."""

    def is_same(self, other: DataOf) -> bool:
        """Whether these are other data's, whatever they are called: photos and ./photos/ are."""
        if self.place and other.place:
            return (self.place, self.split) == (other.place, other.split)
        return self.name == other.name

    def is_gone(self, index: Path) -> bool:
        """Whether they are no longer where they were, nor where they were beside the index."""
        beside = self.beside is not None and (index / self.beside).exists()
        return self.place is not None and not beside and not Path(self.place).exists()


class Segment(Shape):
    """Some vectors of a modality, and the table of their rows."""

    modality: Name
    number: Whole
    rows: Annotated[int, Field(ge=1, le=MOST)]
    vectors: Listed
    table: Listed
    deleted: list[Whole]
    """Numbers of rows that are no longer of the index, ascending."""

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return f"{self.modality}-{self.number:06}"

    @property
    def live(self) -> int:
        """How many rows it has that are not deleted."""
        return self.rows - len(self.deleted)


class Small(Shape):
    """Small copies of the vectors, which find candidates."""

    dim: Annotated[int, Field(ge=1, le=WIDEST)]
    quantize: Quantize | None


class Structure(Shape):
    """What finds candidates in some segments; made of their vectors, and made again at will."""

    modality: Name
    number: Whole
    kind: Name
    covers: Annotated[list[Whole], Field(min_length=1)]
    """The numbers of the segments."""
    file: Listed

    @property
    def file_name(self) -> str:
        """The name of its file."""
        return f"{self.modality}-{self.number:06}.{self.kind}.safetensors"


class Recall(Shape):
    """What a search of a modality finds, as it was measured when its structures were made."""

    share: Annotated[float, Field(ge=0, le=1)]
    """Of the ten nearest rows."""
    queries: Annotated[int, Field(ge=1, le=MOST)]
    of: Name
    """The modality of the queries."""
    effort: Annotated[int, Field(ge=1, le=MOST)]
    """What the structures are searched with."""


class About(Shape):
    """All of ``index.json``."""

    format: int = FORMAT
    model: ModelOf
    dim: Annotated[int, Field(ge=1, le=WIDEST)]
    backend: str = "exact"
    small: Small | None = None
    data: list[DataOf]
    next: Whole = 0
    """The number of the next segment or structure."""
    segments: list[Segment]
    structures: list[Structure] = Field(default_factory=list[Structure])
    recall: dict[Name, Recall] = Field(default_factory=dict[str, Recall])


def read(folder: Path) -> About:
    """Read the file of an index.

    Raises:
        DataError: there is none, it is damaged, or a newer release wrote it.
    """
    path = folder / INDEX
    try:
        data = read_json(path)
        if _format(data) > FORMAT:
            msg = f"{folder}: a newer release wrote it; update contrastive-kit"
            raise DataError(msg)
        about = About.model_validate(data)
    except (FileNotFoundError, NotADirectoryError):
        msg = f"{folder}: holds no {INDEX}; give a folder that contrastive index build wrote"
        raise DataError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror}"
        raise DataError(msg) from None
    except ValidationError as error:
        problem = in_one_line(error.errors(include_url=False)[0])
        msg = f"{path}: cannot be read: {problem}; {AFRESH}"
        raise DataError(msg) from None
    except WeightsError as error:
        msg = f"{str(error).removesuffix('; copy it again')}; {AFRESH}"
        raise DataError(msg) from None
    if problem := _problem(about):
        msg = f"{path}: {problem}; {AFRESH}"
        raise DataError(msg)
    return about


def _format(data: Any) -> int:
    found = cast("dict[str, Any]", data).get("format") if isinstance(data, dict) else None
    return found if type(found) is int else FORMAT


def _problem(about: About) -> str:
    """Return what does not fit together, if anything."""
    if about.backend not in BACKENDS:
        return (
            f"its backend {about.backend!r} is none that this release has ({', '.join(BACKENDS)})"
        )
    names = Counter(segment.stem for segment in about.segments)
    for segment in about.segments:
        if names[segment.stem] > 1:
            return f"lists {segment.stem} several times"
        if segment.number >= about.next:
            return f"{segment.stem} has a number that is not below {about.next}, the next one"
        deleted = segment.deleted
        if deleted != sorted({*deleted}) or (deleted and deleted[-1] >= segment.rows):
            return f"{segment.stem}: its deleted rows are no ascending numbers below {segment.rows}"
    return _problem_of_structures(about)


def _problem_of_structures(about: About) -> str:
    if about.segments and not about.data:
        return "has rows, but names no data"
    if about.small and about.small.dim > about.dim:
        return f"its small vectors have {about.small.dim} numbers, the others {about.dim}"
    there = {(segment.modality, segment.number) for segment in about.segments}
    numbers = [segment.number for segment in about.segments]
    covered: set[tuple[str, int]] = set()
    for structure in about.structures:
        numbers.append(structure.number)
        covers = {(structure.modality, number) for number in structure.covers}
        if len(covers) < len(structure.covers) or covers - there or covers & covered:
            return f"{structure.file_name} covers segments that are not there, or some twice"
        if structure.number >= about.next or structure.number in numbers[:-1]:
            return f"{structure.file_name} has a number that others have"
        covered |= covers
    return ""


def write(folder: Path, about: About) -> None:
    """Commit a new state.

    Raises:
        DataError: it is one that would not be read again.
    """
    content = about.model_dump_json(indent=1).encode()
    if len(content) > MAX_JSON:
        msg = (
            f"{folder / INDEX}: would have {len(content):,} bytes, and {MAX_JSON:,} are read: this "
            "is the most that an index can hold; build another one of a part of the data"
        )
        raise DataError(msg)
    replace_file(folder / INDEX, content)
