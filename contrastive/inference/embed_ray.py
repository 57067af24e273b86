"""Embed a dataset by the workers of a Ray cluster, which the same plan gives its shards.

Not by Ray Data, though it would spread a dataset as well: it cuts the rows into blocks of its own
and writes files of its own names, while the bits of an embedding, and what is left to do after a
crash, follow from the plan's shards. So each worker is an actor with the model, and takes one shard
after another, as a process of ``embed_processes`` does.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.config.extras import require
from contrastive.console import bar, say
from contrastive.data.content_index import content_index
from contrastive.data.worker_processes import LostWorker
from contrastive.errors import DataError
from contrastive.inference.embed_processes import KEPT, Report, ShardWriter, check_done

if TYPE_CHECKING:
    from collections.abc import Generator

    from contrastive.inference.embed import Job, Plan
    from contrastive.inference.embed_processes import Load

SILENCE = 30.0  # seconds until somebody who waits for workers is told so


class _Worker:
    """What an actor runs."""

    def __init__(self, here: str, folder: Path, load: Load) -> None:
        self._here = here
        self._writer = ShardWriter(folder, load)

    def report(self, job: Job | None) -> Report:
        """Return ``ShardWriter.report``, made in the folder of whoever asked for it."""
        try:
            os.chdir(self._here)  # the model's folder and the samples may be relative to it
        except OSError as error:
            msg = (
                f"{self._here}: {error.strerror} on a node of Ray; run this in a folder that all "
                "nodes have, or with --engine local"
            )
            return Report([], [], problem=DataError(msg))
        return self._writer.report(job)


def embed_on_ray(plan: Plan, workers: int, load: Load, *, gpu: bool) -> None:
    """Write the shards that are missing by actors of Ray.

    They are of the cluster at ``$RAY_ADDRESS``, else of one that runs on this machine, else of one
    that is started for this call. All its nodes need the folder, the data, the model and the cache.

    Args:
        plan: what there is to do.
        workers: how many.
        load: called in each for its model and cache; it has to be picklable.
        gpu: whether each has a GPU to itself; else a core.

    Raises:
        MissingExtra: Ray is not installed.
        LostWorker: a worker has ended; the others have done the rest.
        Exception: one has met a problem, which is raised as a single process would; the others have
            done the rest.
        DataError: the cluster has too little for so many workers, or shards that were written are
            gone.
    """
    ray = require("ray", extra="ray")
    left = deque(plan.folder.missing())
    if not left:
        return
    content_index().write()  # or each would read every file again for its hash
    workers = min(workers, len(left))
    problems: list[Exception] = []
    with _cluster(ray):
        _check_resources(ray, workers, "GPU" if gpu else "CPU")
        worker = ray.remote(num_cpus=1, num_gpus=int(gpu))(_Worker)
        about = str(Path.cwd()), plan.folder.path.absolute(), load
        actors = [worker.remote(*about) for _ in range(workers)]
        try:
            running = {actor.report.remote(None): actor for actor in actors}
            with bar("embedding shards", len(left)) as advance:
                while running:
                    for answer in _answers(ray, running):
                        actor = running.pop(answer)
                        report = _received(ray, answer)
                        report.print()
                        advance(report.shards, "")
                        if report.problem:
                            problems.append(report.problem)
                        elif left:
                            job = plan.job(*left.popleft())
                            running[actor.report.remote(job)] = actor
        finally:
            for actor in actors:
                ray.kill(actor)
    check_done(plan, problems)


@contextmanager
def _cluster(ray: Any) -> Generator[None]:
    """Have Ray within the block; one that is there already stays."""
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # of many kinds, plain ones too
            cause = str(error).strip().partition("\n")[0].rstrip(".")
            address = os.environ.get("RAY_ADDRESS")
            msg = (
                f"no cluster of Ray at RAY_ADDRESS={address} ({cause}); start it, or unset it"
                if address
                else f"Ray does not start on this machine ({cause}); take --engine local"
            )
            raise DataError(msg) from error
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _check_resources(ray: Any, workers: int, kind: str) -> None:
    """Refuse more workers than the cluster has room for: Ray would wait without end."""
    there = int(ray.cluster_resources().get(kind, 0))
    if there < workers:
        remedy = f"give --processes {there}" if there else "give --device cpu"
        msg = f"Ray has {there} {kind}s, too few for {workers} processes; {remedy}"
        raise DataError(msg)


def _answers(ray: Any, running: dict[Any, Any]) -> list[Any]:
    """Return the answers that have come, one at least; say so if that takes long."""
    told = False
    while True:
        done, _ = ray.wait([*running], timeout=SILENCE)
        if done:
            return done
        if not told:
            say(f"still waiting for {len(running)} workers of Ray; ray status says what they do")
            told = True


def _received(ray: Any, answer: Any) -> Report:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:
        cause = str(error).strip().partition("\n")[0]
        problem = LostWorker(f"a worker of Ray has ended ({cause}); {KEPT}")
        return Report([], [], problem=problem)
