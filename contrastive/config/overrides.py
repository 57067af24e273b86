"""Overrides of plain data, before it is checked as a spec."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from contrastive.config.arguments import strings
from contrastive.config.yaml_files import set_override
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def overridden(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of plain data after ``a.b=value`` overrides.

    Raises:
        SpecError: one line for each that cannot be applied.
    """
    changed, problems = copy.deepcopy(dict(data)), list[str]()
    for override in strings("overrides", overrides):
        try:
            set_override(changed, override)
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SpecError("\n".join(problems))
    return changed
