"""Experiment trackers: the interface, the registry, and what comes built in.

Config classes only; the tracker's package is imported in ``build()``.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator

from contrastive.config.base import Config, PathField
from contrastive.config.bounds import Name
from contrastive.config.registry import Registry
from contrastive.errors import MissingExtra

if TYPE_CHECKING:
    from contrastive.recipe.callback import Callback


class Tracker(Config):
    """Sends a run's metrics to an experiment tracker.

    What it builds is called in a thread of its own. A mistake there is told once and ends nothing.

    Example:
        >>> trackers["tensorboard"]().folder is None
        True
    """

    kind: ClassVar[str] = "tracker"

    def check(self) -> None:
        """Look whether it can be built.

        Raises:
            MissingExtra: its package is not installed; says what to install.
        """

    @abstractmethod
    def build(self) -> Callback:
        """Return what is given the metrics."""


trackers = Registry(Tracker, group="contrastive.trackers")
"""Trackers by the name that a spec gives as ``type``.

Example:
    >>> trackers["wandb"](project="clip").project
    'clip'
"""


def check_installed(module: str, extra: str) -> None:
    """Insist that a library is there, without importing it.

    Raises:
        MissingExtra: it is not; says what to install.
    """
    found = find_spec(module)
    if found is None or found.origin is None:  # a folder of the name, as wandb leaves one
        msg = f'{module} is not installed; run: pip install "contrastive-kit[{extra}]"'
        raise MissingExtra(msg)


def _without_password(address: str) -> str:
    if "@" in address.partition("://")[2].partition("/")[0]:
        msg = "an address with a password would be saved; give it by the tracker's own variables"
        raise ValueError(msg)
    return address


Address = Annotated[Name, AfterValidator(_without_password)]


@trackers.register("tensorboard")
class TensorBoard(Tracker):
    """TensorBoard's event files; a resumed run goes on in them."""

    folder: PathField | None = None
    """Where they go; tensorboard/ in the folder of the run if not given."""

    def check(self) -> None:
        """Look for the package."""
        check_installed("tensorboard", "tensorboard")

    def build(self) -> Callback:
        """Return what writes the files."""
        from contrastive.recipe.trackers.tensorboard import TensorBoardCallback

        return TensorBoardCallback(Path(self.folder) if self.folder else None)


@trackers.register("wandb")
class WandB(Tracker):
    """Weights & Biases, by the login of ``wandb login`` or ``$WANDB_API_KEY``."""

    project: Name = "contrastive"
    """The project there."""
    entity: Name | None = None
    """A user or a team; the default of the login if not given."""
    mode: Literal["online", "offline"] | None = None
    """offline keeps the run on disk for ``wandb sync``; $WANDB_MODE if not given, else online."""

    def check(self) -> None:
        """Look for the package."""
        check_installed("wandb", "wandb")

    def build(self) -> Callback:
        """Return what logs there."""
        from contrastive.recipe.trackers.wandb import WandBCallback

        return WandBCallback(self.project, self.entity, self.mode)


@trackers.register("mlflow")
class MLflow(Tracker):
    """MLflow, by the login in its own environment variables."""

    experiment: Name = "contrastive"
    """The experiment there; it is made if need be."""
    uri: Address | None = None
    """Tracking server or store; $MLFLOW_TRACKING_URI, else MLflow's default if not given."""

    def check(self) -> None:
        """Look for the package."""
        check_installed("mlflow", "mlflow")

    def build(self) -> Callback:
        """Return what logs there."""
        from contrastive.recipe.trackers.mlflow import MLflowCallback

        return MLflowCallback(self.experiment, self.uri)


@trackers.register("trackio")
class Trackio(Tracker):
    """Trackio: a database on this machine, or a Space of the Hugging Face Hub."""

    project: Name = "contrastive"
    """The project there."""
    space: Name | None = None
    """OWNER/NAME of a Space, by the login of the Hub; on this machine if not given."""

    def check(self) -> None:
        """Look for the package."""
        check_installed("trackio", "trackio")

    def build(self) -> Callback:
        """Return what logs there."""
        from contrastive.recipe.trackers.trackio import TrackioCallback

        return TrackioCallback(self.project, self.space)
