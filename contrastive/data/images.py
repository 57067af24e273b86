"""Reading an image that somebody else made: bounded, in known formats, as a person sees it."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from contrastive.data.folders import files_below
from contrastive.errors import BadSample, DataError


class StoredImage(ABC):
    """An encoded image that is read when it is needed, such as a cell of a table on disk.

    Two that are equal are the same image; ``str`` gives its name.
    """

    @abstractmethod
    def read(self) -> bytes:
        """Return the encoded image."""


ImageSource = str | Path | bytes | StoredImage | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders with a small attack surface
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_PIXELS = 64_000_000  # 8000 x 8000; more is a poster or a decompression bomb
MAX_RATIO = 100  # of the sides; resizing the shorter side of a thread would fill the memory


def images_below(folder: Path) -> list[Path]:
    """Return the images in a folder and the folders in it, sorted.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    return files_below(folder, SUFFIXES, what="images")


def open_image(source: ImageSource) -> Image.Image:
    """Decode an image to RGB: upright (EXIF), first frame, transparency on white.

    Args:
        source: a path, an encoded image (in memory or stored), or one that is open already.

    Raises:
        BadSample: it is missing, broken, too large or of another format; names the file.
    """
    name = str(source) if isinstance(source, (str, Path, StoredImage)) else "image"
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is odd but can be read
            if isinstance(source, Image.Image):
                return _as_seen(source)
            content = source.read() if isinstance(source, StoredImage) else source
            file: Any = io.BytesIO(content) if isinstance(content, bytes) else content
            with Image.open(file, formats=FORMATS) as image:
                return _as_seen(image)
    except FileNotFoundError:
        problem = "no such file"
    except Exception as error:  # a damaged file makes decoders raise many kinds of error
        problem = " ".join(str(error).split()) or type(error).__name__
        if problem.startswith("cannot identify image file"):
            problem = f"not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image"
    msg = f"{name}: {problem}"
    raise BadSample(msg)


def check_writable(path: Path) -> None:
    """Insist that an image can be written to a path.

    Raises:
        DataError: its ending names no format, or its folder is not there.
    """
    if path.suffix.lower() not in SUFFIXES:
        msg = f"{path}: what format? end its name with one of {', '.join(SUFFIXES)}"
        raise DataError(msg)
    if not path.parent.is_dir():
        msg = f"{path}: there is no folder {path.parent}"
        raise DataError(msg)


def _as_seen(image: Image.Image) -> Image.Image:
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS or long > MAX_RATIO * short:
        limit = f"{MAX_PIXELS:,} pixels and sides of 1 to {MAX_RATIO}"
        msg = f"{image.width} x {image.height} pixels; read are at most {limit}"
        raise BadSample(msg)
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright.copy() if upright is image else upright
    if upright.mode.startswith("I;16"):  # which convert() would clip to white
        upright = upright.point(lambda value: value / 256).convert("L")
    if upright.has_transparency_data:
        shown = upright.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    return upright.convert("RGB")
