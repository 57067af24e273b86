"""What a verb works on: a spec, or a model with the run that made it and the cache of its features.

Each is found, read and validated once.
"""

from __future__ import annotations

import csv
import os
import re
from difflib import get_close_matches
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.arguments import address_in, path_of
from contrastive.config.local_files import ADDRESS
from contrastive.console import quiet, say, say_omission
from contrastive.errors import DataError, SpecError, UnknownSplit, WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from contrastive.data.samples import Sample, Samples
    from contrastive.datasets import Dataset, SplitReader
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.model.saved_folder import SavedFolder
    from contrastive.reporting.clip_benchmark import Subject
    from contrastive.spec import EvaluationSpec, ModelSpec, RunSpec


SPECS = (".yaml", ".yml", ".json")
PATTERN = re.compile(r"[*?\[{]")  # what a place has that stands for several
MANY = 100  # images, of which to check one by one is shown


class Context:
    """The model that a verb is given, the run that made it, and the cache of its features."""

    def __init__(
        self,
        model: Path | None,
        *,
        device: str = "auto",
        trusted: bool = False,
        changes: Sequence[str] | None = None,
    ) -> None:
        """Take the model of ``--model``, else of ``$CONTRASTIVE_MODEL``, else the newest run.

        ``changes`` are those of ``--set`` to its saved spec.
        """
        self.folder = _named_model(model)
        self._device = device
        self._trusted = trusted
        self._changes = tuple(changes or ())
        self._reader: tuple[RunSpec, SplitReader] | None = None
        """Of the data that were read last: what their splits share is read once."""

    def again(self) -> Callable[[], Context]:
        """Return what makes this context in another process, too; it can be pickled."""
        about = {"device": self._device, "trusted": self._trusted, "changes": self._changes}
        return partial(Context, self.folder, **about)

    @cached_property
    def device(self) -> torch.device:
        """The device of ``--device``."""
        from contrastive.nn.device import pick_device

        return pick_device(self._device)

    @cached_property
    def saved(self) -> SavedFolder | None:
        """The folder with the model's files; None for a pretrained model."""
        from contrastive.model.loading import find_model, saved_place
        from contrastive.model.saved_folder import open_folder

        place = saved_place(self.folder)
        return None if place is None else open_folder(find_model(place))

    @cached_property
    def model(self) -> ContrastiveModel:
        """The model, on its device."""
        from contrastive.model.loading import load_model, load_saved

        device = self.device  # a mistake in --device is told before weights are read
        if self.saved is None:
            return load_model(self.folder, overrides=self._changes).to(device)
        return load_saved(self.saved, self.spec).to(device)

    @cached_property
    def spec(self) -> ModelSpec:
        """The spec of the model."""
        from contrastive.model.loading import stored_spec
        from contrastive.pretrained import pretrained_spec
        from contrastive.spec import ModelSpec

        if self.saved is None:
            spec = pretrained_spec(self.folder)
            return spec.with_(*self._changes) if self._changes else spec
        if (run := self.__dict__.get("_run")) and not self._changes:
            return run.model  # spec.json repeats a part of run.json
        about: dict[str, Any] = {"trusted": self._trusted, "overrides": self._changes}
        return stored_spec(ModelSpec, self.saved, "spec.json", **about)

    @property
    def has_run(self) -> bool:
        """Whether a run made the model, so that there are data."""
        return self.saved is not None and "run.json" in self.saved.files

    @cached_property
    def _run(self) -> RunSpec | None:
        from contrastive.model.loading import stored_data, stored_spec
        from contrastive.spec import RunSpec

        if self.saved is None or not self.has_run:
            return None
        known: dict[str, Any] = {"data": stored_data(self.saved)}
        if self._changes or "spec" in self.__dict__:
            known["model"] = self.spec
        return stored_spec(RunSpec, self.saved, "run.json", trusted=self._trusted, **known)

    def run(self, data: str | None = None, *, remedy: str = "--data") -> RunSpec:
        """Return the run whose data are used: that of ``--data``, else the one behind the model.

        A dataset that ``--data`` gives is measured as the model's own run says.

        Raises:
            DataError: no run made the model; ``remedy`` names the option that gives data.
        """
        if data is None:
            if self._run is None:
                msg = f"{self.folder}: holds a model without a run, so without data; give {remedy}"
                raise DataError(msg)
            return self._run
        from contrastive.spec import RunSpec

        named = named_data(data, trusted=self._trusted)
        if isinstance(named, RunSpec):
            return named
        return RunSpec(model=self.spec, data=named, evaluation=self.evaluation)

    @property
    def evaluation(self) -> EvaluationSpec:
        """How the run that made the model measures; the default if none did."""
        from contrastive.model.loading import stored_section
        from contrastive.spec import EvaluationSpec

        if self.saved is None or not self.has_run:
            return EvaluationSpec()
        return stored_section(EvaluationSpec, self.saved, "run.json", "evaluation")

    def samples(self, split: str | None, data: str | None = None, *, remedy: str) -> Samples:
        """Return a split of the data; the final one if None."""
        run = self.run(data, remedy=remedy)
        return self.build(run, split or run.evaluation.final_split, remedy=remedy)

    def build(
        self, run: RunSpec, split: str, *, remedy: str = "--data", option: str = "--split"
    ) -> Samples:
        """Return a split of a run's data, which ``option`` chooses.

        Raises:
            DataError: they cannot be read; ``remedy`` names the option that gives others, if they
                are those of the model and no longer where they were.
        """
        from contrastive.datasets.built_split import split_reader

        if self._reader is None or self._reader[0] is not run:
            self._reader = run, split_reader(run.data)
        try:
            return self._reader[1](split)
        except UnknownSplit as error:
            msg = f"{error}; choose one by {option}"
            raise DataError(msg) from error
        except DataError as error:
            if run is not self._run or not _is_gone(run.data):
                raise
            msg = f"{error}; {self.folder} was trained on these data; give them by {remedy}"
            raise DataError(msg) from None

    def rows(self, split: str | None, data: str | None = None, *, remedy: str) -> Sequence[Sample]:
        """Return the rows of ``samples``."""
        from contrastive.data.samples import rows_of

        return rows_of(self.samples(split, data, remedy=remedy))

    @property
    def _stored_run(self) -> dict[str, Any]:
        """The file of the run that made the model, not validated; empty if none did.

        Its data may need a plugin that the model does not.
        """
        return self.saved.json("run.json") if self.saved and self.has_run else {}

    @cached_property
    def cache(self) -> FeatureCache | None:
        """The user's feature cache; None if the run that made the model went without."""
        from contrastive.features.cache import FeatureCache

        off = self._stored_run.get("training", {}).get("cache") == "off"
        return None if off else FeatureCache()

    def subject(self, dataset: str, split: str) -> Subject:
        """Return what is measured, as CLIP_benchmark names it."""
        from contrastive.reporting.clip_benchmark import Subject

        weights = self.saved.path.name if self.saved else self.folder.name
        return Subject(dataset, model=str(self.folder), pretrained=weights, split=split)


