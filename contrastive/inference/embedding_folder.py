"""A folder with the embeddings of a dataset, for any tool.

::

    embeddings.json                      of which model and data, and in which form
    image-00000-of-00002.safetensors     the first 8,192 images that are distinct in their group
    image-00000-of-00002.parquet         a row for each: row of the dataset, id, source, sample

A shard is written whole or not at all, so that an interrupted run goes on where it was.

Shapes: Q samples of a shard, D wide.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pydantic import Field, StringConstraints, ValidationError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.config.arguments import check_model, count, path_of
from contrastive.config.extras import require
from contrastive.config.mistakes import in_one_line
from contrastive.console import bar, say, say_omission
from contrastive.data.atomic_files import replace_file
from contrastive.data.bad_rows import BadRows, bad_rows_of
from contrastive.data.content_hash import sample_key
from contrastive.data.folders import check_writable_folder
from contrastive.data.images import StoredImage
from contrastive.data.samples import check_modalities, rows_of
from contrastive.errors import BadSample, DataError, SpecError
from contrastive.inference.embed_dataset import distinct_rows, embed_modality
from contrastive.model.saved_files import Shape, read_json
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Sample, Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel

FORMAT = 1
ABOUT = "embeddings.json"
SHARD_ROWS = 8192
INT8_MOST = 127
BITS = 8
MOST_SHARDS = 100_000
Quantize = Literal["int8", "binary"]
Name = Annotated[str, StringConstraints(pattern=r"^\w+$")]


@dataclass(frozen=True)
class Form:
    """How embeddings are stored."""

    dim: int | None = None
    """Only the first numbers of each, normalised again; all if None."""
    quantize: Quantize | None = None
    """``int8``, with a scale for each row, or ``binary``: the signs, eight in a byte."""

    def stored(self, embeddings_QD: Tensor) -> dict[str, Tensor]:
        """Return the tensors of a shard."""
        cut_QD = normalize(embeddings_QD[:, : self.dim], dim=1)
        if self.quantize == "int8":
            scale_Q = cut_QD.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / INT8_MOST
            return {
                "embeddings": (cut_QD / scale_Q[:, None]).round().to(torch.int8),
                "scale": scale_Q,
            }
        if self.quantize == "binary":
            powers = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)
            bits = (cut_QD > 0).view(len(cut_QD), -1, BITS).to(torch.uint8)
            return {"embeddings": (bits * powers).sum(2, dtype=torch.uint8)}
        return {"embeddings": cut_QD}

    def restored(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return the embeddings ``[Q, D]`` that a shard stands for, fp32, L2-normalised."""
        stored = tensors["embeddings"]
        if self.quantize == "int8":
            return normalize(stored.float() * tensors["scale"][:, None], dim=1)
        if self.quantize == "binary":
            shifts = torch.arange(BITS - 1, -1, -1)
            bits = (stored.long()[:, :, None] >> shifts) & 1
            return normalize(bits.flatten(1).float() * 2 - 1, dim=1)
        return stored


class About(Shape):
    """``embeddings.json``."""

    format: int
    model: str
    """The SHA-256 of its weights."""
    data: str
    """The SHA-256 of the contents and ids of all samples."""
    dim: int
    quantize: Quantize | None
    samples: dict[Name, int]
    """How many are distinct in their group, by modality; those that cannot be read among them."""
    shards: dict[Name, Annotated[int, Field(ge=0, le=MOST_SHARDS)]]


