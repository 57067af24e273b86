"""What an index lacks is embedded beside it, so that no embedding is lost where that is ended.

``.encoding/0`` and its like are folders of ``embed`` with the content keys of what they were made
for. A later build takes from all of them what it needs, and plans the rest in a new one.

Shapes: Q samples of a modality, D wide.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from safetensors.torch import save as tensors_to_bytes

from contrastive.config.extras import require
from contrastive.console import say
from contrastive.data.storage.atomic_files import replace_file
from contrastive.errors import DataError
from contrastive.indexes.segments import TENSOR
from contrastive.indexes.vector_form import Form
from contrastive.inference.embed import Plan, plan_rows
from contrastive.inference.embedding_folder import EmbeddingFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from contrastive.data.samples import Sample
    from contrastive.model.model import ContrastiveModel

    Encode = Callable[[Plan], None]
    """Writes the shards of a plan that are missing."""

KEYS = "{}.keys.safetensors"
WIDTH = 32  # bytes of a content key


@dataclass(frozen=True)
class Shard:
    """Embeddings that were written, and of which contents they are."""

    modality: str
    path: Path
    keys: list[bytes]
    """Of each row; one that nobody knows is empty."""

    def vectors(self) -> torch.Tensor:
        """Return the embeddings ``[Q, D]``."""
        return load_file(self.path)[TENSOR]


def encode_keys(
    model: ContrastiveModel,
    rows: Sequence[Sample],
    wanted: dict[str, dict[bytes, int]],
    place: Path,
    *,
    dim: int,
    sha256: str,
    encode: Encode,
) -> tuple[list[Shard], int]:
    """Return shards that have the wanted contents, as far as they can be read.

    Args:
        model: the model.
        rows: of the dataset.
        wanted: by modality and content key, a row that has such a sample.
        place: where the shards are; has those of builds that were interrupted.
        dim: how wide they are.
        sha256: the fingerprint of the model.
        encode: writes what is missing.

    Returns:
        The shards, and how many samples were embedded.
    """
    folders = sorted(_numbers(place))
    shards: list[Shard] = []
    for number in folders:
        shards += _shards(place / str(number), sha256, dim)
    known = {(shard.modality, key) for shard in shards for key in shard.keys}
    left = {
        modality: {key: row for key, row in several.items() if (modality, key) not in known}
        for modality, several in wanted.items()
    }
    left = {modality: several for modality, several in left.items() if several}
    if not left:
        return shards, 0
    new = place / str(max(folders, default=-1) + 1)
    distinct = {modality: np.array([*several.values()]) for modality, several in left.items()}
    new.mkdir(parents=True)
    plan = plan_rows(model, rows, distinct, new, Form(dim))
    for modality, several in left.items():
        tensors = {
            "rows": torch.tensor([*several.values()], dtype=torch.int64),
            "keys": torch.frombuffer(bytearray(b"".join(several)), dtype=torch.uint8),
        }
        replace_file(new / KEYS.format(modality), tensors_to_bytes(tensors))
    encode(plan)
    made = _shards(new, sha256, dim)
    keys = {(shard.modality, key) for shard in made for key in shard.keys}
    embedded = sum((modality, key) in keys for modality in left for key in left[modality])
    return [*shards, *made], embedded


def drop_encoded(place: Path) -> None:
    """Delete the embeddings of builds that are done."""
    shutil.rmtree(place, ignore_errors=True)


def _numbers(place: Path) -> list[int]:
    if not place.is_dir():
        return []
    return [int(path.name) for path in place.iterdir() if path.name.isdecimal()]


def _shards(folder: Path, sha256: str, dim: int) -> list[Shard]:
    """Return what was written into a folder; nothing, if it is of another model or damaged."""
    arrow, parquet = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.parquet"))
    found: list[Shard] = []
    try:
        written = EmbeddingFolder(folder)
        if (written.about.model, written.about.dim, written.about.quantize) != (sha256, dim, None):
            return []
        missing = {*written.missing()}
        for modality, shards in written.about.shards.items():
            if not (folder / KEYS.format(modality)).exists():
                continue  # it was ended before anything was embedded
            keys = _keys(load_file(folder / KEYS.format(modality)))
            for number in range(shards):
                if (modality, number) in missing:
                    continue
                path = written.shard(modality, number)
                table = parquet.ParquetFile(path.with_suffix(".parquet")).read()
                rows: list[Any] = table.column("row").to_pylist()
                vectors = load_file(path)[TENSOR]
                if vectors.dtype != torch.float32 or vectors.shape != (len(rows), dim):
                    say(f"{path}: has other embeddings; they are made again")
                    continue
                found.append(Shard(modality, path, [keys.get(row, b"") for row in rows]))
    except (arrow.ArrowException, SafetensorError, OSError, KeyError, ValueError) as error:
        said = "" if isinstance(error, DataError) else f"{folder}: "
        say(f"{said}{' '.join(str(error).split())}; what it had is embedded again")
    return found


def _keys(tensors: dict[str, torch.Tensor]) -> dict[int, bytes]:
    rows = cast("list[int]", tensors["rows"].tolist())
    packed = tensors["keys"].numpy().tobytes()
    if len(packed) != WIDTH * len(rows):
        msg = "the keys are not those of the rows"
        raise ValueError(msg)
    return {row: packed[WIDTH * i : WIDTH * (i + 1)] for i, row in enumerate(rows)}
