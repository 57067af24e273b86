"""Weights & Biases."""

from __future__ import annotations

import os
from typing import Any

from contrastive.config.extras import require
from contrastive.errors import TrainingError
from contrastive.recipe.callback import Callback, Metrics, RunInfo


class WandBCallback(Callback):
    """Logs to a run there; a resumed run begins a new one, since steps cannot be taken back."""

    def __init__(self, project: str, entity: str | None, mode: str | None) -> None:
        """Take the place of the run."""
        self._place: dict[str, Any] = {"project": project, "entity": entity, "mode": mode}
        self._run: Any = None

    def on_start(self, run: RunInfo) -> None:
        """Begin a run.

        Raises:
            TrainingError: there is no login.
        """
        wandb = require("wandb", extra="wandb")
        mode = self._place["mode"] or os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not wandb.login(prompt=False):
            msg = "no login: run `wandb login`, or set mode: offline"
            raise TrainingError(msg)
        before = run.state.get("id") if run.step else None
        self._run = wandb.init(
            **self._place | {"mode": mode},
            name=run.name,
            group=run.name,
            dir=str(run.folder),
            config=run.spec | ({"resumed_from": before, "resumed_at": run.step} if before else {}),
            notes=f"goes on from step {run.step} of run {before}" if before else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                finish_timeout=30,
                finish_timeout_raises=False,
            ),
        )
        run.state["id"] = self._run.id
        if before:
            run.tell(f"cannot take back steps: run {self._run.id} goes on from {before}")

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
