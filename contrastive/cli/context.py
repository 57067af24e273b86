"""What a command works on: the spec, the model and the run that are meant, and their cache."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.errors import DataError, SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.spec import RunSpec


def load_run(path: Path, overrides: list[str] | None = None) -> RunSpec:
    """Load a run's spec."""
    from contrastive.config.yaml_files import load
    from contrastive.spec import RunSpec

    return load(RunSpec, path, overrides or ())


def load_any(path: Path, overrides: list[str] | None) -> Any:
    """Load a run's or a model's spec, whichever the file holds."""
    from contrastive.config.yaml_files import load, read_yaml
    from contrastive.spec import ModelSpec, RunSpec

    is_model = "towers" in read_yaml(path)[0]
    return load(ModelSpec if is_model else RunSpec, path, overrides or ())


def templates_for(sentences: list[str] | None, name: str | None) -> Sequence[str] | None:
    """Return the sentences that are given, or those of the set that is named, or None."""
    if sentences and name:
        msg = f"--templates {name} and --template: give a set or sentences, not both"
        raise SpecError(msg)
    from contrastive.prompts import templates

    return templates(name) if name else sentences


def find_model_folder(model: Path | None) -> Path:
    """Return the folder of the model that is meant."""
    if chosen := model or os.environ.get("CONTRASTIVE_MODEL"):
        return Path(chosen)
    kinds = ("model", "checkpoints")  # a run that failed early has neither
    runs = {path.parent for kind in kinds for path in Path("runs").glob(f"*/{kind}")}
    if not runs:
        msg = "no model: give --model FOLDER, or train one with: contrastive train SPEC.yaml"
        raise WeightsError(msg)
    newest = max(runs, key=lambda path: path.stat().st_mtime)
    from contrastive.console import say

    say(f"model: {newest}")
    return newest


def load(folder: Path, device: str, *, trusted: bool) -> ContrastiveModel:
    """Load a model to a device, which is looked for first."""
    from contrastive.model.loading import load_model
    from contrastive.nn.device import pick_device

    there = pick_device(device)
    return load_model(folder, trusted=trusted).to(there)


def cache_for(folder: Path) -> FeatureCache | None:
    """Return the user's cache, unless the run that made the model went without."""
    from contrastive.config.yaml_files import read_yaml
    from contrastive.features.cache import FeatureCache
    from contrastive.model.loading import find_model

    path = find_model(folder) / "run.json"
    off = path.exists() and read_yaml(path)[0]["training"]["cache"] == "off"
    return None if off else FeatureCache()


def run_of(folder: Path, *, trusted: bool, remedy: str) -> RunSpec:
    """Return the spec of the run that made a model."""
    from contrastive.config.saved_origins import saved_with
    from contrastive.config.yaml_files import load, read_yaml
    from contrastive.model.loading import find_model
    from contrastive.spec import RunSpec

    path = find_model(folder) / "run.json"
    if not path.exists():
        msg = f"{folder}: holds a model without a run, so without data; give {remedy}"
        raise DataError(msg)
    with saved_with(read_yaml(path.with_name("parts.json"))[0].get("components")):
        return load(RunSpec, path, trusted=trusted)
