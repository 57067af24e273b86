"""Names of splits, and the split of a sample whose data do not say."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from contrastive.console import say
from contrastive.data.storage.folders import first_of
from contrastive.datasets.quoting import name_list, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

SPLITS = ("train", "val", "test")
"""The names of splits.

Example:
    >>> SPLITS
    ('train', 'val', 'test')
"""


GAP = "{split}"
"""What stands in a path for the name of a split."""

SPLIT_ALIASES = {
    "training": "train",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "testing": "test",
}
"""Other names of splits that data in the wild have, and which one each stands for.

Example:
    >>> SPLIT_ALIASES["dev"]
    'val'
"""


def split_named(name: str) -> str | None:
    """Return the split that a name stands for, in whichever case; None if it is no split's.

    Example:
        >>> split_named("Validation"), split_named("cats")
        ('val', None)
    """
    name = name.lower()
    return name if name in SPLITS else SPLIT_ALIASES.get(name)


def those_there(unknown: Iterable[str], known: Collection[str]) -> str:
    """Say which splits there are, and which one is probably meant by another name.

    Example:
        >>> those_there({"validation"}, ("train", "val"))
        "there are: 'train', 'val'; did you mean 'val'?"
    """
    named = [split for name in sorted(unknown) if (split := split_named(name))]
    meant = [split for split in named if split in known]
    hint = f"; did you mean {quoted(meant[0])}?" if meant else ""
    return f"there are: {name_list(sorted(known))}{hint}"


def split_folders(folder: Path) -> dict[str, str]:
    """Return the split of each folder in a folder that is named like one, in the usual order."""
    found = {path.name: split_named(path.name) for path in folder.iterdir() if path.is_dir()}
    named = [(name, split) for name, split in found.items() if split]
    return dict(sorted(named, key=lambda each: (SPLITS.index(each[1]), each[0])))


def tell_of_others(folder: Path, places: Sequence[str]) -> None:
    """Tell of images in no folder of a split, where there are such folders."""
    if places:
        say(f"{folder}: {first_of(places)}: beside the folders of splits, left out")


def split_of(key: str, holdout: float) -> str:
    """Return the split of an image or a group: the same on every machine, whatever else there is.

    Args:
        key: the image's path or the group's name.
        holdout: the share of keys in val, and again in test.

    Example:
        >>> split_of("cats/1.png", holdout=0.1)
        'test'
    """
    share = split_hash(key) / 2**64
    return "test" if share < holdout else "val" if share < 2 * holdout else "train"


def split_hash(key: str) -> int:
    """Return the number below 2 to the 64 that ``split_of`` divides keys by."""
    return int.from_bytes(_hash(key)[:8], "big")


def one_of(choices: Sequence[str], key: str) -> str:
    """Return the choice of a key: always the same, and whatever the key's split.

    Example:
        >>> one_of(["a {}", "{}"], "cats/1.png")
        '{}'
    """
    return choices[int.from_bytes(_hash(key)[8:16], "big") % len(choices)]


def _hash(key: str) -> bytes:
    try:
        encoded = key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as "\ud800" in JSON; its row will be a fault
        encoded = key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(encoded).digest()
