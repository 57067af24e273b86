"""Trackio."""

from __future__ import annotations

from typing import Any

from contrastive.config.extras import require
from contrastive.recipe.callback import Callback, Metrics, RunInfo


class TrackioCallback(Callback):
    """Logs to a run there; a resumed run begins a new one, since steps cannot be taken back."""

    def __init__(self, project: str, space: str | None) -> None:
        """Take the place of the run."""
        self._project, self._space = project, space
        self._run: Any = None

    def on_start(self, run: RunInfo) -> None:
        """Begin a run."""
        before = run.state.get("name") if run.step else None
        name = f"{before.partition(' from ')[0]} from {run.step}" if before else run.name
        self._run = require("trackio", extra="trackio").init(
            project=self._project,
            name=name,
            group=run.name,
            space_id=self._space,
            config=run.spec | ({"resumed_from": before, "resumed_at": run.step} if before else {}),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        run.state["name"] = self._run.name
        if before:
            run.tell(f"cannot take back steps: run {self._run.name!r} goes on from {before!r}")

    def on_step(self, step: int, metrics: Metrics) -> None:
        """Log each metric."""
        self._run.log({f"training/{name}": x for name, x in metrics.items()}, step=step)

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        """Log each metric."""
        self._run.log({f"evaluation/{name}": x for name, x in metrics.items()}, step=step)

    def on_end(self) -> None:
        """End the run."""
        if self._run:
            self._run.finish()
