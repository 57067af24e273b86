"""The folder of an export: built beside its place, and put there whole when it was verified.

``export.json`` says what the folder is and lists its files; only a folder that holds these and
nothing else is ever replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from safetensors import SafetensorError

from contrastive.config.stored import EXPORT
from contrastive.data.storage.atomic_files import BUILT, DROPPED, beside, leftovers, put, write
from contrastive.data.storage.folders import check_writable_folder
from contrastive.errors import ContrastiveError, DataError, reason_of
from contrastive.exporters.plain import logit_bias
from contrastive.model.saved_files import read_json
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.version import __version__

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel

FORMAT = 1
OF_RUST = "(os error "
"""What libraries of Rust, such as tokenizers, say of the system's errors, of no class of theirs."""
BYTECODE = "__pycache__"
"""Python leaves it where a script such as ``verify.py`` has run."""


def check_place(place: Path) -> None:
    """Insist that a folder can be written, or replaced since it is an export and nothing else.

    Raises:
        DataError: it cannot.
    """
    if os.path.lexists(place) and not place.is_dir():
        msg = f"{place}: is no folder; name another one for the export"
        raise DataError(msg)
    check_writable_folder(place.absolute().parent, what="export")
    there = _files(place)
    if not there:
        return
    if EXPORT not in there:
        msg = f"{place}: is there already, and holds no {EXPORT}; give another folder"
        raise DataError(msg)
    if others := sorted(there - _listed(place)):
        msg = f"{place}: holds {others[0]}, which is not of the export; move it, or give another"
        raise DataError(f"{msg} folder")


def check_is_model(folder: Path) -> None:
    """Insist that a folder is no export, of which no other one is made.

    Raises:
        DataError: it is one.
    """
    about = _about(folder)
    if about.get("to", "contrastive") != "contrastive":  # which is a saved model
        msg = (
            f"{folder}: is an export, which {about['to']} opens; give the run or the saved model "
            "that it was made of"
        )
        raise DataError(msg)


@contextmanager
def building(
    place: Path, model: ContrastiveModel, to: str, towers: Sequence[str]
) -> Generator[Path]:
    """Within a block, give a folder to build in; after it, that is at ``place``, or nothing is.

    Raises:
        DataError: the disk is full, or refuses.
    """
    place = place.resolve()  # of a link, what it leads to
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for left, of in leftovers(place.parent):  # of an export that was killed
            if of == place and (left.suffix == BUILT or place.exists()):
                shutil.rmtree(left, ignore_errors=True)
        folder = beside(place, BUILT)
        try:
            folder.mkdir()
            yield folder
            _write_about(folder, model, to, towers)
            _flush(folder)
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
            check_place(place)  # as it was before, which may be minutes ago
            if before := put(folder, place):
                _drop(before)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except ContrastiveError:
        raise
    except Exception as error:
        if not (isinstance(error, (OSError, SafetensorError)) or OF_RUST in str(error)):
            raise
        msg = f"{place}: cannot be written: {reason_of(error)}"
        raise DataError(msg) from error


def _write_about(folder: Path, model: ContrastiveModel, to: str, towers: Sequence[str]) -> None:
    """Write what the folder is, and what of the model its program has no place for."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "to": to,
        "written_by": f"contrastive-kit {__version__}",
        "model": weights_fingerprint(model),
        "embed_dim": model.spec.embed_dim,
        "towers": {modality: _tower(model, modality) for modality in towers},
        "logit_scale": model.scale,
        "logit_bias": logit_bias(model),
        "how_to_score": "logits = logit_scale * cosine + logit_bias (where it is not null)",
    }
    about["files"] = sorted({*_files(folder), EXPORT})
    content = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    write(folder / EXPORT, [content.encode()])


def _tower(model: ContrastiveModel, modality: str) -> dict[str, Any]:
    """Return what a tower consists of, without the paths of this machine."""
    tower = model.tower(modality)
    encoder, head = tower.spec.encoder, tower.spec.head
    return {
        "encoder": encoder.registry.name_of(type(encoder)),
        "head": head.model_dump(mode="json"),
        "features": tower.encoder.out_dim,
    }


def _files(folder: Path) -> set[str]:
    """Return all files below a folder, by their paths in it; none if it is not there."""
    return {
        path.relative_to(folder).as_posix()
        for path in (folder.rglob("*") if folder.is_dir() else ())
        if (path.is_symlink() or not path.is_dir()) and path.parent.name != BYTECODE
    }


def _listed(folder: Path) -> set[str]:
    """Return the files that an export says it consists of; none if it cannot be read."""
    files = _about(folder).get("files")
    several = cast("list[Any]", files) if isinstance(files, list) else []
    return {name for name in several if isinstance(name, str)}


def _about(folder: Path) -> dict[str, Any]:
    """Return what an export says of itself; nothing if it cannot be read."""
    with suppress(OSError, ValueError, RecursionError, ContrastiveError):
        about = read_json(folder / EXPORT)
        if isinstance(about, dict):
            return cast("dict[str, Any]", about)
    return {}


def _flush(folder: Path) -> None:
    """Have all files of a folder on the disk, for all to read who may read the first of ours.

    safetensors writes files that their owner alone can read, and a server is often another user.
    """
    mode = (folder / EXPORT).stat().st_mode
    for name in _files(folder):
        with (folder / name).open("rb+") as file:
            (folder / name).chmod(mode)
            os.fsync(file.fileno())


def _drop(folder: Path) -> None:
    """Remove the export that was replaced; where it lies now says that it is to go."""
    if folder.suffix not in (BUILT, DROPPED):
        return
    shutil.rmtree(folder, ignore_errors=True)
