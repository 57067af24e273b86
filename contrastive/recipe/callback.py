"""What is called while a model trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Metrics = dict[str, float]


@dataclass(frozen=True)
class RunInfo:
    """The run that a callback is called in.

    Example:
        >>> run = RunInfo("clip", Path("runs/clip"), spec={}, step=0, model=model)
        >>> run.name
        'clip'
    """

    name: str
    """Name of its folder."""
    folder: Path
    spec: dict[str, Any]
    """The run's spec, as plain data."""
    step: int
    """Steps that are done: 0, or those of the checkpoint from which the run goes on."""
    model: Any
    """The model that trains; None for a tracker."""
    state: dict[str, str] = field(default_factory=dict[str, str])
    """Of a tracker: what it puts here in ``on_start`` is here again when the run is resumed."""
    tell: Callable[[str], None] = print
    """Shows a line to the user."""


class Callback:
    """Is called while a model trains, on the main rank; each method may be left out.

    The log has the same numbers, and is written first.

    Example:
        >>> class Losses(Callback):
        ...     def __init__(self):
        ...         self.losses = []
        ...
        ...     def on_step(self, step, metrics):
        ...         self.losses.append(metrics["loss"])
        >>> losses = Losses()
        >>> losses.on_step(1, {"loss": 2.3, "lr": 1e-3})
        >>> losses.losses
        [2.3]
    """

    def on_start(self, run: RunInfo) -> None:
        """Come before the first step, or the first after a checkpoint."""

    def on_step(self, step: int, metrics: Metrics) -> None:
        """Get the numbers of a step: ``epoch``, ``loss``, ``lr``, ``grad_norm``, the loss's own.

        That is once they have left the device, a step late.
        """

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        """Get the numbers of an evaluation, such as ``image_to_text.R@1``."""

    def on_end(self) -> None:
        """Come last, also when the run is interrupted or fails."""
