"""A run that goes on with other ranks than it began with makes the steps of one process."""

import os
import signal
from copy import deepcopy

import pytest
from torch import distributed as dist

from contrastive.console import quiet
from contrastive.reporting.run_log import Log, read_log
from contrastive.training.train import Interrupted, train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

RESNET = {"type": "resnet", "width": 4, "image_size": 32, "augment": "crop-flip"}


def specs(data, **settings):
    """Return runs without dropout, by how they have their features."""
    toy = toy_dict(data, batch_size=15, lr=1e-3, **settings)
    toy["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    toy["evaluation"] = {"split": None}
    made = {name: deepcopy(toy) for name in ("cached", "augmented")}
    made["augmented"]["model"]["towers"]["image"]["encoder"] = RESNET
    return made


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def stretch(rank, size, todo, until):
    """Be a rank that trains each run on, until a step after which the main one is stopped."""
    real = Log.step

    def step(self, done, *args, **metrics):
        real(self, done, *args, **metrics)
        if done == until and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    Log.step = step
    if size > 1:
        store = f"file://{todo[0][1]}-store-{size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    for spec, run in todo:
        try:
            train(spec, run, resume=run.exists())
        except (Interrupted, SystemExit):
            assert until
    if size > 1:
        dist.destroy_process_group()


def check_stretches(folder, in_ranks, runs, stretches, workers):
    """Train each run in stretches, ``(ranks, until)``, and by one process; compare the losses."""
    for (size, until), count in zip(stretches, workers, strict=True):
        todo = []
        for name, spec in runs.items():
            spec["training"]["workers"] = count
            todo.append((spec, folder / name))
        in_ranks(stretch, size, todo, until)
    for name, spec in runs.items():
        with quiet():
            train(spec, folder / "one" / name)
        expected, found = losses(folder / "one" / name), losses(folder / name)
        unlike = max(abs(a / b - 1) for a, b in zip(found, expected, strict=True))
        print(f"{name}: {len(found)} losses within {unlike:.1e}")
        assert found == pytest.approx(expected, rel=1e-5)
        assert len({*expected}) == len(expected)


def test_a_run_of_one_process_goes_on_with_two_ranks(tmp_path, in_ranks):
    runs = specs(tmp_path / "data", images=36, epochs=3)
    del runs["augmented"]
    check_stretches(tmp_path, in_ranks, runs, [(1, 4), (2, None)], [0, 0])


@pytest.mark.nightly
def test_a_run_of_one_process_goes_on_with_two_ranks_then_with_four(tmp_path, in_ranks):
    runs = specs(tmp_path / "data", epochs=25)
    stretches = [(1, 20), (2, 50), (4, 80), (1, None)]
    check_stretches(tmp_path, in_ranks, runs, stretches, [0, 2, 0, 2])
