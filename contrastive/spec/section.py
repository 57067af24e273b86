"""What the parts of a spec that are no components have in common."""

from __future__ import annotations

from typing import Self

from contrastive.config import yaml_files
from contrastive.config.base import Config


class Section(Config):
    """A part of a spec that is no component."""

    def with_(self, *overrides: str) -> Self:
        """Return another object, after overrides as on the command line: ``training.epochs=5``.

        Raises:
            SpecError: one line for each mistake.
        """
        return yaml_files.with_overrides(self, *overrides)
