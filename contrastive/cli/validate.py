"""``contrastive validate``."""

from __future__ import annotations

from contrastive.cli.context import load_any
from contrastive.cli.options import Json, Overrides, SpecFile
from contrastive.cli.output import show


def validate(spec: SpecFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a spec without building anything."""
    run = load_any(spec, overrides)
    show(run.model_dump(mode="json"), as_json, f"{spec}: ok")
