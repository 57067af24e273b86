"""Shards by the workers of Ray: by Ray where it is installed, by a stand-in everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from contrastive import RunSpec, build_model, embed, train
from contrastive.data.worker_processes import LostWorker
from contrastive.errors import DataError
from contrastive.inference import embed_ray
from contrastive.inference.embed import plan_embedding
from contrastive.inference.embed_ray import embed_on_ray
from tests.toys import tiny_model, toy_dict

pytestmark = pytest.mark.slow

TEXTS = [{"text": f"a {i}", "id": i, "source": f"row {i}"} for i in range(12)]


class StandIn:
    """The calls of Ray, each made at once, here; the actor ``lost`` dies at its first shard."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, *, cpus=2, lost=None):
        self.cpus, self.lost, self.actors, self.killed, self.calls = cpus, lost, [], [], []

    def is_initialized(self):
        return "init" in self.calls

    def init(self, **_):
        self.calls.append("init")

    def shutdown(self):
        self.calls.append("shutdown")

    def cluster_resources(self):
        return {"CPU": self.cpus}

    def kill(self, actor):
        self.killed.append(actor)

    def remote(self, **_):
        def make(worker):
            def start(*args):
                number, made = len(self.actors), worker(*args)
                answer = lambda job: lambda: self.answer(number, made, job)  # noqa: E731
                self.actors.append(SimpleNamespace(report=SimpleNamespace(remote=answer)))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return make

    def answer(self, number, worker, job):
        if job and number == self.lost:
            raise self.exceptions.RayError("The actor died unexpectedly.\nIts log ...")
        return worker.report(job)

    def wait(self, answers, timeout):
        return answers[:1], answers[1:]

    def get(self, answer):
        return answer()


@pytest.fixture
def stand_in(monkeypatch):
    def use(**how):
        ray = StandIn(**how)
        monkeypatch.setattr(embed_ray, "require", lambda *_, **__: ray)
        return ray

    monkeypatch.setattr("contrastive.inference.embed.SHARD_ROWS", 4)
    return use


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_workers_of_ray_write_what_one_process_writes(stand_in, tiny, tmp_path):
    ray = stand_in()
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    embed_on_ray(plan, 2, lambda: (tiny, None), gpu=False)
    assert contents(tmp_path / "out") == contents(embed(tiny, TEXTS, tmp_path / "one").path)
    assert ray.killed == ray.actors != []
    assert ray.calls == ["init", "shutdown"]


def test_what_a_lost_worker_leaves_is_done_by_the_same_call_again(stand_in, tiny, tmp_path):
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    stand_in(lost=0)
    told = (
        r"^a worker of Ray has ended \(The actor died unexpectedly\.\); what is written is kept, r"
    )
    with pytest.raises(LostWorker, match=told):
        embed_on_ray(plan, 2, lambda: (tiny, None), gpu=False)
    before = contents(tmp_path / "out")
    assert len(plan.folder.missing()) == 1
    stand_in()
    embed_on_ray(plan, 2, lambda: (tiny, None), gpu=False)
    assert contents(tmp_path / "out").items() > before.items()
    assert not plan.folder.missing()


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (False, "Ray has 2 CPUs, too few for 3 processes; give --processes 2"),
        (True, "Ray has 0 GPUs, too few for 3 processes; give --device cpu"),
    ],
)
def test_more_workers_than_the_cluster_has_room_for_are_refused(
    stand_in, tiny, tmp_path, gpu, told
):
    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    stand_in()
    with pytest.raises(DataError, match=f"^{told}$"):
        embed_on_ray(plan, 3, lambda: (tiny, None), gpu=gpu)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (
            "n1:6379",
            r"no cluster of Ray at RAY_ADDRESS=n1:6379 \(timed out\); start it, or unset it",
        ),
        (None, r"Ray does not start on this machine \(timed out\); take --engine local"),
    ],
)
def test_a_cluster_that_is_not_there_is_told(stand_in, tiny, tmp_path, monkeypatch, address, told):
    def init(**_):
        msg = "timed out.\nThis could happen because ..."
        raise Exception(msg)  # noqa: TRY002 - as Ray does

    plan = plan_embedding(tiny, TEXTS, tmp_path / "out")
    ray = stand_in()
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(DataError, match=f"^{told}$"):
        embed_on_ray(plan, 2, lambda: (tiny, None), gpu=False)
    embed(tiny, TEXTS, tmp_path / "out")  # the remedy of the second
    assert not plan.folder.missing()


def test_without_ray_one_line_names_the_extra(command, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = command("embed", "photos", "-o", tmp_path / "out", "--engine", "ray")
    assert ended.code == 2
    assert ended.err == 'ray is not installed; run: pip install "contrastive-kit[ray]"\n'


@pytest.mark.nightly
def test_the_real_ray_writes_the_same_bits_and_goes_on_where_it_was(tmp_path, command):
    pytest.importorskip("ray")
    spec = toy_dict(tmp_path / "data", epochs=1)
    (tmp_path / "toy.yaml").write_text(json.dumps(spec))
    train(RunSpec.model_validate(spec), tmp_path / "run")
    asked = ["embed", tmp_path / "toy.yaml", "-m", tmp_path / "run", "--split", "train"]
    assert command(*asked, "-o", tmp_path / "one").code == 0
    small = "import sys; from contrastive import cli; from contrastive.inference import embed; "
    small = [sys.executable, "-c", f"{small}embed.SHARD_ROWS = 8; cli.main()"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    for folder, engine in (("local", "local"), ("ray", "ray"), ("ray", "ray")):
        out = tmp_path / folder
        for path in sorted(out.glob("image-*.parquet"))[:2]:
            path.unlink()  # the third call goes on
        done = subprocess.run(
            [*small, *asked, "-o", out, "--engine", engine, "--processes", "2"],
            check=False,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
