"""Files of a saved folder that several ranks wrote, each its shards, by torch's DCP.

They are safetensors, ``shard-00001-model-00001-of-00001.safetensors`` of the first rank, with the
place of each shard in their header. DCP's own metadata is a pickle, which is neither written nor
read.
"""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from contrastive.distributed.collectives import lost_rank_told
from contrastive.distributed.shared_work import FailedRank
from contrastive.errors import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch
    from torch import Tensor
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    from contrastive.distributed.shared_work import SharedWork

SHARD = re.compile(r"shard-\d{5,}-model-\d{5}-of-\d{5}\.safetensors")


def shard_files(folder: Path) -> set[str]:
    """Return the names of the files in a folder that ranks wrote."""
    return {path.name for path in folder.iterdir() if SHARD.fullmatch(path.name)}


def write_shards(
    work: SharedWork, tensors: Mapping[str, Tensor], folder: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Write this rank's shards of tensors; all ranks do so.

    Args:
        work: that the ranks share.
        tensors: each sharded over all of them.
        folder: where to; the main rank's counts.

    Returns:
        The size and SHA-256 of each file of all ranks, by name, as the manifest has them.

    Raises:
        OSError: this rank's file cannot be written.
        FailedRank: that of another cannot.
        WeightsError: the ranks have different disks.
    """
    from torch.distributed.checkpoint import state_dict_saver
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    found = work.all_gather("writes a checkpoint in shards", str(folder or ""))
    place = Path(next(filter(None, found)))
    try:
        with lost_rank_told(among_others=True), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own parts
            cast("Any", state_dict_saver).save(
                dict(tensors),
                storage_writer=HuggingFaceStorageWriter(str(place), save_distributed=True),
                process_group=work.ranks.cpu_group,
            )
    except CheckpointException as error:  # on all ranks
        failed = cast("dict[int, tuple[BaseException, Any]]", error.failures)
        rank, (problem, _) = min(failed.items())
        if rank == work.ranks.rank and isinstance(problem, OSError):
            raise OSError(problem.errno, problem.strerror or str(problem)) from error
        why = getattr(problem, "strerror", None) or " ".join(str(problem).split())
        msg = f"rank {rank}: {place}: its shard cannot be written: {why}"
        raise FailedRank(msg, rank) from error
    own = place / f"shard-{work.ranks.rank + 1:05d}-model-00001-of-00001.safetensors"
    listed: dict[str, dict[str, Any]] = {}
    if own.exists():  # a rank may have no row of anything
        with own.open("rb") as file:
            os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        listed[own.name] = {"bytes": own.stat().st_size, "sha256": digest}
    of_all = work.all_gather("has written its shards", listed)
    elsewhere = [
        rank
        for rank, names in enumerate(of_all)
        if any(not (place / name).exists() for name in names)
    ]
    # the main rank moves the folder, which it may once all have looked
    missed = [*chain(*work.all_gather("has looked for the shards of all", elsewhere))]
    if missed:
        own.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty where the main rank is
            place.rmdir()
        msg = (
            f"{place}: rank {missed[0]} has it on a disk of its own; with strategy fsdp all ranks "
            "write to the run's folder: put it on a disk that they share"
        )
        raise WeightsError(msg)
    return {name: about for each in of_all for name, about in each.items()}


def read_shards(
    folder: Path,
    files: Iterable[str],
    into: Callable[[str, torch.Size, torch.dtype], Tensor | None],
) -> dict[str, Tensor]:
    """Return the tensors that ranks wrote to a folder, by name.

    Args:
        folder: that is whole.
        files: those that its manifest lists. Without such ones there are no tensors.
        into: given a name, a shape and a type, returns the tensor to fill, whole or sharded: then
            this rank reads its own part of it; None leaves it out.

    Raises:
        WeightsError: a file cannot be understood.
    """
    names = sorted(name for name in files if SHARD.fullmatch(name))
    if not names:
        return {}
    from torch.distributed.checkpoint import state_dict_loader
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    try:
        reader = HuggingFaceStorageReader(str(folder))

        def listed(_: str) -> list[str]:
            return [str(folder / name) for name in names]

        cast("Any", reader).fs.ls = listed
        about = reader.read_metadata()
        found: dict[str, Tensor] = {}
        for name, parts in sorted(about.state_dict_metadata.items()):
            stored = cast("TensorStorageMetadata", parts)
            _check_complete(name, stored)
            if (target := into(name, stored.size, stored.properties.dtype)) is not None:
                found[name] = target
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it reads without the other ranks
            cast("Any", state_dict_loader).load(dict(found), storage_reader=reader, no_dist=True)
    except WeightsError:
        raise
    except (Exception, CheckpointException) as error:
        msg = f"{folder}: its shards cannot be read: {' '.join(str(error).split())[:200]}"
        raise WeightsError(f"{msg}; copy the checkpoint again") from error
    return found


def _check_complete(name: str, stored: TensorStorageMetadata) -> None:
    """Insist on all rows of a tensor: what no shard has would be left as it is."""
    reached, width = 0, list(stored.size[1:])
    for chunk in sorted(stored.chunks, key=lambda chunk: (chunk.offsets[0], chunk.sizes[0])):
        if not chunk.sizes[0]:  # of a rank beyond the last row
            continue
        if chunk.offsets[0] != reached or list(chunk.sizes[1:]) != width or any(chunk.offsets[1:]):
            msg = f"{name} has no shard with row {reached}"
            raise ValueError(msg)
        reached += chunk.sizes[0]
    if reached != stored.size[0]:  # an empty shard may claim any place, and so any size
        msg = f"{name} has no shard with row {reached}"
        raise ValueError(msg)
