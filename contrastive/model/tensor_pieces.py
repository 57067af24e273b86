"""Tensors as the bytes of a safetensors file, piece by piece: what is written is not copied first.

The format is the length of a header in 8 bytes, the header in JSON, and the data of all tensors
without a gap (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import save as tensors_to_bytes

from contrastive.nn.tensor_bytes import bytes_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from torch import Tensor

NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Of types in a header; others are left to the library."""
PIECE = 1 << 22  # bytes: as long as a write takes, and few of them

Piece = bytes | bytearray | memoryview


def safetensors_pieces(tensors: Mapping[str, Tensor]) -> Iterator[Piece]:
    """Yield the bytes of a safetensors file in pieces of at most ``PIECE`` bytes.

    A tensor on another device is copied when its turn comes. Those that share memory are written
    one by one.
    """
    if sys.byteorder != "little" or any(x.dtype not in NAMES for x in tensors.values()):
        whole = {name: x.detach().cpu().contiguous().clone() for name, x in tensors.items()}
        return iter([tensors_to_bytes(whole)])
    # wide types first, so that each tensor begins at a multiple of its size
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        x = tensors[name]
        start, end = end, end + x.nbytes
        about = {"dtype": NAMES[x.dtype], "shape": list(x.shape), "data_offsets": [start, end]}
        header[name] = about
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return _joined([len(text).to_bytes(8, "little") + text], (tensors[name] for name in names))


def _joined(first: Iterable[bytes], tensors: Iterable[Tensor]) -> Generator[Piece]:
    """Yield all bytes; small ones together."""
    held = bytearray().join(first)
    for x in tensors:
        flat = bytes_of(x)
        data = memoryview(cast("Any", flat.numpy()))
        if len(held) + len(data) <= PIECE:
            held += data
            continue
        yield held
        held = bytearray()
        for start in range(0, len(data), PIECE):
            yield data[start : start + PIECE]
    yield held


class Counted:
    """Pieces on their way to a file; afterwards, how many bytes these were, and their SHA-256."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        """Take pieces that are iterated once."""
        self._pieces = pieces
        self._sha256 = hashlib.sha256()
        self.bytes = 0

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces."""
        for piece in self._pieces:
            self._sha256.update(piece)
            self.bytes += len(piece)
            yield piece

    @property
    def sha256(self) -> str:
        """Of what was yielded."""
        return self._sha256.hexdigest()
