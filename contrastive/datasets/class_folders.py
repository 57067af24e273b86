"""Images in a folder for each class."""

from __future__ import annotations

from array import array
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np

from contrastive.console import say
from contrastive.data.bad_rows import BadRows
from contrastive.data.column_kinds import Coded, Column, FilePaths, Integers, Objects, Strings
from contrastive.data.columns import Columns, in_tuples
from contrastive.data.images import SUFFIXES, images_below
from contrastive.data.storage.folders import first_of, is_hidden, readable_folder
from contrastive.datasets.captions.table import Codes
from contrastive.datasets.class_names import tell_of_alike
from contrastive.datasets.known_files import caption_table
from contrastive.datasets.quoting import name_list, quoted
from contrastive.datasets.single_modality import filled, wanted_splits
from contrastive.datasets.splits import SPLITS, one_of, split_named, split_of, tell_of_others
from contrastive.errors import DataError
from contrastive.prompts import tell_of_names
from contrastive.prompts.class_sets import class_set

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.datasets import ClassFolders, Purpose


def read(config: ClassFolders, split: str, *, purpose: Purpose) -> Columns:
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
    numbers = array("i")
    label_codes = array("i")
    labels: dict[str, str] = {}
    called = _names_of_set(config, folder, homes, places) if config.classes else {}
    codes = Codes()
    spellings: dict[str, dict[str, None]] = {}
    for number, place in enumerate(places):
        top, _, rest = place.partition("/")
        home = homes.get(top) if rest else None
        if homes and home is None:
            continue  # beside the folders of the splits
        below = rest if home else place
        name = normalize("NFC", below.rpartition("/")[0])
        label = called.get(name) or name.replace("_", " ").strip()
        labels.setdefault(label, place)
        spellings.setdefault(label, {})[name] = None
        if (home or split_of(place, config.holdout)) in wanted:
            numbers.append(number)
            label_codes.append(codes[label] if label else -1)
    if len(labels) > 1 and "" in labels:
        say(f"{folder}: {labels['']} is in no folder of a class, so that there are no classes")
    classes = () if "" in labels else tuple(sorted(labels))
    tell_of_alike(classes, folder)
    if merged := [names for names in spellings.values() if len(names) > 1]:
        more = f" ({len(merged)} such classes in all)" if len(merged) > 1 else ""
        say(f"{folder}: the folders {name_list(merged[0])} are one class{more}")
    names = Strings.of(places)
    number_N = np.array(numbers, np.int32)
    code_M = np.full(len(places), -1, np.int32)
    code_M[number_N] = label_codes
    columns: dict[str, Column] = {
        "image": FilePaths(folder, names),
        "id": Integers(np.arange(len(places), dtype=np.int32)),
        "source": names,
    }
    if codes:
        columns["label"] = Coded(Objects([*codes]), code_M)
    rows = Columns(columns, number_N, BadRows(budget=config.max_bad), classes)
    if config.captions and purpose == "training":
        tell_of_names(classes, config.captions)
        columns |= _captions(rows, config.captions, folder) if len(rows) else {}
    return filled(rows, split, folder)


def _names_of_set(
    config: ClassFolders, folder: Path, homes: dict[str, str], places: Sequence[str]
) -> dict[str, str]:
    """Return the name of the class of each folder, by the set of ``config.classes``."""
    parts = [place.partition("/") for place in places] if homes else []
    below = [rest for top, _, rest in parts if top in homes] if homes else places
    names = dict.fromkeys(normalize("NFC", place.rpartition("/")[0]) for place in below)
    names.pop("", None)  # of an image in no folder
    return class_set(config.classes or "").names_of([*names], folder)


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


def _captions(rows: Columns, captions: Sequence[str], folder: Path) -> dict[str, Column]:
    """Return a caption of each row's class; rows with equal captions have to have equal ids."""
    if not rows.classes:
        msg = f"{folder}: some images are in no folder of a class, so that captions cannot name one"
        raise DataError(msg)
    numbers = {name: i for i, name in enumerate(rows.classes)}
    found = Codes()
    count = len(rows.columns["source"])
    code_M, id_M = np.full(count, -1, np.int32), np.zeros(count, np.int32)
    labelled = chain.from_iterable(in_tuples(rows, ("source", "label")))
    for row, (place, label) in zip(rows.rows_N.tolist(), labelled, strict=True):
        code_M[row] = found[one_of(captions, place).replace("{}", label)]
        id_M[row] = numbers[label]
    return {"id": Integers(id_M), "text": Coded(Strings.of(found), code_M)}
