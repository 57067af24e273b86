"""What a verb works on: a spec, or a model with the run that made it and the cache of its features.

Each is found, read and validated once.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.errors import DataError, SpecError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from contrastive.data.samples import Sample, Samples
    from contrastive.features.cache import FeatureCache
    from contrastive.model.checkpoint import SavedFolder
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.clip_benchmark import Subject
    from contrastive.spec import ModelSpec, RunSpec


class Context:
    """The model that a verb is given, the run that made it, and the cache of its features."""

    def __init__(self, model: Path | None, *, device: str = "auto", trusted: bool = False) -> None:
        """Take the model of ``--model``, else of ``$CONTRASTIVE_MODEL``, else the newest run."""
        self.folder = _named_model(model)
        self._device = device
        self._trusted = trusted

    @cached_property
    def device(self) -> torch.device:
        """The device of ``--device``."""
        from contrastive.nn.device import pick_device

        return pick_device(self._device)

    @cached_property
    def saved(self) -> SavedFolder | None:
        """The folder with the model's files; None for a pretrained model."""
        from contrastive.model.checkpoint import open_folder
        from contrastive.model.loading import find_model
        from contrastive.pretrained import is_pretrained

        return None if is_pretrained(self.folder) else open_folder(find_model(self.folder))

    @cached_property
    def model(self) -> ContrastiveModel:
        """The model, on its device."""
        from contrastive.model.loading import load_model, load_saved

        device = self.device  # a mistake in --device is told before weights are read
        if self.saved is None:
            return load_model(self.folder).to(device)
        return load_saved(self.saved, self._spec).to(device)

    @cached_property
    def _spec(self) -> ModelSpec:
        from contrastive.model.loading import stored_spec
        from contrastive.spec import ModelSpec

        assert self.saved
        if run := self.__dict__.get("_run"):  # spec.json repeats a part of run.json
            return run.model
        return stored_spec(ModelSpec, self.saved, "spec.json", trusted=self._trusted)

    @property
    def has_run(self) -> bool:
        """Whether a run made the model, so that there are data."""
        return self.saved is not None and "run.json" in self.saved.files

    @cached_property
    def _run(self) -> RunSpec | None:
        from contrastive.model.loading import stored_spec
        from contrastive.spec import RunSpec

        if self.saved is None or not self.has_run:
            return None
        known = {"model": self._spec} if "_spec" in self.__dict__ else {}
        return stored_spec(RunSpec, self.saved, "run.json", trusted=self._trusted, **known)

    def run(self, *, remedy: str) -> RunSpec:
        """Return the spec of the run that made the model.

        Raises:
            DataError: no run did; ``remedy`` names the option that gives other data.
        """
        if self._run is None:
            msg = f"{self.folder}: holds a model without a run, so without data; give {remedy}"
            raise DataError(msg)
        return self._run

    def samples(self, split: str | None, *, remedy: str) -> Samples:
        """Return a split of the run's data; the final one if None."""
        run = self.run(remedy=remedy)
        return run.data.build(split or run.evaluation.final_split)

    def rows(self, split: str | None, *, remedy: str) -> list[Sample]:
        """Return the rows of ``samples``."""
        from contrastive.data.samples import rows_of

        return rows_of(self.samples(split, remedy=remedy))

    @cached_property
    def cache(self) -> FeatureCache | None:
        """The user's feature cache; None if the run that made the model went without."""
        from contrastive.features.cache import FeatureCache

        # not validated: the run's data may need a plugin that the model does not
        run: dict[str, Any] = self.saved.json("run.json") if self.saved and self.has_run else {}
        return None if run.get("training", {}).get("cache") == "off" else FeatureCache()

    def subject(self, dataset: str, split: str) -> Subject:
        """Return what is measured, as CLIP_benchmark names it."""
        from contrastive.reporting.clip_benchmark import Subject

        weights = self.saved.path.name if self.saved else self.folder.name
        return Subject(dataset, model=str(self.folder), pretrained=weights, split=split)


def _named_model(model: Path | None) -> Path:
    """Return the model that is meant: the one that is given, else the newest run in runs/."""
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


def load_run(path: Path, overrides: list[str] | None = None) -> RunSpec:
    """Load a run's spec."""
    from contrastive.config.yaml_files import load_spec
    from contrastive.spec import RunSpec

    return load_spec(RunSpec, path, overrides or ())


def load_any(path: Path, overrides: list[str] | None) -> Any:
    """Load a run's or a model's spec, whichever the file holds."""
    from contrastive.config.yaml_files import load_spec
    from contrastive.spec import kind_of_spec

    return load_spec(kind_of_spec, path, overrides or ())


def templates_for(sentences: list[str] | None, name: str | None) -> Sequence[str] | None:
    """Return the templates that are given, or those of the set that is named, or None."""
    if sentences and name:
        msg = f"--templates {name} and --template: give a set or sentences, not both"
        raise SpecError(msg)
    from contrastive.prompts import templates

    return templates(name) if name else sentences


def names_in(text: str | None) -> list[str]:
    """Return names that are joined by commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
