"""Texts and images as clients send them: a text is never a path, and nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from PIL import Image

from contrastive.data.images import FORMATS, opened
from contrastive.errors import BadSample
from contrastive.serving.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.serving.settings import Limits

DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w=.-]+)*;base64,", re.IGNORECASE)


def text_of(text: str, limits: Limits, param: str, most: int | None = None) -> str:
    """Return a text that may be embedded.

    Raises:
        Problem: it is empty or too long.
    """
    if not text.strip():
        raise Problem(400, f"{param}: is empty; give a text", code="empty", param=param)
    most = most or limits.text_characters
    if len(text) > most:
        message = f"{param}: {len(text):,} characters; at most {most:,} are taken"
        raise Problem(400, message, code="too_long", param=param)
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{param}: has half of a surrogate pair; send it as UTF-8"
        raise Problem(400, message, code="not_utf8", param=param) from None
    return text


def check_conditions(where: Sequence[str], limits: Limits) -> None:
    """Insist on conditions that are few and short: each looks at all rows.

    Raises:
        Problem: they are not.
    """
    if len(where) > limits.conditions:
        message = f"where: {len(where)} conditions; at most {limits.conditions} are taken"
        raise Problem(400, message, code="too_many", param="where")
    for number, condition in enumerate(where):
        text_of(condition, limits, f"where.{number}", limits.condition_characters)


def templates_for(names: Sequence[str], templates: Sequence[str], limits: Limits) -> Sequence[str]:
    """Return templates, before sentences are made of them.

    Raises:
        Problem: there would be too many sentences, or too long ones.
    """
    if (count := len(names) * len(templates)) > limits.sentences:
        message = (
            f"classes: {count} sentences of all templates; at most {limits.sentences} are taken"
        )
        raise Problem(400, message, code="too_many", param="classes")
    longest = max(map(len, names))
    for number, template in enumerate(templates):
        param = f"templates.{number}"
        text_of(template, limits, param)
        length = len(template) + template.count("{}") * (longest - 2)
        if length > limits.text_characters:
            message = (
                f"{param}: a sentence of {length:,} characters; at most "
                f"{limits.text_characters:,} are taken"
            )
            raise Problem(400, message, code="too_long", param=param)
    return templates


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
        with opened(encoded) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        message = f"{param}: {most}"
        raise Problem(413, message, code="too_many_pixels", param=param) from None
    except BadSample as error:
        raise Problem(400, f"{param}: {error}", code="no_image", param=param) from None
    except Exception:  # damaged files make decoders raise many kinds of error
        message = f"{param}: is no image that is known; send {', '.join(FORMATS)}"
        raise Problem(400, message, code="no_image", param=param) from None
    if width * height > limits.pixels:
        message = f"{param}: {width} x {height} pixels; {most}"
        raise Problem(413, message, code="too_many_pixels", param=param)
    return encoded


def check_total(modality: str, samples: Sequence[Any], limits: Limits) -> None:
    """Insist on a sum of texts or images that the model has done in some seconds.

    Raises:
        Problem: they are more.
    """
    sizes = {"text": len, "image": pixels_of}
    most = {"text": limits.all_characters, "image": limits.all_pixels}
    if modality in sizes and (total := sum(map(sizes[modality], samples))) > most[modality]:
        what = "characters" if modality == "text" else "pixels"
        message = (
            f"{total:,} {what} in all; at most {most[modality]:,} are taken; send less at once"
        )
        raise Problem(413, message, code="too_large")


def pixels_of(encoded: bytes) -> int:
    """Return how many pixels an image has, as its header says."""
    with opened(encoded) as image:
        return image.width * image.height
