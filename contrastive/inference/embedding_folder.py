"""A folder with the embeddings of a dataset, for any tool.

::

    embeddings.json                      of which model and data, and in which form
    image-00000-of-00002.safetensors     the first 8,192 images that are distinct in their group
    image-00000-of-00002.parquet         a row for each: row of the dataset, id, source, sample

A shard is written whole or not at all, so that an interrupted run goes on where it was.

Shapes: Q samples of a shard, D wide.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field, StringConstraints, ValidationError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from contrastive.config.extras import require
from contrastive.config.mistakes import in_one_line
from contrastive.errors import DataError
from contrastive.indexes.vector_form import Form, Quantize
from contrastive.model.saved_files import Shape, read_json

FORMAT = 1
ABOUT = "embeddings.json"
MOST_SHARDS = 100_000
Name = Annotated[str, StringConstraints(pattern=r"^\w+$")]


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
