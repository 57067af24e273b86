"""Reading a picture that somebody else made: bounded, in known formats, as a person sees it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from contrastive.errors import BadSample

ImageSource = str | Path | bytes | Image.Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # decoders with a small attack surface
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
MAX_PIXELS = 64_000_000  # 8000 x 8000; more is a poster or a decompression bomb


def open_image(source: ImageSource) -> Image.Image:
    """Decode a picture to RGB: upright (EXIF), first frame, transparency on white.

    Args:
        source: a path, an encoded picture, or a picture that is open already.

    Raises:
        BadSample: it is missing, broken, too large or of another format; names the file.
    """
    name = str(source) if isinstance(source, (str, Path)) else "image"
    try:
        if isinstance(source, Image.Image):
            return _as_seen(source)
        file: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                msg = f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read"
                raise BadSample(msg)  # noqa: TRY301
            return _as_seen(image)
    except FileNotFoundError:
        problem = "no such file"
    except Exception as error:  # a damaged file makes decoders raise many kinds of error
        problem = " ".join(str(error).split()) or type(error).__name__
        if problem.startswith("cannot identify image file"):
            problem = f"not a readable {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    msg = f"{name}: {problem}"
    raise BadSample(msg)


def _as_seen(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "RGB" and "transparency" not in upright.info:
        return upright.copy() if upright is image else upright
    if upright.has_transparency_data:
        shown = upright.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    return upright.convert("RGB")
