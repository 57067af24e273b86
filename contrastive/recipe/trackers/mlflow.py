"""MLflow, by its client: the run that is active in a notebook is left alone."""

from __future__ import annotations

import json
import time
from typing import Any

from contrastive.config.extras import require
from contrastive.recipe.callback import Callback, Metrics, RunInfo

LONGEST = 500  # characters of a parameter, of which MLflow takes 6,000


class MLflowCallback(Callback):
    """Logs to a run there.

    A resumed run goes on in it if it has no later steps, which cannot be taken back; else in a new
    one.
    """

    def __init__(self, experiment: str, uri: str | None) -> None:
        """Take the place of the run."""
        self._experiment, self._uri = experiment, uri
        self._client: Any = None
        self._id = ""

    def on_start(self, run: RunInfo) -> None:
        """Begin a run, or take up the one of before."""
        self._client = client = require("mlflow", extra="mlflow").MlflowClient(self._uri)
        before = run.state.get("id") if run.step else None
        if before and self._last_step(before) <= run.step:
            self._id = before
            client.update_run(before, status="RUNNING")
            return
        found = client.get_experiment_by_name(self._experiment)
        number = found.experiment_id if found else client.create_experiment(self._experiment)
        tags = {"resumed_from": before, "resumed_at": str(run.step)} if before else {}
        made = client.create_run(number, tags=tags, run_name=run.name)
        self._id = run.state["id"] = made.info.run_id
        for name, value in run.spec.items():
            client.log_param(self._id, name, json.dumps(value)[:LONGEST])
        if before:
            run.tell(f"cannot take back steps: run {self._id} goes on from {before}")

    def on_step(self, step: int, metrics: Metrics) -> None:
        """Log each metric."""
        self._log("training", step, metrics)

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        """Log each metric."""
        self._log("evaluation", step, metrics)

    def on_end(self) -> None:
        """End the run."""
        if self._id:
            self._client.set_terminated(self._id)

    def _last_step(self, run_id: str) -> int:
        """Return the last step of a run: an evaluation may come after the last line of a step."""
        client = self._client
        names = client.get_run(run_id).data.metrics
        steps = (one.step for name in names for one in client.get_metric_history(run_id, name))
        return max(steps, default=0)

    def _log(self, group: str, step: int, metrics: Metrics) -> None:
        entity = require("mlflow.entities", extra="mlflow").Metric
        now = int(1000 * time.time())
        several = [
            entity(f"{group}/{name.replace('@', '_at_')}", x, now, step)  # it takes no @
            for name, x in metrics.items()
        ]
        self._client.log_batch(self._id, metrics=several)