def _is_gone(data: Dataset) -> bool:
    """Whether a file or folder that a dataset names is not there; of a pattern, nobody knows."""
    places = [getattr(data, name, None) for name in ("folder", "file", "files", "shards")]
    return any(
        isinstance(place, Path) and not (place.exists() or PATTERN.search(str(place)))
        for place in places
    )


def _named_model(model: Path | None) -> Path:
    """Return the model that is meant: the one that is given, else the newest run in runs/."""
    chosen = os.environ.get("CONTRASTIVE_MODEL")
    if address := address_in("the model", model or chosen or ""):
        from contrastive.model.remote_models import fetched

        folder = fetched(address)
        say(f"{address}: its copy is {folder}")
        return folder
    if model is not None:
        return model
    if chosen:
        from contrastive.pretrained import is_pretrained

        return Path(chosen) if is_pretrained(chosen) else path_of("$CONTRASTIVE_MODEL", chosen)
    kinds = ("model", "checkpoints")  # a run that failed early has neither
    runs = {path.parent for kind in kinds for path in Path("runs").glob(f"*/{kind}")}
    if not runs:
        msg = "no model: give --model FOLDER, or train one with: contrastive train SPEC.yaml"
        raise WeightsError(msg)
    newest = max(runs, key=lambda run: (_last_written(run), run.stat().st_mtime))
    say(f"model: {newest}")
    return newest


def _last_written(run: Path) -> float:
    """Return when a run last wrote a model; other files in its folder do not count."""
    from contrastive.model.run_checkpoints import checkpoints_of

    models = [run / "model", *checkpoints_of(run)]
    return max((model.stat().st_mtime for model in models if model.exists()), default=0.0)


