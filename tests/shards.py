"""Tar shards as others write them, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def png(number: int) -> bytes:
    """Return a small image of noise, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "png")
    return held.getvalue()


def member(name: str, content: bytes = b"", **about: Any) -> tuple[tarfile.TarInfo, bytes]:
    """Return a member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in about.items():
        setattr(info, key, value)
    return info, content


def tar(members: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar file."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=form) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return held.getvalue()


def samples(numbers: Iterable[int], **fields: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    """Return the members of samples as img2dataset writes them."""
    found: list[tuple[tarfile.TarInfo, bytes]] = []
    for i in numbers:
        about = {"caption": f"number {i}", "key": f"{i:09d}", "status": "success", **fields}
        found += [
            member(f"{i:09d}.png", png(i)),
            member(f"{i:09d}.txt", f"number {i}".encode()),
            member(f"{i:09d}.json", json.dumps(about).encode()),
        ]
    return found


def write_shards(folder: Path, shards: int, each: int) -> Path:
    """Write shards of img2dataset's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        numbers = range(shard * each, (shard + 1) * each)
        (folder / f"{shard:05d}.tar").write_bytes(tar(samples(numbers)))
    return folder
