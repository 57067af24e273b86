"""Two nodes, as two agents of torchrun on one machine: their ranks train as two processes do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.toys import toy_dict, toy_spec

pytestmark = [pytest.mark.slow, pytest.mark.nightly]

PATIENCE = 600
SOON = 30  # seconds in which the other node ends when one is gone


@pytest.fixture
def nodes(tmp_path):
    """Start two agents of torchrun with a rank each: ``nodes(spec, run)``; none outlives a test."""
    started = []

    def start(spec, run):
        path = tmp_path / "spec.yaml"
        path.write_text(json.dumps(spec))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for node in range(2):
            command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
            command += ["--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", "nodes"]
            command += ["--rdzv-endpoint", f"127.0.0.1:{port}"]
            command += ["--rdzv-conf", f"is_host={node == 0}"]
            with (tmp_path / f"node-{node}.log").open("w") as log:
                started.append(
                    subprocess.Popen(
                        [*command, "-m", "contrastive", "train", path, "--output", run],
                        stdout=log,
                        stderr=log,
                        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
                        start_new_session=True,
                    )
                )
        return started

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=PATIENCE)


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def test_two_nodes_train_the_model_of_one_process(tmp_path, nodes):
    spec = toy_dict(tmp_path / "data", epochs=1)
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    told = tmp_path / "node-0.log", tmp_path / "node-1.log"
    for process in nodes(spec, tmp_path / "two"):
        assert process.wait(timeout=PATIENCE) == 0, [log.read_text() for log in told]
    assert sum(log.read_text().count("2 ranks share each batch") for log in told) == 1
    train(toy_spec(tmp_path / "data").model_validate(spec), tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    ("gone", "cause"),
    [
        (0, "RendezvousConnectionError"),  # node 0 holds the rendezvous: torchrun says so itself
        (1, "rank 1: torchrun, which started it, was killed; stopping"),
    ],
)
def test_a_node_that_is_gone_ends_the_other_soon_with_the_cause(tmp_path, nodes, gone, cause):
    run = tmp_path / "run"
    both = nodes(toy_dict(tmp_path / "data", epochs=5000), run)
    end = time.monotonic() + PATIENCE
    while not (run / "log.jsonl").exists() or not losses(run):
        assert time.monotonic() < end
        time.sleep(0.5)
    both[gone].send_signal(signal.SIGKILL)  # the agent, which leaves its rank
    assert both[1 - gone].wait(timeout=SOON) != 0
    end, told = time.monotonic() + SOON, ""
    while "interrupted at step" not in told:  # rank 0 may be the one that was left
        assert time.monotonic() < end, told
        time.sleep(0.5)
        told = "".join((tmp_path / f"node-{node}.log").read_text() for node in range(2))
    assert cause in told
    done = len(losses(run))
    assert f"interrupted at step {done} of" in told
    assert (run / "checkpoints" / f"step-{done:08d}").is_dir()