def named_data(text: str, *, trusted: bool = False) -> RunSpec | Dataset:
    """Return what ``--data`` names: the run of a spec, or a dataset.

    A spec that was saved with a model or a run names import paths only if it is ``trusted``.

    Raises:
        DataError: a folder with nothing that is known.
        SpecError: the spec or the fields have mistakes.
    """
    if not text.strip():
        msg = "--data: is empty; give a spec, a folder, or type=...,folder=..."
        raise DataError(msg)
    if "=" not in text and (ADDRESS.match(text) or PATTERN.search(text)):
        from contrastive.datasets.bare_folder import dataset_named

        if not Path(text).exists() and (dataset := dataset_named(text)):
            return _taken(text, dataset)
    path = Path(text) if "=" in text else path_of("--data", text)
    if path.is_dir():
        from contrastive.datasets.bare_folder import dataset_in

        return _taken(text, dataset_in(path))
    if path.is_file() and path.suffix not in SPECS:
        from contrastive.datasets.bare_folder import dataset_of

        if dataset := dataset_of(path):
            return _taken(text, dataset)
        lines = f"for a text a line, give type=lines,file={text}"
        other = lines if path.suffix.lower() == ".txt" else "give the folder that it is in"
        msg = f"--data {text}: is no spec (.yaml, .json); {other}"
        raise DataError(msg)
    if "=" not in text or path.is_file():
        return load_run(path, trusted=trusted)
    from contrastive.config.yaml_files import load_fields
    from contrastive.datasets import Dataset

    fields = re.split(r",(?=\w+=)", text)  # a value may hold commas
    try:
        return load_fields(Dataset, text, fields)
    except SpecError as error:
        lines = [line.removeprefix("override ") for line in str(error).splitlines()]
        raise SpecError("\n".join(f"--data: {line}" for line in lines)) from None


def _taken(text: str, dataset: Dataset) -> Dataset:
    say(f"{text}: taken as data.type={dataset.registry.name_of(type(dataset))}")
    return dataset


def load_run(path: Path, overrides: list[str] | None = None, *, trusted: bool = False) -> RunSpec:
    """Load a run's spec.

    Raises:
        SpecError: one line for each mistake; or the file describes a model alone.
    """
    from contrastive.spec import require_run

    return require_run(load_any(path, overrides, trusted=trusted), f"{path}: ")


def load_any(path: Path, overrides: list[str] | None, *, trusted: bool) -> Any:
    """Load a run's or a model's spec, whichever the file holds.

    One that was saved with a model or a run names import paths only if it is ``trusted``.
    """
    if "=" in path.name and not path.exists():
        msg = f"{path}: is an override; give the spec before it: SPEC.yaml {path}"
        raise SpecError(msg)
    from contrastive.config.yaml_files import load_spec
    from contrastive.spec import kind_of_spec

    return load_spec(kind_of_spec, path, overrides or (), trusted=trusted or None)


def templates_for(sentences: list[str] | None, name: str | None) -> Sequence[str] | None:
    """Return the templates that are given, or those of the set that is named, or None."""
    if sentences and name:
        msg = f"--templates {name} and --template: give a set or sentences, not both"
        raise SpecError(msg)
    from contrastive.prompts import templates

    return templates(name) if name else sentences


def names_in(text: str | None) -> list[str]:
    """Return names that are joined by commas; one with a comma in it stands in double quotes."""
    rows = csv.reader((text or "").splitlines(), skipinitialspace=True)
    return [name.strip() for row in rows for name in row if name.strip()]


def classes_in(text: str | None, file: Path | None) -> list[str]:
    """Return the names of classes, of --classes or the lines of --classes-file.

    One name alone may be that of a set, such as imagenet.

    Raises:
        SpecError: both are given.
        DataError: the file cannot be read, or has no names, or one that is no text.
    """
    if text is not None and file:
        msg = "--classes and --classes-file: give one of them"
        raise SpecError(msg)
    if not file:
        names = names_in(text)
        if len(names) == 1 and (path := Path(names[0].removeprefix("@"))).is_file():
            say(f"--classes: {names[0]} is taken as a name; to read it, --classes-file {path}")
        return _of_set(names[0]) if len(names) == 1 else names
    from contrastive.datasets.tables.text_decoding import read_lines, text_problem

    names = {n: line.strip() for n, line in enumerate(read_lines(file), 1) if line.strip()}
    for number, name in names.items():
        if flaw := text_problem(name):  # without a class, the others would be likelier
            msg = f"{file}:{number}: the name {flaw}"
            raise DataError(msg)
    return [*names.values()]


def _of_set(name: str) -> list[str]:
    """Return the names of the set that a name is of, or the name."""
    from contrastive.prompts.class_sets import CLASS_SETS, class_names

    if name not in CLASS_SETS:
        if close := get_close_matches(name.casefold(), CLASS_SETS, n=1, cutoff=0.7):
            say(f"--classes {name}: taken as a name; the set is --classes {close[0]}")
        return [name]
    names = class_names(name)
    say(f"--classes {name}: the {len(names):,} classes of that set; --classes-file takes a name")
    return [*names]


def readable_images(images: list[Path]) -> list[Path]:
    """Return the images that can be read; each other one is told, and the exit code will be 3.

    Raises:
        DataError: none can be read.
    """
    from contrastive.data.decodable import undecodable

    with quiet(len(images) < MANY):  # progress of a moment is noise
        problems = undecodable(images)
    if len(problems) == len(images):
        raise DataError(next(iter(problems.values())))
    for problem in problems.values():
        say_omission(f"{problem}; left out")
    return [image for i, image in enumerate(images) if i not in problems]
