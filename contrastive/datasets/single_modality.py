"""Data of one modality, to be compared with itself: images in folders, texts line by line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.folders import readable_folder
from contrastive.data.images import images_below
from contrastive.datasets.known_files import caption_table
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, split_of
from contrastive.datasets.text_tables import (
    name_list,
    quoted,
    read_lines,
    text_problem,
)
from contrastive.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from contrastive.data.samples import Sample
    from contrastive.datasets import Lines, Pictures


@dataclass(frozen=True)
class RowList:
    """Rows by index.

    Example:
        >>> found = RowList(rows, BadRows(), classes=("blue", "red"))
        >>> len(found), found[0]["text"]
        (2, 'red')
    """

    rows: list[Sample]
    bad_rows: BadRows
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int, /) -> Sample:
        """Return one row; nothing is decoded."""
        return self.rows[index]


def read_images(config: Pictures, split: str) -> RowList:
    """Find the images of a split.

    Raises:
        DataError: see ``Pictures.build``.
    """
    folder = Path(config.folder).expanduser()
    with readable_folder(folder):
        paths = images_below(folder)
        table = caption_table(folder)
    if table:
        say(f"{table}: not read; type: image-folder reads images with their captions")
    places = [path.relative_to(folder).as_posix() for path in paths]
    names = {place.partition("/")[0] for place in places if "/" in place}
    given = {
        SPLIT_ALIASES.get(name, name): f"{name}/" for name in names & {*SPLITS, *SPLIT_ALIASES}
    }
    wanted = _wanted(split, tuple(given) or SPLITS, folder)
    rows: list[Sample] = []
    classes: set[str] = set()
    for number, (path, place) in enumerate(zip(paths, places, strict=True)):
        home = next((name for name, top in given.items() if place.startswith(top)), None)
        if given and home is None:
            continue  # beside the folders of the splits
        below = place.removeprefix(given[home]) if home else place
        label, _, _ = below.rpartition("/")
        classes.add(label)
        if (home or split_of(place, config.holdout)) in wanted:
            row: Sample = {"image": path, "id": number, "source": place}
            rows.append(row | {"label": label} if label else row)
    return _filled(RowList(rows, BadRows(budget=config.max_bad), _classes(classes)), split, folder)


def read_texts(config: Lines, split: str) -> RowList:
    """Read the texts of a split.

    Raises:
        DataError: see ``Lines.build``.
    """
    path = Path(config.file).expanduser()
    wanted = _wanted(split, SPLITS, path)
    bad_rows = BadRows(budget=config.max_bad)
    rows = [
        {"text": text, "id": number, "source": f"{path.name}:{number}"}
        for number, line in enumerate(read_lines(path), 1)
        if line.strip() and split_of(line.strip(), config.holdout) in wanted
        for text in _texts(line, f"{path.name}:{number}", bad_rows)
    ]
    bad_rows.check(len(rows) + bad_rows.bad)
    return _filled(RowList(rows, bad_rows), split, path)


def _texts(line: str, source: str, bad_rows: BadRows) -> Iterator[str]:
    for text in line.strip().split("\t"):
        if flaw := text_problem(text):
            bad_rows.report(source, f"the text {flaw}")
        else:
            yield text.strip()


def _wanted(split: str, known: tuple[str, ...], origin: Path) -> set[str]:
    wanted = {name.strip() for name in split.split("+")}
    if unknown := wanted - set(known):
        there = name_list(sorted(known))
        msg = f"{origin}: no split {name_list(sorted(unknown))}; there are: {there}"
        raise DataError(msg)
    return wanted


def _classes(found: set[str]) -> tuple[str, ...]:
    """Return the classes, if every image has one and there is something to tell apart."""
    return tuple(sorted(found)) if "" not in found and len(found) > 1 else ()


def _filled(samples: RowList, split: str, origin: Path) -> RowList:
    if not samples.rows:
        msg = f"{origin}: no samples in split {quoted(split)}"
        raise DataError(msg)
    return samples
