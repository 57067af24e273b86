"""What a run writes between its steps: checkpoints, and the evaluation of each epoch.

The log is on the disk before the checkpoint that counts its lines. Neither the evaluation nor the
doctor's check ends a run: what is left of them, since they failed or the run ended, is done by the
resumed run, from the checkpoint of that step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.foreign_errors import foreign_error
from contrastive.console import say, tell
from contrastive.data.worker_processes import worker_count
from contrastive.distributed.collectives import LostRank
from contrastive.distributed.heartbeat import now
from contrastive.distributed.sharding import whole_weights
from contrastive.distributed.shared_work import work_shared_by
from contrastive.errors import TrainingError
from contrastive.evaluation.evaluate import evaluate
from contrastive.model.run_checkpoints import checkpoint_folder
from contrastive.nn.modes import embedding_in
from contrastive.nn.rng import RngState
from contrastive.nn.sharded_tensors import has_shards
from contrastive.training.background import BackgroundJobs
from contrastive.training.built import autocast_dtype
from contrastive.training.checkpoints import Progress, save_progress, save_step
from contrastive.training.health_check import check_up, geometry_at_start, gradients, tell_of_start

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.distributed.ranks import Ranks
    from contrastive.evaluation.evaluate import EvaluationReport
    from contrastive.features.cache import FeatureCache
    from contrastive.model.model import ContrastiveModel
    from contrastive.reporting.run_log import Log
    from contrastive.spec import RunSpec
    from contrastive.training.batches import TrainingBatches
    from contrastive.training.fp16_scaling import LossScale
    from contrastive.training.step_log import StepLog


@dataclass
class Recorder:
    """Writes for the main rank; all ranks measure, and wait for what it writes."""

    folder: Path
    spec: RunSpec
    model: ContrastiveModel
    optimizer: torch.optim.AdamW
    batches: TrainingBatches
    held_out: Samples | None
    cache: FeatureCache | None
    ranks: Ranks
    unmeasured: list[str]
    """Gets a line for each epoch that could not be measured."""
    loss_scale: LossScale | None = None
    """Of a run in fp16."""
    background: BackgroundJobs = field(default_factory=BackgroundJobs)
    """Writes checkpoints while the run goes on."""
    changed: Callable[[], None] = field(default=lambda: None)
    """Is called when the log has begun, and when a checkpoint is on the disk."""
    best: dict[str, float] = field(default_factory=dict[str, float])
    """``step`` and ``value`` of the best evaluation so far, if the spec asks for it."""

    def begin(self, log: Log, progress: Progress) -> None:
        """Do what precedes the next step: of a new run, or left of the one that is resumed."""
        self.best = progress.best
        if progress.step:
            self._take_up(log, progress)
        else:
            self._note_start(log)
        self.changed()

    def _note_start(self, log: Log) -> None:
        """Note how the embeddings lie before the first step: what a collapse is judged against."""
        if self.held_out is not None:
            try:
                with self._embedding():
                    lie = geometry_at_start(self.model, self.held_out, self.cache)
            except LostRank:
                raise
            except Exception as error:  # hours of training are worth more
                tell(error, f"the embeddings before the first step are not measured: {error}")
            else:
                if self.ranks.is_main:
                    log.note({"step": 0, "epoch": 0.0, "start": {"geometry": lie}})
                    self._tell_of_start(log)
        self.ranks.barrier()

    def _tell_of_start(self, log: Log) -> None:
        try:
            tell_of_start(log)
        except Exception as error:  # hours of training are worth more
            tell(error, f"the embeddings before the first step are not judged: {error}")

    def is_due(self, done: int) -> bool:
        """Whether it is time for a checkpoint."""
        every = self.spec.training.checkpoint_every
        return done % self.batches.steps_per_epoch == 0 or bool(every and done % every == 0)

    def after_step(self, step_log: StepLog, done: int, *, stop: bool) -> None:
        """Save if it is time, or the run stops; measure at the end of an epoch."""
        self.background.check()
        if not (stop or self.is_due(done)):
            return
        end_of_epoch = done % self.batches.steps_per_epoch == 0
        step_log.settle()
        progress = Progress(done)
        if self.ranks.is_main or has_shards(self.model):
            progress = self._save(None if stop else self.background, step_log.log, done)
        if end_of_epoch and not stop:
            self._measure(step_log.log, progress)
        self.ranks.barrier()

    def save_once(self, step_log: StepLog, done: int) -> None:
        """Save a step that is done, unless it is saved; the other ranks may be elsewhere.

        Raises:
            TrainingError: it cannot be saved without them.
        """
        if has_shards(self.model):
            if checkpoint_folder(self.folder, done).exists():  # all ranks wrote it in its step
                return
            msg = "each rank holds a shard of the weights; the run goes on from its last checkpoint"
            raise TrainingError(msg)
        step_log.settle(alone=True)
        self.background.wait()  # it may be this one
        if not checkpoint_folder(self.folder, done).exists():
            self._save(None, step_log.log, done)

    def _save(self, background: BackgroundJobs | None, log: Log, done: int) -> Progress:
        now("writes a checkpoint")
        self.background.wait()  # one copy of a checkpoint is held at a time
        end_of_epoch = done % self.batches.steps_per_epoch == 0
        norms = gradients(self.model) if end_of_epoch else {}
        if self.ranks.is_main:  # of a sharded model, the others come here too
            log.flush()
        progress = Progress(
            done,
            log.lines,
            measured=not end_of_epoch,
            gradients=norms,
            loss_scale=self.loss_scale.state() if self.loss_scale else {},
            best=self.best,
        )
        about = self.spec, self.model, self.optimizer, self.batches
        save_step(background, self.folder, *about, progress)
        self.background.submit(self.changed)
        return progress

    def _take_up(self, log: Log, progress: Progress) -> None:
        """Measure the epoch at whose end a run was interrupted."""
        if not progress.measured:
            self.ranks.barrier()  # every rank has read the checkpoint, which is rewritten
            self._measure(log, progress)
            self.ranks.barrier()

    def _measure(self, log: Log, progress: Progress) -> None:
        measured = self._evaluate(log, progress.step)
        if not self.ranks.is_main:
            return
        with RngState(), self._uncompiled():  # a resumed run may have no need to do it again
            self._check_up(log, progress)
        if measured:
            log.flush()
            progress = replace(progress, measured=True, log_lines=log.lines, best=self.best)
            save_progress(self.background, self.folder, progress)
            self.background.submit(self.changed)

    def _evaluate(self, log: Log, step: int) -> bool:
        """Measure the model, with all ranks; the main one alone tells what was found."""
        if self.held_out is None:
            return True
        epoch = step / self.batches.steps_per_epoch
        now(f"evaluates after step {step}")
        try:
            with self._embedding():
                report = evaluate(
                    self.model,
                    self.held_out,
                    split=str(self.spec.evaluation.split),
                    templates=self.spec.evaluation.templates,
                    shared=self.spec.evaluation.shared,
                    cache=self.cache,
                    workers=worker_count(self.spec.training.workers),
                )
        except LostRank:
            raise
        except Exception as error:  # hours of training are worth more
            problem = foreign_error(error) or error
            line = f"epoch {epoch:.0f} is not measured: {problem}"
            tell(problem, line)
            if self.ranks.is_main:
                self.unmeasured.append(line)
                log.note({"step": step, "epoch": epoch, "not_measured": str(problem)})
            return False
        if self.ranks.is_main:
            log.evaluation(step, epoch, report)
            self._compare(step, report)
            say(f"epoch {epoch:.0f}: {report.summary()}")
        return True

    def _compare(self, step: int, report: EvaluationReport) -> None:
        """Note the step if it is the best so far in ``training.keep.best``."""
        if not (wanted := self.spec.training.keep.best):
            return
        values = report.metrics()
        if wanted not in values:
            there = f"there are: {', '.join(values)}" if values else "nothing is"
            say(f"training.keep.best: {wanted} is not measured; {there}")
        elif not self.best or values[wanted] > self.best["value"]:
            self.best = {"step": step, "value": values[wanted]}

    @contextmanager
    def _embedding(self) -> Generator[None]:
        """Let all ranks embed in a block, which leaves the state of training as it was."""
        # a resumed run may have no need to do it again
        with (
            RngState(),
            self._uncompiled(),
            self._precision(),
            whole_weights(self.model),
            work_shared_by(self.ranks),
        ):
            yield

    def _precision(self) -> AbstractContextManager[None]:
        """Return what lets the towers embed in the precision in which they train."""
        return embedding_in(autocast_dtype(self.spec.training, self.model.device))

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Return what lets compiled towers run plain, for shapes that are met once an epoch."""
        compiled = self.spec.training.compile == "towers"
        return torch.compiler.set_stance("force_eager") if compiled else nullcontext()

    def _check_up(self, log: Log, progress: Progress) -> None:
        step, norms = progress.step, progress.gradients
        try:
            check_up(log, self.spec, self.model, self.batches, self.held_out, step, norms)
        except TrainingError:  # the log cannot be written any more
            raise
        except Exception as error:  # hours of training are worth more
            tell(error, f"the doctor's check after step {step} failed: {error}")
