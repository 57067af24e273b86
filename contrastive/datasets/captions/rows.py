"""One caption of one image, as files have them, and what is wrong with it."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from contrastive.datasets.file_index import leaves_folder
from contrastive.datasets.quoting import quoted
from contrastive.datasets.tables.text_decoding import text_problem


class Row(NamedTuple):
    """One caption of one image, or the report of why it is not one."""

    source: str
    """Its place, such as ``captions.csv:17``."""
    image: str = ""
    """Path below the folder of images, with ``/``."""
    text: str = ""
    split: str | None = None
    """Empty if the image is in none; None if that cannot be known: a fault of every split."""
    group: str = ""
    """Rows of one group are positives of each other; the image if empty."""
    label: str = ""
    problem: str = ""
    """Why it is left out, if it is."""
    note: str = ""
    """What is reported of a row that is used all the same."""

    @property
    def flaw(self) -> str:
        """What is wrong with what it says, or nothing."""
        first, last = _flaws_of_names(self.image, self.group, self.label, self.split or "")
        if not first and (flaw := text_problem(self.text)):
            return f"the caption {flaw}"
        return first or last


@lru_cache(1 << 10)  # since the captions of an image mostly follow each other
def _flaws_of_names(image: str, group: str, label: str, split: str) -> tuple[str, str]:
    """Return what is told before a caption's own flaw, and what after it."""
    if flaw := text_problem(image):
        return f"the image name {flaw}", ""
    for what, text in (("group", group), ("label", label), ("split", split)):
        if text and (flaw := text_problem(text)):
            return "", f"the {what} {flaw}"
    return "", f"image {quoted(image)} is outside the folder" if leaves_folder(image) else ""