class EmbeddingFolder:
    """Embeddings of the distinct samples of a dataset, by modality.

    Example:
        >>> folder = embed(model, rows, "embedded")
        >>> folder.embeddings("image").shape, folder.table("image")["id"]
        (torch.Size([2, 8]), [0, 1])
    """

    def __init__(self, path: str | Path) -> None:
        """Open a folder that ``embed`` wrote.

        Raises:
            DataError: there is none, or a newer release wrote it.
        """
        self.path = Path(path)
        try:
            data = read_json(self.path / ABOUT)
        except (FileNotFoundError, NotADirectoryError):
            msg = f"{path}: holds no {ABOUT}; give a folder that contrastive embed wrote"
            raise DataError(msg) from None
        if isinstance(data, dict) and cast("dict[str, Any]", data).get("format", FORMAT) != FORMAT:
            msg = f"{path}: a newer release wrote it; update contrastive-kit"
            raise DataError(msg)
        try:
            self.about = About.model_validate(data)
        except ValidationError as error:
            problem = in_one_line(error.errors(include_url=False)[0])
            msg = f"{self.path / ABOUT}: cannot be read: {problem}; embed into another folder"
            raise DataError(msg) from None

    @cached_property
    def form(self) -> Form:
        """How the embeddings are stored."""
        return Form(self.about.dim, self.about.quantize)

    @property
    def modalities(self) -> list[str]:
        """The modalities that are embedded."""
        return [*self.about.shards]

    def missing(self) -> list[tuple[str, int]]:
        """Return the shards that are not written yet: modality and number."""
        return [
            (modality, number)
            for modality, shards in self.about.shards.items()
            for number in range(shards)
            if not self.shard(modality, number).with_suffix(".parquet").exists()
        ]

    def shard(self, modality: str, number: int) -> Path:
        """Return the place of a shard's tensors; its table ends in ``.parquet``."""
        many = self.about.shards[modality]
        return self.path / f"{modality}-{number:05}-of-{many:05}.safetensors"

    def rows(self, modality: str) -> int:
        """Return how many embeddings of a modality there are."""
        parquet = require("pyarrow.parquet", extra="parquet")
        tables = (path.with_suffix(".parquet") for path in self._shards(modality))
        return sum(parquet.ParquetFile(table).metadata.num_rows for table in tables)

    def embeddings(self, modality: str) -> Tensor:
        """Return all embeddings ``[Q, D]`` of a modality, fp32, L2-normalised."""
        return torch.cat([self.form.restored(load_file(path)) for path in self._shards(modality)])

    def table(self, modality: str) -> dict[str, list[Any]]:
        """Return the columns of all samples of a modality: row, id, source and sample."""
        parquet = require("pyarrow.parquet", extra="parquet")
        columns: dict[str, list[Any]] = {}
        for path in self._shards(modality):
            # a file, not a dataset, whose schema the folder's name could change
            table = parquet.ParquetFile(path.with_suffix(".parquet")).read()
            for name, values in table.to_pydict().items():
                columns.setdefault(name, []).extend(values)
        return columns

    def _shards(self, modality: str) -> list[Path]:
        if left := self.missing():
            msg = (
                f"{self.path}: {len(left)} shards are not written yet; run contrastive embed again"
            )
            raise DataError(msg)
        if modality not in self.about.shards:
            there = ", ".join(self.modalities)
            msg = f"{self.path}: has no embeddings of {modality!r}; take {there}"
            raise DataError(msg)
        return [self.shard(modality, n) for n in range(self.about.shards[modality])]

    def __repr__(self) -> str:
        return f"EmbeddingFolder({str(self.path)!r}: {', '.join(self.modalities)})"


