"""Images in a folder for each class."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from unicodedata import normalize

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.folders import first_of, is_hidden, readable_folder
from contrastive.data.images import SUFFIXES, images_below
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.known_files import caption_table
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.single_modality import RowList, filled, wanted_splits
from contrastive.datasets.splits import SPLITS, one_of, split_named, split_of, tell_of_others
from contrastive.errors import DataError
from contrastive.prompts import tell_of_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.data.samples import Sample
    from contrastive.datasets import ClassFolders, Purpose


def read(config: ClassFolders, split: str, *, purpose: Purpose) -> RowList:
    """Find the images of a split.

    Raises:
        DataError: see ``ClassFolders.build``.
    """
    folder = Path(config.folder).expanduser()
    with readable_folder(folder):
        paths = images_below(folder)
        table = caption_table(folder)
    if table:
        say(f"{table}: not read; type: image-folder reads images with their captions")
    places = [path.relative_to(folder).as_posix() for path in paths]
    homes = _homes(folder, places)
    _tell_of_classes(folder, homes, places)
    wanted = wanted_splits(split, tuple(dict.fromkeys(homes.values())) or SPLITS, folder)
    rows: list[Sample] = []
    labels: dict[str, str] = {}
    spellings: dict[str, dict[str, None]] = {}
    for number, (path, place) in enumerate(zip(paths, places, strict=True)):
        top, _, rest = place.partition("/")
        home = homes.get(top) if rest else None
        if homes and home is None:
            continue  # beside the folders of the splits
        below = rest if home else place
        name = normalize("NFC", below.rpartition("/")[0])
        label = name.replace("_", " ").strip()
        labels.setdefault(label, place)
        spellings.setdefault(label, {})[name] = None
        if (home or split_of(place, config.holdout)) in wanted:
            row: Sample = {"image": path, "id": number, "source": place}
            rows.append(row | {"label": label} if label else row)
    if len(labels) > 1 and "" in labels:
        say(f"{folder}: {labels['']} is in no folder of a class, so that there are no classes")
    classes = () if "" in labels else tuple(sorted(labels))
    tell_of_alike(classes, folder)
    if merged := [names for names in spellings.values() if len(names) > 1]:
        more = f" ({len(merged)} such classes in all)" if len(merged) > 1 else ""
        say(f"{folder}: the folders {name_list(merged[0])} are one class{more}")
    if config.captions and purpose == "training":
        tell_of_names(classes, config.captions)
        rows = [_captioned(row, classes, config.captions, folder) for row in rows]
    return filled(RowList(rows, BadRows(budget=config.max_bad), classes), split, folder)


def _homes(folder: Path, places: Sequence[str]) -> dict[str, str]:
    """Return the split of each folder of a split; none, if the folders are those of classes."""
    tops = {place.partition("/")[0] for place in places if "/" in place}
    homes = {top: split for top in sorted(tops) if (split := split_named(top))}
    nested = any(place.count("/") > 1 and place.partition("/")[0] in homes for place in places)
    if homes and homes.keys() != tops and not nested:  # a train is also a class of vehicles
        say(f"{folder}: {name_list(homes)} is taken for a class, like the folders beside it")
        homes = {}
    if homes:
        tell_of_others(folder, [place for place in places if place.partition("/")[0] not in homes])
    return homes


def _tell_of_classes(folder: Path, homes: dict[str, str], places: Sequence[str]) -> None:
    """Tell of classes that may not be meant: without images, or called by a folder around them."""
    full = [PurePosixPath(home) for home in {place.rpartition("/")[0] for place in places}]
    known = {folder / path for below in full for path in (below, *below.parents)}
    above = [folder / home for home in homes] or [folder]
    below = [path for home in above for path in home.iterdir() if _is_folder(path)]
    empty = [path for path in below if path not in known and not is_hidden(path.name)]
    if empty:
        say(f"{first_of(empty)}: no images here ({', '.join(SUFFIXES)}), so no class")
    if not homes and len({path.parts[:1] for path in full}) == 1 < min(len(p.parts) for p in full):
        say(
            f"{folder}: all classes lie in {full[0].parts[0]!r}, and are called by it, too; give "
            f"folder: {folder / full[0].parts[0]}"
        )
    if within := sorted(
        str(path) for path in full if len(path.parts) > 1 and split_named(path.name)
    ):
        say(
            f"{folder}: {quoted(within[0])} is taken for a class; folders of splits have to lie "
            "above those of classes"
        )


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder, or a link to one that is not there, as of a disk not mounted."""
    return path.is_dir() or (not path.exists() and path.suffix.lower() not in SUFFIXES)


def _captioned(
    row: Sample, classes: Sequence[str], captions: Sequence[str], folder: Path
) -> Sample:
    """Add a caption of the row's class; rows with equal captions have to have equal ids."""
    if not classes:
        msg = f"{folder}: some images are in no folder of a class, so that captions cannot name one"
        raise DataError(msg)
    caption = one_of(captions, row["source"]).replace("{}", row["label"])
    return row | {"text": caption, "id": classes.index(row["label"])}
