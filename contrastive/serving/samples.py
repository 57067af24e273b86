"""Texts and images as clients send them: a text is never a path, and nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING

from PIL import Image

from contrastive.data.images import FORMATS
from contrastive.serving.problems import Problem

if TYPE_CHECKING:
    from contrastive.serving.settings import Limits

DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.-]+)*;base64,", re.IGNORECASE)


def text_of(text: str, limits: Limits, param: str) -> str:
    """Return a text that may be embedded.

    Raises:
        Problem: it is empty or too long.
    """
    if not text.strip():
        raise Problem(400, f"{param}: is empty; give a text", code="empty", param=param)
    if len(text) > limits.text_characters:
        message = f"{param}: {len(text):,} characters; at most {limits.text_characters:,} are taken"
        raise Problem(400, message, code="too_long", param=param)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{param}: has half of a surrogate pair; send it as UTF-8"
        raise Problem(400, message, code="not_utf8", param=param) from None
    return text


def image_in(url: str, limits: Limits, param: str) -> bytes:
    """Return the encoded image of a ``data:`` URL, or of plain base64.

    Raises:
        Problem: it is none, or has too many pixels.
    """
    if re.match(r"(https?|file|ftp):", url, re.IGNORECASE):
        message = f"{param}: nothing is fetched; send the image as data:image/png;base64,..."
        raise Problem(400, message, code="not_fetched", param=param)
    match = DATA_URL.match(url)
    try:
        encoded = base64.b64decode(url[match.end() if match else 0 :], validate=True)
    except (binascii.Error, ValueError):
        message = f"{param}: is no base64; send the image as data:image/png;base64,..."
        raise Problem(400, message, code="not_base64", param=param) from None
    return checked_image(encoded, limits, param)


def checked_image(encoded: bytes, limits: Limits, param: str) -> bytes:
    """Return an encoded image whose header says that it may be decoded.

    Raises:
        Problem: it is none, or has too many pixels.
    """
    most = f"at most {limits.pixels:,} pixels are taken; make it smaller"
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        message = f"{param}: {most}"
        raise Problem(413, message, code="too_many_pixels", param=param) from None
    except (OSError, ValueError, SyntaxError):
        message = f"{param}: is no image that is known; send {', '.join(FORMATS)}"
        raise Problem(400, message, code="no_image", param=param) from None
    if width * height > limits.pixels:
        message = f"{param}: {width} x {height} pixels; {most}"
        raise Problem(413, message, code="too_many_pixels", param=param)
    return encoded
