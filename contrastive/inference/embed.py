"""Embed a dataset into a folder: first what there is to do, then one shard after another."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save as tensors_to_bytes

from contrastive.config.arguments import check_model, count, path_of
from contrastive.config.extras import require
from contrastive.console import bar, say, say_omission
from contrastive.data.bad_rows import BadRows, bad_rows_of
from contrastive.data.columns import ids_of, keys_in, some_values, values_of
from contrastive.data.content_hash import keys_of
from contrastive.data.images import StoredImage
from contrastive.data.samples import check_modalities, rows_of
from contrastive.data.storage.atomic_files import replace_file
from contrastive.data.storage.folders import check_writable_folder
from contrastive.errors import DataError
from contrastive.indexes.vector_form import checked_form
from contrastive.inference.embed_distinct import distinct_rows, embed_modality
from contrastive.inference.embedding_folder import (
    ABOUT,
    FORMAT,
    About,
    EmbeddingFolder,
)
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from contrastive.data.samples import Sample, Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.indexes.vector_form import Form, Quantize
    from contrastive.model.model import ContrastiveModel

SHARD_ROWS = 8192
HASHED_TOGETHER = 1 << 16  # samples whose keys are held at a time


@dataclass(frozen=True)
class Job:
    """A shard to write: all that a process needs to know of the dataset for it."""

    modality: str
    number: int
    rows: list[int]
    """Of the dataset, in which its samples stand first."""
    samples: list[dict[str, Any]]
    """Sample, id and source of each of those."""


@dataclass(frozen=True)
class Plan:
    """What there is to embed, and the folder that it goes to."""

    folder: EmbeddingFolder
    rows: Sequence[Sample]
    distinct: dict[str, np.ndarray]
    """By modality, the first row of each distinct sample."""

    def job(self, modality: str, number: int) -> Job:
        """Return the work on one of the folder's shards."""
        own_Q = self.distinct[modality][number * SHARD_ROWS : (number + 1) * SHARD_ROWS]
        rows: list[int] = own_Q.tolist()
        wanted = {modality, "id", "source"}
        samples = [{k: v for k, v in self.rows[i].items() if k in wanted} for i in rows]
        return Job(modality, number, rows, samples)


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
    workers = count("workers", workers, least=0)
    plan = plan_embedding(model, samples, folder, dim=dim, quantize=quantize)
    write_missing(plan, model, cache=cache, workers=workers, part=part)
    return plan.folder


