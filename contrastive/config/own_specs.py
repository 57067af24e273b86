"""What only the user's own spec may say, not one that came with a model."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from contrastive.config.registry import paths_allowed


def _of_own_spec(given: bool) -> bool:
    if given and not paths_allowed():
        msg = "only your own spec may say so; if this one is yours, add --trusted (trusted=True)"
        raise ValueError(msg)
    return given


OwnSwitch = Annotated[bool, AfterValidator(_of_own_spec)]
"""True in the user's own spec alone."""