def embed(
    model: ContrastiveModel,
    samples: Samples,
    folder: str | Path,
    *,
    dim: int | None = None,
    quantize: Quantize | None = None,
    cache: FeatureCache | None = None,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> EmbeddingFolder:
    """Write the embeddings of a dataset's distinct samples, or what is missing of them.

    Each sample of a group is embedded once: an image with five captions is one image. Samples that
    cannot be read are told and left out.

    Args:
        model: the model.
        samples: a built dataset.
        folder: is made; or holds what an interrupted call has written of the same.
        dim: store only the first numbers of each embedding, for a model trained with
            ``matryoshka``; normalised again.
        quantize: ``int8``, a quarter of the size, or ``binary``, a 32nd.
        cache: keeps the features of frozen encoders.
        workers: processes that decode samples.
        part: which shards this process writes: ``(i, n)`` those with a number of i modulo n.

    Raises:
        DataError: the folder holds something else, or there is nothing that the model embeds.
        MissingExtra: pyarrow is not installed.
        SpecError: ``dim`` is wider than the embeddings, or not a multiple of 8 for ``binary``.

    Example:
        >>> embed(model, rows, "embedded").modalities
        ['image', 'text']
    """
    check_model(model)
    require("pyarrow.parquet", extra="parquet")
    workers = count("workers", workers, least=0)
    form = Form(_checked_dim(model, dim, quantize), quantize)
    rows = rows_of(samples, needs_ids=False)
    if not rows:
        msg = "nothing to embed: there are no rows; give another split, or other data"
        raise DataError(msg)
    for line in bad_rows_of(samples).lines:
        say_omission(line)
    known = {name for row in rows for name in row}
    modalities = [modality for modality in model.towers if modality in known]
    check_modalities(rows, modalities or [*model.towers], remedy="give other data")
    if others := [modality for modality in model.towers if modality not in known]:
        say(f"not embedded: {', '.join(others)}, of which the data have none")
    distinct = {
        modality: [first for first, *_ in distinct_rows(rows, modality)] for modality in modalities
    }
    written = _folder(path_of("folder", folder), model, rows, distinct, form)
    left = [shard for shard in written.missing() if shard[1] % part[1] == part[0]]
    with bar("embedding shards", len(left)) as advance:
        for modality, number in left:
            first = distinct[modality][number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
            _write_shard(written, model, rows, first, modality, number, cache, workers)
            advance(1, "")
    return written


def _checked_dim(model: ContrastiveModel, dim: int | None, quantize: Quantize | None) -> int:
    width = model.spec.embed_dim
    dim = width if dim is None else count("dim", dim)
    if dim > width:
        msg = f"dim: {dim} is more than the {width} numbers of an embedding; lower it"
        raise SpecError(msg)
    if quantize == "binary" and dim % BITS:
        msg = f"quantize: binary stores eight signs in a byte; give dim={dim - dim % BITS or BITS}"
        raise SpecError(msg)
    return dim


def _folder(
    path: Path,
    model: ContrastiveModel,
    rows: Sequence[Sample],
    distinct: dict[str, list[int]],
    form: Form,
) -> EmbeddingFolder:
    """Make the folder, or open one that was begun with the same model, data and form."""
    samples = {modality: len(first) for modality, first in distinct.items()}
    about = About(
        format=FORMAT,
        model=weights_fingerprint(model),
        data=_data_fingerprint(rows, distinct),
        dim=form.dim or model.spec.embed_dim,
        quantize=form.quantize,
        samples=samples,
        shards={modality: -(-count // SHARD_ROWS) for modality, count in samples.items()},
    )
    if (path / ABOUT).exists():
        found = EmbeddingFolder(path)
        other = [name for name, value in about if getattr(found.about, name) != value]
        if other:
            msg = f"{path}: holds embeddings with another {', '.join(other)}; give another folder"
            raise DataError(msg)
        return found
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path}: is there already, and holds no {ABOUT}; give another folder"
        raise DataError(msg)
    check_writable_folder(path, what="embeddings")
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / ABOUT, about.model_dump_json(indent=1).encode())
    return EmbeddingFolder(path)


def _data_fingerprint(rows: Sequence[Sample], distinct: dict[str, list[int]]) -> str:
    """Return a hash of the contents and ids of all samples."""
    total = hashlib.sha256()
    for modality, first in distinct.items():
        for row in first:
            try:
                key = sample_key(rows[row][modality], modality)
            except BadSample as problem:
                key = str(problem).encode()
            total.update(f"{modality}\0{row}\0{rows[row]['id']}\0".encode() + key)
    return total.hexdigest()


def _write_shard(
    folder: EmbeddingFolder,
    model: ContrastiveModel,
    rows: Sequence[Sample],
    first: list[int],
    modality: str,
    number: int,
    cache: FeatureCache | None,
    workers: int,
) -> None:
    some = [rows[i] for i in first]
    bad_rows = BadRows(on_report=lambda line: say(f"{line}; left out"))
    found = embed_modality(model, some, modality, bad_rows, cache=cache, workers=workers)
    columns = {
        "row": [first[i] for i in found.rows],
        "id": [int(some[i]["id"]) for i in found.rows],
        "source": [str(some[i].get("source", "")) for i in found.rows],
        "sample": [_name(some[i][modality]) for i in found.rows],
    }
    place = folder.shard(modality, number)
    replace_file(place, tensors_to_bytes(folder.form.stored(found.embeddings_QD)))
    arrow, parquet = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.parquet"))
    types = zip(
        columns, (arrow.int64(), arrow.int64(), arrow.string(), arrow.string()), strict=True
    )
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns, schema=arrow.schema([*types])), buffer)
    replace_file(place.with_suffix(".parquet"), buffer.getvalue())  # last: the shard is whole


def _name(sample: Any) -> str | None:
    """Return a text, a path or the name of a stored image; None for what has no name."""
    return str(sample) if isinstance(sample, (str, Path, StoredImage)) else None