def write_missing(
    plan: Plan,
    model: ContrastiveModel,
    *,
    cache: FeatureCache | None = None,
    workers: int = 0,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Write the shards that are missing; the arguments are those of ``embed``."""
    left = [shard for shard in plan.folder.missing() if shard[1] % part[1] == part[0]]
    with bar("embedding shards", len(left)) as advance:
        for shard in left:
            write_shard(plan.folder, model, plan.job(*shard), cache=cache, workers=workers)
            advance(1, "")


def plan_embedding(
    model: ContrastiveModel,
    samples: Samples,
    folder: str | Path,
    *,
    dim: int | None = None,
    quantize: Quantize | None = None,
) -> Plan:
    """Find out what there is to embed, say what is left out, and make or open the folder.

    The arguments are those of ``embed``.

    Raises:
        DataError: the folder holds something else, or there is nothing that the model embeds.
        MissingExtra: pyarrow is not installed.
        SpecError: ``dim`` is wider than the embeddings, or not a multiple of 8 for ``binary``.
    """
    check_model(model)
    require("pyarrow.parquet", extra="parquet")
    form = checked_form(model.spec.embed_dim, dim, quantize)
    rows, modalities = rows_to_embed(model, samples)
    distinct = {modality: distinct_rows(rows, modality).first_Q for modality in modalities}
    return plan_rows(model, rows, distinct, path_of("folder", folder), form)


def rows_to_embed(model: ContrastiveModel, samples: Samples) -> tuple[Sequence[Sample], list[str]]:
    """Return the rows of a dataset and the modalities to embed, and say what is left out.

    Raises:
        DataError: there is nothing that the model embeds.
    """
    rows = rows_of(samples, needs_ids=False)
    if not rows:
        msg = "nothing to embed: there are no rows; give another split, or other data"
        raise DataError(msg)
    for line in bad_rows_of(samples).lines:
        say_omission(line)
    known = keys_in(rows)
    modalities = [modality for modality in model.towers if modality in known]
    check_modalities(rows, modalities or [*model.towers], remedy="give other data")
    if others := [modality for modality in model.towers if modality not in known]:
        say(f"not embedded: {', '.join(others)}, of which the data have none")
    return rows, modalities


def plan_rows(
    model: ContrastiveModel,
    rows: Sequence[Sample],
    distinct: dict[str, np.ndarray],
    folder: Path,
    form: Form,
) -> Plan:
    """Make or open the folder for some rows of each modality.

    Raises:
        DataError: it holds something else.
    """
    return Plan(_folder(folder, model, rows, distinct, form), rows, distinct)


def _folder(
    path: Path,
    model: ContrastiveModel,
    rows: Sequence[Sample],
    distinct: dict[str, np.ndarray],
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
            shown = [x for x in other if x not in ("samples", "shards")]  # as other data have
            msg = f"{path}: holds embeddings of another {' and '.join(shown)}; give another folder"
            raise DataError(msg)
        return found
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        msg = f"{path}: is there already, and holds no {ABOUT}; give another folder"
        raise DataError(msg)
    check_writable_folder(path, what="embeddings")
    path.mkdir(parents=True, exist_ok=True)
    replace_file(path / ABOUT, about.model_dump_json(indent=1).encode())
    return EmbeddingFolder(path)


def _data_fingerprint(rows: Sequence[Sample], distinct: dict[str, np.ndarray]) -> str:
    """Return a hash of the contents and ids of all samples."""
    total = hashlib.sha256()
    ids_N = ids_of(rows)
    for modality, first in distinct.items():
        samples = values_of(rows, modality)
        for start in range(0, len(first), HASHED_TOGETHER):
            places = first[start : start + HASHED_TOGETHER]
            found = keys_of(some_values(samples, places), modality)
            keys = [key.tobytes() for key in found.keys_D]
            for which, problem in found.problems.items():
                keys[which] = problem.encode()
            ids = ids_N[places].tolist()
            for row, number, which in zip(
                places.tolist(), ids, found.which_N.tolist(), strict=True
            ):
                total.update(f"{modality}\0{row}\0{number}\0".encode() + keys[which])
    return total.hexdigest()


def write_shard(
    folder: EmbeddingFolder,
    model: ContrastiveModel,
    job: Job,
    *,
    cache: FeatureCache | None = None,
    workers: int = 0,
) -> None:
    """Embed the samples of a shard, say which are left out, and write its two files."""
    bad_rows = BadRows(on_report=lambda line: say(f"{line}; left out"))
    some, modality = job.samples, job.modality
    found = embed_modality(model, some, modality, bad_rows, cache=cache, workers=workers)
    columns = {
        "row": [job.rows[i] for i in found.rows],
        "id": [int(some[i]["id"]) for i in found.rows],
        "source": [str(some[i].get("source", "")) for i in found.rows],
        "sample": [sample_name(some[i][modality]) for i in found.rows],
    }
    place = folder.shard(modality, job.number)
    replace_file(place, tensors_to_bytes(folder.form.stored(found.embeddings_QD)))
    arrow, parquet = (require(name, extra="parquet") for name in ("pyarrow", "pyarrow.parquet"))
    types = zip(
        columns, (arrow.int64(), arrow.int64(), arrow.string(), arrow.string()), strict=True
    )
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns, schema=arrow.schema([*types])), buffer)
    replace_file(place.with_suffix(".parquet"), buffer.getvalue())  # last: the shard is whole


def sample_name(sample: Any) -> str | None:
    """Return a text, a path or the name of a stored image; None for what has no name."""
    return str(sample) if isinstance(sample, (str, Path, StoredImage)) else None
