"""TensorBoard's event files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.recipe.callback import Callback, Metrics, RunInfo

if TYPE_CHECKING:
    from pathlib import Path


class TensorBoardCallback(Callback):
    """Writes scalars; a resumed run purges those after its checkpoint."""

    def __init__(self, folder: Path | None) -> None:
        """Take the folder of the files; None is one in the run's folder."""
        self._folder = folder
        self._writer: Any = None

    def on_start(self, run: RunInfo) -> None:
        """Open a file beside those of before, whose later steps it declares void."""
        require("tensorboard", extra="tensorboard")
        folder = self._folder / run.name if self._folder else run.folder / "tensorboard"
        purge = run.step + 1 if folder.is_dir() else None
        board = require("torch.utils.tensorboard", extra="tensorboard")
        self._writer = board.SummaryWriter(str(folder), purge_step=purge, flush_secs=10)

    def on_step(self, step: int, metrics: Metrics) -> None:
        """Write each metric."""
        self._write("training", step, metrics)

    def on_evaluation(self, step: int, metrics: Metrics) -> None:
        """Write each metric."""
        self._write("evaluation", step, metrics)
        self._writer.flush()

    def on_end(self) -> None:
        """Close the file."""
        if self._writer:
            self._writer.close()

    def _write(self, group: str, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
