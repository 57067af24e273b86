"""Images in a folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.folders import readable_folder
from contrastive.data.images import images_below
from contrastive.datasets.known_files import caption_table
from contrastive.datasets.single_modality import RowList, filled, wanted_splits
from contrastive.datasets.splits import SPLIT_ALIASES, SPLITS, one_of, split_of
from contrastive.errors import DataError

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
    names = {place.partition("/")[0] for place in places if "/" in place}
    given = {
        SPLIT_ALIASES.get(name, name): f"{name}/" for name in names & {*SPLITS, *SPLIT_ALIASES}
    }
    wanted = wanted_splits(split, tuple(given) or SPLITS, folder)
    rows: list[Sample] = []
    labels: set[str] = set()
    for number, (path, place) in enumerate(zip(paths, places, strict=True)):
        home = next((name for name, top in given.items() if place.startswith(top)), None)
        if given and home is None:
            continue  # beside the folders of the splits
        below = place.removeprefix(given[home]) if home else place
        label = below.rpartition("/")[0].replace("_", " ")
        labels.add(label)
        if (home or split_of(place, config.holdout)) in wanted:
            row: Sample = {"image": path, "id": number, "source": place}
            rows.append(row | {"label": label} if label else row)
    classes = () if "" in labels else tuple(sorted(labels))
    if config.captions and purpose == "training":
        rows = [_captioned(row, classes, config.captions, folder) for row in rows]
    return filled(RowList(rows, BadRows(budget=config.max_bad), classes), split, folder)


def _captioned(
    row: Sample, classes: Sequence[str], captions: Sequence[str], folder: Path
) -> Sample:
    """Add a caption of the row's class; rows with equal captions have to have equal ids."""
    if not classes:
        msg = f"{folder}: some images are in no folder of a class, so that captions cannot name one"
        raise DataError(msg)
    caption = one_of(captions, row["source"]).replace("{}", row["label"])
    return row | {"text": caption, "id": classes.index(row["label"])}
