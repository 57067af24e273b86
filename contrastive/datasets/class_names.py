"""Names of classes that may be meant to be one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from unicodedata import normalize

from contrastive.console import say
from contrastive.datasets.quoting import name_list

if TYPE_CHECKING:
    from collections.abc import Iterable

SPACES = re.compile(r"[\s_-]+")  # and what stands for one in names of files


def tell_of_alike(classes: Iterable[str], place: object) -> None:
    """Tell of classes that differ in case, spaces or the form of their letters alone.

    They stay what they are: 'turkey' and 'Turkey' are two.

    Example:
        >>> tell_of_alike(["cat", "dog"], "photos")  # silent: no two are alike
    """
    alike: dict[str, list[str]] = {}
    for name in classes:
        letters = normalize("NFKC", normalize("NFKC", name).casefold())
        alike.setdefault(SPACES.sub("", letters), []).append(name)
    if several := [names for names in alike.values() if len(names) > 1]:
        more = f" ({len(several)} such groups in all)" if len(several) > 1 else ""
        say(
            f"{place}: {name_list(several[0])} are {len(several[0])} classes, and differ in case, "
            f"spaces or form alone{more}; if they are one, give all of it one name"
        )
