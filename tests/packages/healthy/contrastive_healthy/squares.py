"""Coloured squares by split."""

from dataclasses import dataclass

from PIL import Image

from contrastive.errors import DataError

SPLITS = {
    "train": ("red", "green", "blue", "white", "black"),
    "val": ("yellow", "orange", "purple"),
    "test": ("pink", "brown", "gray"),
}
COLOURS = [colour for colours in SPLITS.values() for colour in colours]
CAPTIONS = "a {} square", "something {}"


def paint(split, side, *, captions):
    known = ", ".join(SPLITS)
    unknown = [name for name in split.split("+") if name not in SPLITS]
    if unknown:
        msg = f"squares: no split {unknown[0]!r}; there are: {known}"
        raise DataError(msg)
    colours = [colour for name in split.split("+") for colour in SPLITS[name]]
    pairs = [(colour, caption) for colour in colours for caption in CAPTIONS[:captions]]
    return Painted(side, tuple(pairs))


@dataclass(frozen=True)
class Painted:
    side: int
    pairs: tuple[tuple[str, str], ...]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        colour, caption = self.pairs[index]
        return {
            "image": Image.new("RGB", (self.side, self.side), colour),
            "text": caption.format(colour),
            "id": self.number(colour),
            "source": f"square {index}",
        }

    def number(self, colour):
        return COLOURS.index(colour)
