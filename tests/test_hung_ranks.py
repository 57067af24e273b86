"""A rank that hangs is named by the others; one that takes long is waited for."""

import os
import signal
import threading
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist

from contrastive.distributed import heartbeat, launcher
from contrastive.distributed.ranks import launched_ranks
from contrastive.errors import ContrastiveError
from contrastive.features.cache import FeatureCache
from contrastive.training import batches, parallel, train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

LIMIT = timedelta(seconds=8)  # for a collective
PLACES = {
    "a step": (parallel, "step_loss", 4),
    "a sharded step": (parallel, "step_loss", 4),
    "data": (batches._PrepareBatch, "__getitem__", 4),
    "encoding": (FeatureCache, "table", 1),
}


def joined(rank, size, folder, limit):
    heartbeat.BEAT, heartbeat.LOOK = 0.1, 5
    heartbeat.ASK = timedelta(seconds=0.05)
    launcher.COLLECTIVE_TIMEOUT = LIMIT
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size, timeout=limit)


def hung(rank, size, spec, folder, victim, where, stops):
    """Be a rank, one of which hangs; another notes what it says, and ends that one."""
    joined(rank, size, folder, LIMIT)
    owner, name, last = PLACES[where]
    real, calls, pid = getattr(owner, name), [], folder / "pid"

    def stand_in(*args, **kwargs):
        calls.append(1)
        if len(calls) == last and rank == victim:
            pid.write_text(str(os.getpid()))
            if stops:
                os.kill(os.getpid(), signal.SIGSTOP)
            threading.Event().wait()
        return real(*args, **kwargs)

    setattr(owner, name, stand_in)
    told = ""
    try:
        train.train(spec, folder / "run")
    except (ContrastiveError, SystemExit) as error:
        told = str(error)
    (folder / f"{rank}.txt").write_text(told)
    os.kill(int(pid.read_text()), signal.SIGKILL)


def check_told(folder, victim, *, stops):
    told, pid = ((folder / name).read_text() for name in (f"{1 - victim}.txt", "pid"))
    assert told.startswith(f"rank {victim} (process {pid} on ")
    assert ("has not answered for" in told) == stops
    assert ("has let the others wait for" in told) != stops
    return told


@pytest.mark.parametrize(
    ("victim", "where", "stops", "told"),
    [
        (1, "a step", True, "its last note:"),  # which may be a heartbeat old
        pytest.param(1, "a sharded step", True, "its last note:", marks=pytest.mark.nightly),
        pytest.param(1, "data", False, "it loads its data (", marks=pytest.mark.nightly),
        pytest.param(0, "encoding", True, "its last note:", marks=pytest.mark.nightly),
    ],
)
def test_a_rank_that_hangs_in_a_run_is_named(tmp_path, in_ranks, victim, where, stops, told):
    spec = toy_dict(tmp_path / "data", epochs=1)
    if where == "a sharded step":
        spec["training"]["parallel"] = {"strategy": "fsdp"}
    in_ranks(hung, 2, spec, tmp_path, victim, where, stops, killed=victim)
    line = check_told(tmp_path, victim, stops=stops)
    assert told in line
    saved = line.endswith("; saved at step 3; go on with resume=True (--resume)")
    assert saved == (where in ("a step", "data"))


def waiting(rank, size, folder, victim, stops):
    """Be one of two ranks that are to meet, one of which hangs."""
    joined(rank, size, folder, LIMIT)
    told = ""
    try:
        with launched_ranks("cpu") as (ranks, _):
            ranks.barrier()
            if rank == victim:
                heartbeat.now("counts sheep")
                (folder / "pid").write_text(str(os.getpid()))
                if stops:
                    os.kill(os.getpid(), signal.SIGSTOP)
                threading.Event().wait()
            if stops:
                ranks.barrier()  # which waits for as long as it is answered
            ranks.broadcast_([torch.zeros(1)])
    except (ContrastiveError, SystemExit) as error:
        told = str(error)
    (folder / f"{rank}.txt").write_text(told)
    os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


@pytest.mark.nightly  # by day in a step of a run
@pytest.mark.parametrize(("victim", "stops"), [(0, True), (0, False)])
def test_a_rank_that_does_not_come_is_named(tmp_path, in_ranks, victim, stops):
    in_ranks(waiting, 2, tmp_path, victim, stops, killed=victim)
    line = check_told(tmp_path, victim, stops=stops)
    assert stops or f"it counts sheep ({threading.__file__}:" in line


def patient(rank, size, folder):
    """Be a rank, the first of which takes longer than a collective may."""
    joined(rank, size, folder, timedelta(hours=1))
    with launched_ranks("cpu") as (ranks, _):
        for _ in range(2):
            if ranks.is_main:
                threading.Event().wait(1.5 * LIMIT.total_seconds())
            ranks.barrier()
            ranks.check_same("", {"the same": 0}, "")
    (folder / f"{rank}.txt").write_text("done")
    dist.destroy_process_group()


@pytest.mark.nightly
def test_a_rank_that_takes_long_is_waited_for(tmp_path, in_ranks, capfd):
    in_ranks(patient, 2, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["done"] * 2
    assert capfd.readouterr().err == ""
