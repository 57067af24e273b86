"""Reading an image that somebody else made: bounded, in known formats, as a person sees it."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image, ImageOps

from contrastive.config.local_files import read_bounded, too_large
from contrastive.data.storage.folders import files_below
from contrastive.errors import BadSample, ContrastiveError, a_type, reason_of

if TYPE_CHECKING:
    from contrastive.data.content_index import PartsOfFile

ENCODED = (bytes, bytearray, memoryview)
WORDS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # chunks of a PNG that its pixels do not need
MOST_READS = 5_000  # of a header: decoders read each part of it by itself, and join some of them
MOST_HEADER_BYTES = 20_000_000  # Pillow copies what it has of EXIF for each further part
MOST_READS_OF_PIXELS = 1_000_000  # each about 1 us, of runs of a BMP or of parts of a PNG
START_OF_SCAN = b"\xff\xda"  # marker; in what is compressed, 0 follows each 255
A_FOLDER = "is a folder; give the files in it, as by FOLDER/*.jpg or FOLDER/*/*.jpg"


class StoredImage(ABC):
    """An encoded image that is read when it is needed, such as a cell of a table on disk.

    Two that are equal are the same image; ``str`` gives its name. Where ``file_part`` says which
    part of a file it is, a later start knows the image without reading it.

    Example:
        >>> class Stored(StoredImage):
        ...     def read(self):
        ...         return Path("photos/red.png").read_bytes()
        >>> open_image(Stored()).size
        (32, 32)
    """

    @abstractmethod
    def read(self) -> bytes:
        """Return the encoded image."""

    @property
    def file_part(self) -> PartsOfFile | None:
        """Which one part of a file it is, if it is one."""
        return None


ImageSource = (
    str
    | PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | StoredImage
    | Image.Image
    | Mapping[str, Any]
    | np.ndarray
)
"""What ``open_image`` decodes.

Example:
    >>> open_image(torch.zeros(3, 32, 48)).size  # width, height
    (48, 32)
"""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders with a small attack surface
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
OTHER_SUFFIXES = (".avif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".svg", ".tif", ".tiff")
MAX_BYTES = 100_000_000  # of an encoded image
MAX_PIXELS = {  # by the cost of a pixel and its bytes: none takes above 2 s of CPU time or 512 MB
    "JPEG": 64_000_000,  # 8000 x 8000
    "progressive JPEG": 24_000_000,
    "PNG": 32_000_000,
    "GIF": 32_000_000,
    "WEBP": 12_000_000,
}
MOST_PIXELS = max(MAX_PIXELS.values())  # more is a poster or a decompression bomb
MAX_PROGRESSIVE_BYTES = 25_000_000
MAX_SCANS = 100  # of a JPEG, each a pass over all pixels; encoders write about 10
DRAFT = (
    2048  # pixels: a JPEG of twice these sides or more is decoded at a half or less, but not less
)
MAX_RATIO = 100  # of the sides; resizing the shorter side of a thread would fill the memory


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and the folders in it, sorted; those of other formats are told.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    return files_below(folder, SUFFIXES, what="images", others=OTHER_SUFFIXES)


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image to RGB: upright (EXIF), first frame, transparency on white.

    Args:
        source: a path; an encoded image (in memory or stored); the hub's ``{"bytes": ..., "path":
            ...}``; one that is open already; or an array or tensor ``[H, W]``, ``[H, W, C]`` or
            ``[C, H, W]`` with C of 1, 3 or 4: integers from 0 to 255, or floats from 0 to 1, as in
            PIL's modes I and F. Of 16 bits the upper 8 are taken.

    Raises:
        BadSample: it is missing, broken, of another format, or would take too much memory or time
            to decode; names the file.

    Example:
        >>> open_image("photos/red.png").getpixel((0, 0))
        (255, 0, 0)
    """
    source = bytes_or_path(source)
    name = str(source) if isinstance(source, (str, Path, StoredImage)) else "image"
    name = name if name.isprintable() and name else repr(name)  # in one line
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is odd but can be read
            # a memoryview has ndim, too
            if not isinstance(source, ENCODED) and hasattr(source, "ndim"):
                source = _of_pixels(source)
            if isinstance(source, Image.Image):
                _check_size(source, "bitmap in memory")
                return _as_seen(ImageOps.exif_transpose(source))
            content = encoded(source)
            try:
                return _decoded(content)
            except ValueError as error:
                if "Decompressed data too large" not in str(error):
                    raise
                return _decoded(_without_words(content))
    except MemoryError:  # says nothing of the image, whose size is bounded
        raise
    except ContrastiveError as error:
        if not isinstance(error, BadSample):  # nor does this: what holds the image is not there
            raise
        problem = str(error)
    except FileNotFoundError:
        problem = "no such file"
        if name.startswith(("http:", "https:")):
            problem = "addresses are fetched in a column of a table alone; download the image and "
            problem += "give its path or bytes"
    except IsADirectoryError:
        problem = A_FOLDER
    except Exception as error:  # a damaged file makes decoders raise many kinds of error
        problem = reason_of(error)
        if problem.startswith("cannot identify image file"):
            problem = f"not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    msg = f"{name}: {problem}"
    raise BadSample(msg)


