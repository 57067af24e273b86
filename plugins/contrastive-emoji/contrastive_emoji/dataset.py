"""The dataset ``emoji``. ``make_data.py`` says what is in the files and how they were made."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload
from zipfile import ZipFile

from pydantic import Field

from contrastive.interface import Dataset, Purpose, UnknownSplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.interface import Sample

DATA = Path(__file__).parent / "data"
SPLITS = ("train", "val", "test")
CLASSES = (
    "smileys and emotion",
    "people and body",
    "animals and nature",
    "food and drink",
    "travel and places",
    "activities",
    "objects",
    "symbols",
    "flags",
)

Vendor = Literal["google", "fluent"]
Language = Literal["en", "es", "de", "fr", "ja", "pt", "it", "nl", "pl", "ru", "zh", "ko"]

PHRASES = {  # but for English, worded to fit a noun of any gender and case
    "en": "an emoji of {}",
    "es": "un emoji: {}",
    "de": "ein Emoji: {}",
    "fr": "un emoji : {}",
    "ja": "絵文字「{}」",
    "pt": "um emoji: {}",
    "it": "un'emoji: {}",
    "nl": "een emoji: {}",
    "pl": "emoji: {}",
    "ru": "эмодзи: {}",
    "zh": "表情符号“{}”",
    "ko": "이모지: {}",
}


class Emoji(Dataset):
    """Images of emoji with their names and keywords; nothing is downloaded.

    The group id stands for one emoji, whoever drew it. Splits are by concept: the man, the woman
    and the person who run are one, and so are flags that look the same.
    """

    vendors: tuple[Vendor, ...] = Field(("google", "fluent"), min_length=1)
    """Whose images to train on; evaluation takes those of the first."""

    languages: tuple[Language, ...] = Field(("en",), min_length=1)
    """Languages of the captions to train on; evaluation takes names in the first."""

    captions_per_image: int = Field(2, ge=1, le=3)
    """Captions of an image in each language: 1 is the name, 2 adds the name with keywords,
    3 adds "an emoji of" and the name. Evaluation takes the name."""

    def build(self, split: str, *, purpose: Purpose = "evaluation") -> EmojiSamples:
        """Read one split, with a row for each pair of an image and a caption.

        Args:
            split: ``train``, ``val``, ``test``, or several joined by ``+``.
            purpose: ``evaluation`` gives one image and one caption of each concept (with
                Google's images, 500 in ``test`` and 150 in ``val``); ``training`` all of them.

        Raises:
            UnknownSplit: there is no such split.
        """
        wanted = split.split("+")
        if unknown := [name for name in wanted if name not in SPLITS]:
            known = ", ".join(SPLITS)
            msg = f"emoji: no split {unknown[0]!r}; there are: {known}, and sums such as train+val"
            raise UnknownSplit(msg)
        rows = self._training_rows() if purpose == "training" else self._evaluation_rows()
        return EmojiSamples(tuple(row for row in rows if row.split in wanted))

    def _training_rows(self) -> Iterator[Row]:
        captions = {language: _read(f"captions/{language}.json") for language in self.languages}
        for group, emoji in enumerate(_read("emoji.json")):
            texts = [
                text
                for language, words in captions.items()
                for text in _phrase(language, words[emoji["code"]])[: self.captions_per_image]
            ]
            for vendor in self.vendors:
                if vendor in emoji["vendors"]:
                    yield from (_row(group, emoji, vendor, text) for text in texts)

    def _evaluation_rows(self) -> Iterator[Row]:
        vendor = self.vendors[0]
        words = _read(f"captions/{self.languages[0]}.json")
        for group, emoji in enumerate(_read("emoji.json")):
            if emoji["code"] == emoji["concept"] and vendor in emoji["vendors"]:
                yield _row(group, emoji, vendor, words[emoji["code"]][0])


class Row(NamedTuple):
    """An image and a caption."""

    group: int
    code: str
    vendor: str
    label: str
    split: str
    text: str


@dataclass(frozen=True)
class EmojiSamples:
    """Rows by index; small and picklable, as images stay in the package until asked for."""

    rows: tuple[Row, ...]
    classes: tuple[str, ...] = CLASSES

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int, /) -> Sample: ...

    @overload
    def __getitem__(self, index: slice, /) -> list[Sample]: ...

    def __getitem__(self, index: int | slice, /) -> Sample | list[Sample]:
        """Return one row, or a list of them; the image is an encoded WebP with transparency."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        row = self.rows[index]
        return {
            "image": _images(row.vendor, os.getpid()).read(f"{row.code}.webp"),
            "text": row.text,
            "id": row.group,
            "label": row.label,
            "source": f"emoji U+{row.code.replace('-', ' U+')} {row.vendor}",
        }


def _row(group: int, emoji: dict[str, Any], vendor: str, text: str) -> Row:
    return Row(group, emoji["code"], vendor, emoji["label"], emoji["split"], text)


def _phrase(language: str, words: list[str]) -> list[str]:
    name, *keywords = words
    return [name, f"{name}: {', '.join(keywords)}", PHRASES[language].format(name)]


def _read(file: str) -> Any:
    return json.loads((DATA / file).read_text("utf-8"))


@cache
def _images(vendor: str, process: int) -> ZipFile:  # noqa: ARG001
    # one for each process: forked workers would share the file's position
    return ZipFile(DATA / f"{vendor}.zip")
