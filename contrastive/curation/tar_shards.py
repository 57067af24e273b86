"""Tar files in the format of WebDataset: the same samples give the same bytes, on every machine."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from contrastive.data.images import FORMATS, StoredImage, bytes_or_path, encoded, open_image, opened
from contrastive.data.sample_forms import is_content
from contrastive.data.samples import NOT_MODALITIES
from contrastive.data.storage.folders import named_file
from contrastive.errors import BadSample, a_type, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Sample

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)  # of a tar file
ENDS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}
DIGITS = 9  # of a key, so that keys sort as samples do

Members = list[tuple[str, bytes]]
"""Ends of names such as ``jpg``, and contents."""


@dataclass(frozen=True)
class Tar:
    """What is known of a tar file that was written."""

    samples: int
    rows: int
    bytes: int
    sha256: str


class TarWriter:
    """Writes one tar file: members without times and owners."""

    def __init__(self, path: Path) -> None:
        """Begin a file."""
        self.path = path
        with named_file(path):
            self.file = path.open("wb")
        self.hash = hashlib.sha256()
        self.size = self.samples = self.rows = 0

    def add(self, key: str, members: Members, *, rows: int) -> None:
        """Add the members of a sample, which stands for so many rows."""
        for end, content in members:
            about = tarfile.TarInfo(f"{key}.{end}")  # mode 644, of root, in 1970
            about.size = len(content)
            self._write(about.tobuf(tarfile.USTAR_FORMAT))
            self._write(content)
            self._write(bytes(-len(content) % BLOCK))
        self.samples += 1
        self.rows += rows

    def end(self) -> Tar:
        """Finish the file."""
        self._write(END)
        with named_file(self.path):
            self.file.close()
        return Tar(self.samples, self.rows, self.size, self.hash.hexdigest())

    def abandon(self) -> None:
        """Remove what was written."""
        self.file.close()
        self.path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        with named_file(self.path):
            self.file.write(content)
        self.hash.update(content)
        self.size += len(content)


def size_in_tar(members: Members) -> int:
    """Return the bytes that members take in a tar file."""
    return sum(BLOCK + len(content) + -len(content) % BLOCK for _, content in members)


def members_of(rows: Sequence[Sample], split: str) -> Members:
    """Return the members of one sample: rows that differ in their captions alone.

    Raises:
        BadSample: it cannot be read; names its file.
        OSError: it cannot be read.
    """
    first = rows[0]
    members: Members = []
    for modality, value in first.items():
        if modality in NOT_MODALITIES or modality == "text":
            continue
        members.append(_image(value) if modality == "image" else _other(value, modality))
    fields: dict[str, Any] = {"group_id": first["id"], "source": first.get("source") or ""}
    fields |= {"split": split} | ({"label": first["label"]} if "label" in first else {})
    captions = [row["text"] for row in rows if "text" in row]
    if captions:
        members.append(("txt", _utf8(captions[0])))
    if len(captions) > 1:
        fields["captions"] = captions
    document = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    return [*members, ("json", _utf8(document))]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _image(value: Any) -> tuple[str, bytes]:
    """Return an encoded image as it is; one that is not encoded, as PNG."""
    value = bytes_or_path(value)
    is_open = isinstance(value, Image.Image) or hasattr(value, "ndim")
    if is_open and not isinstance(value, (bytes, bytearray, memoryview)):
        buffer = io.BytesIO()
        open_image(value).save(buffer, "PNG")
        return "png", buffer.getvalue()
    name = str(value) if isinstance(value, (str, Path, StoredImage)) else "image"
    try:
        content = bytes(encoded(value))
    except BadSample as error:
        msg = str(error) if str(error).startswith(name) else f"{name}: {error}"
        raise BadSample(msg) from None
    except OSError as error:
        raise BadSample(f"{name}: {reason_of(error)}") from None
    try:
        with opened(content) as image:
            kind = str(image.format)
    except Exception:  # a damaged file makes decoders raise many kinds of error
        msg = f"{name}: not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
        raise BadSample(msg) from None
    return ENDS[kind], content


def _other(value: Any, modality: str) -> tuple[str, bytes]:
    """Return a sample of another modality: a text, a file's bytes, an array, or plain data."""
    if isinstance(value, str) and is_content(value, modality):
        return f"{modality}.txt", _utf8(value)
    if isinstance(value, (str, Path)):
        path = Path(value)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BadSample(f"{path}: {reason_of(error)}") from None
        return f"{modality}{path.suffix.lower() or '.bin'}", content
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{modality}.bin", bytes(cast("Any", value))
    if hasattr(value, "__array__"):
        buffer = io.BytesIO()
        np.save(buffer, np.ascontiguousarray(value), allow_pickle=False)
        return f"{modality}.npy", buffer.getvalue()
    try:
        return f"{modality}.json", _utf8(json.dumps(value, sort_keys=True))
    except (TypeError, ValueError):
        msg = f"a sample of {modality} is {a_type(value)}; a shard holds texts, files and arrays"
        raise BadSample(msg) from None