def encoded(content: Any) -> bytes | bytearray:
    """Return an encoded image: the bytes given, or those of a path, a stored image or a file.

    Raises:
        BadSample: it is none of these, or larger than decoded.
        OSError: it cannot be read.
    """
    if isinstance(content, StoredImage):
        content = content.read()
    if isinstance(content, (str, PathLike)):
        return read_bounded(cast("str", content), MAX_BYTES)
    if hasattr(content, "read"):
        content = content.read(MAX_BYTES + 1)
    if isinstance(content, memoryview):
        content = bytes(cast("Any", content))
    if not isinstance(content, (bytes, bytearray)):
        msg = f"{a_type(content)} is no image; give a path, a file's bytes, a PIL image or an array"
        raise BadSample(msg)
    if len(content) > MAX_BYTES:
        raise BadSample(too_large(len(content), MAX_BYTES))
    return content


def _decoded(encoded: bytes | bytearray) -> Image.Image:
    """Decode an image whose header promises what can be afforded.

    Raises:
        BadSample: it does not.
    """
    with opened(encoded) as image:
        kind = str(image.format)
        if kind == "JPEG":
            kind = _kind_of_jpeg(image, bytes(encoded))
        _check_size(image, kind)
        image.draft(None, (DRAFT, DRAFT))  # only JPEG has this
        ImageOps.exif_transpose(image, in_place=True)
        return _as_seen(image)


class _BoundedReads(io.BytesIO):
    """An encoded image whose decoder may read so many times: each part of it costs time."""

    reads, most_bytes = MOST_READS, MOST_HEADER_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Raises:
            BadSample: there were too many reads.
        """
        self.reads -= 1
        if self.reads < 0:
            msg = "an image of too many small parts; save it anew"
            raise BadSample(msg)
        if self.tell() > self.most_bytes:
            msg = "an image with a header of too many bytes; save it without EXIF"
            raise BadSample(msg)
        return super().read(size)


def opened(encoded: bytes | bytearray) -> Image.Image:
    """Return an encoded image whose header is read, and its pixels not yet.

    Raises:
        BadSample: the header is longer than that of any image.
    """
    source = _BoundedReads(encoded)
    image = Image.open(source, formats=FORMATS)
    source.reads, source.most_bytes = MOST_READS_OF_PIXELS, MAX_BYTES
    return image


def _without_words(png: bytes | bytearray) -> bytes:
    """Return a PNG without its texts and colour profile, of which Pillow refuses long ones."""
    kept, place = [bytes(png[:8])], 8
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        if png[place + 4 : place + 8] not in WORDS:
            kept.append(bytes(png[place:end]))
        place = end
    return b"".join(kept)


def bytes_or_path(source: Any) -> Any:
    """Return what the hub's form of an image, ``{"bytes": ..., "path": ...}``, holds.

    Raises:
        BadSample: it holds neither.
    """
    if not isinstance(source, Mapping):
        return source
    both = cast("Mapping[str, Any]", source)
    if held := both.get("bytes") or both.get("path"):
        return held
    msg = f"a mapping with {', '.join(map(str, both)) or 'nothing'}; an image has bytes or path"
    raise BadSample(msg)


def _of_pixels(array: Any) -> Image.Image:
    """Return an image of pixel values in an array or a tensor.

    Raises:
        BadSample: its shape or its values are not those of an image, or some are masked.
    """
    channels_first = hasattr(array, "detach")  # where both fit, as torch has it
    if channels_first:
        array = array.detach().cpu()
        array = array.float() if array.is_floating_point() else array  # numpy has no bfloat16
    if np.ma.is_masked(array):
        msg = "a masked array is no image; give its pixels: array.filled(255)"
        raise BadSample(msg)
    pixels = np.asarray(array)
    shape, kind = tuple(pixels.shape), pixels.dtype
    if pixels.ndim == 3:
        fits = [axis for axis in (2, 0) if shape[axis] in (1, 3, 4)]
        axis = fits[-1 if channels_first else 0] if fits else None
        pixels = None if axis is None else np.moveaxis(pixels, axis, 2)
    if pixels is None or pixels.ndim not in (2, 3) or not pixels.size:
        msg = f"an array of shape {shape} is no image; give [H, W], [H, W, C] or [C, H, W]"
        raise BadSample(msg)
    least, most = pixels.min(), pixels.max()
    top = 1 if kind.kind in "fb" else 255
    if kind.kind not in "fbiu" or not (least >= 0 and most <= top):
        what = f"{kind} values from {least} to {most}"
        msg = f"{what} are no image; give integers from 0 to 255, or floats from 0 to 1"
        raise BadSample(msg)
    if top == 1:
        pixels = (pixels.astype(np.float32) * 255).round()
    pixels = pixels.astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


def _kind_of_jpeg(image: Image.Image, encoded: bytes) -> str:
    """Return whether a JPEG is progressive, after a look at what multiplies its cost.

    Raises:
        BadSample: it has too many scans, or too many bytes to be decoded several times.
    """
    scans = encoded.count(START_OF_SCAN)
    if scans > MAX_SCANS:
        msg = f"a JPEG of {scans:,} scans; at most {MAX_SCANS} are decoded; save it anew"
        raise BadSample(msg)
    if not image.info.get("progressive"):
        return "JPEG"
    if len(encoded) > MAX_PROGRESSIVE_BYTES:
        raise BadSample(too_large(len(encoded), MAX_PROGRESSIVE_BYTES) + " in a progressive JPEG")
    return "progressive JPEG"


def _check_size(image: Image.Image, kind: str) -> None:
    """Insist on a number of pixels, known before they are decoded, and on the ratio of the sides.

    Raises:
        BadSample: there are more.
    """
    most = MAX_PIXELS.get(kind, MOST_PIXELS)
    short, long = sorted(image.size)
    if short * long > most or long > MAX_RATIO * short:
        msg = (
            f"{image.width} x {image.height} pixels; of a {kind} are read at most {most:,}, with "
            f"sides of 1 to {MAX_RATIO}; make it smaller"
        )
        raise BadSample(msg)


def _as_seen(image: Image.Image) -> Image.Image:
    """Return an RGB copy; what is transparent is white."""
    if image.mode.startswith("I;16"):  # convert() would clip these three
        return _of_sixteen_bits(image)
    if image.mode in ("I", "F"):
        return _of_pixels(np.asarray(image)).convert("RGB")
    if not image.has_transparency_data and image.mode != "La":
        return image.copy() if image.mode == "RGB" else image.convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours times alpha, which nothing else converts
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    seen = Image.new("RGB", image.size, "white")
    seen.paste(image, mask=image)  # in place: each copy of a large image counts
    return seen


def _of_sixteen_bits(image: Image.Image) -> Image.Image:
    """Return the upper 8 bits of each pixel, as decoders do; what is transparent is white."""
    values = np.array(image)
    clear = values == image.info.get("transparency", -1)
    values >>= 8
    grey = values.astype(np.uint8)
    grey[clear] = 255
    return Image.fromarray(grey).convert("RGB")
