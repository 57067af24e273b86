"""What a launcher says in the environment: joined if it makes sense, one line if it does not."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from contrastive.distributed import launcher, ranks
from contrastive.distributed.launcher import stopped_without_torchrun
from contrastive.distributed.ranks import Ranks, launched_ranks
from contrastive.errors import TrainingError
from contrastive.training.signals import noted_signals
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

ALONE = {"WORLD_SIZE": None, "RANK": None, "LOCAL_RANK": None, "MASTER_ADDR": None}
ALONE |= {"TORCHELASTIC_RUN_ID": None, "TORCHELASTIC_USE_AGENT_STORE": None}
TWO = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
ODD = {
    "a word": (
        {"WORLD_SIZE": "abc"},
        "WORLD_SIZE='abc' in the environment is no whole number from",
    ),
    "empty": ({"WORLD_SIZE": ""}, "WORLD_SIZE='' in the environment is no whole number from 1 to"),
    "none": ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment is no whole number from 1"),
    "vast": (
        {"WORLD_SIZE": "9" * 30},
        f"WORLD_SIZE='{'9' * 30}' in the environment is no",
    ),
    "rank": (TWO | {"RANK": "x"}, "RANK='x' in the environment is no whole number 0 or more"),
    "below": (TWO | {"RANK": "-1"}, "RANK='-1' in the environment is no whole number 0 or more"),
    "beyond": (TWO | {"RANK": "2"}, "RANK=2, but WORLD_SIZE=2: ranks are 0 to WORLD_SIZE - 1"),
    "rank alone": ({"RANK": "3"}, "RANK=3, but WORLD_SIZE is not set: ranks are 0"),
    "size alone": ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 is set, RANK is not"),
    "address": (TWO | {"MASTER_ADDR": None}, "WORLD_SIZE=2 is set, MASTER_ADDR is not"),
    "no port": (TWO | {"MASTER_PORT": ""}, "WORLD_SIZE=2 is set, MASTER_PORT is not"),
    "port": (TWO | {"MASTER_PORT": "99999"}, "MASTER_PORT='99999' in the environment is no"),
    "local": (TWO | {"LOCAL_RANK": "gpu"}, "LOCAL_RANK='gpu' in the environment is no whole"),
}


@pytest.fixture
def environment(monkeypatch):
    """Set variables, or with None unset them; all others of a launcher are unset."""

    def set_all(variables):
        for name, value in (ALONE | {"MASTER_PORT": None} | variables).items():
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_all


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(toy_dict(tmp_path / "data", epochs=0)))
    return path


@pytest.mark.parametrize("case", ODD)
def test_variables_that_make_no_sense_are_one_line(environment, spec, command, tmp_path, case):
    variables, told = ODD[case]
    environment(variables)
    outcome = command("train", spec, "--output", tmp_path / "run")
    assert outcome.code == 2
    assert outcome.err.startswith(told)
    assert outcome.err.count("\n") == 1
    unset = outcome.err.partition("run: unset ")[2].partition(";")[0]  # the remedy, as it says
    left = {name: value for name, value in variables.items() if name != unset}
    environment(left if unset == "WORLD_SIZE" else {})
    if unset != "WORLD_SIZE" or not left.get("RANK", "0").strip("0"):
        assert command("train", spec, "--output", tmp_path / "run").code == 0


def test_a_process_on_its_own_prints_whatever_the_environment(environment, spec, command, tmp_path):
    environment({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    outcome = command("train", spec, "--output", tmp_path / "run")
    assert outcome.out == f"saved: {tmp_path / 'run' / 'model'}\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_waiting_for_ranks_that_do_not_come_is_told_and_ends(environment, monkeypatch, capsys):
    port = free_port()
    environment(TWO | {"MASTER_PORT": port})
    monkeypatch.setattr(launcher, "MOMENT", 0.01)
    monkeypatch.setattr(ranks, "COLLECTIVE_TIMEOUT", timedelta(seconds=1))
    with pytest.raises(TrainingError) as error, launched_ranks("cpu"):
        pass
    assert str(error.value).startswith(f"rank 0 did not find the 1 other rank at 127.0.0.1:{port}")
    assert "\n" not in str(error.value)
    told = f"rank 0: waiting for 1 other rank at 127.0.0.1:{port}, for 20 minutes at most"
    assert told in capsys.readouterr().err


def test_ctrl_c_ends_the_waiting(environment, spec, tmp_path):
    environment(TWO | {"MASTER_PORT": free_port()})
    code = (
        "import sys; from contrastive import cli; from contrastive.distributed import launcher; "
        "launcher.MOMENT = 0; cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "train", spec, "--output", tmp_path / "run"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        assert "waiting for 1 other rank" in process.stderr.readline()
        time.sleep(0.2)  # into torch, which keeps the signal to itself
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode in (-signal.SIGINT, 130)


def test_a_torchrun_that_has_ended_before_its_ranks_begin_is_one_line(environment):
    port = free_port()
    keeps_the_store = {"TORCHELASTIC_RUN_ID": "a run", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    environment(TWO | keeps_the_store | {"MASTER_PORT": port})
    line = f"rank 0: the torchrun at 127.0.0.1:{port} has ended; start the ranks with: torchrun"
    with pytest.raises(TrainingError, match=line), launched_ranks("cpu"):
        pass


def test_what_ranks_differ_in_is_named_on_all_of_them(monkeypatch):
    found = [{"rows": "49", "seed": "0"}, {"rows": "49", "seed": "0"}, {"rows": "48", "seed": "0"}]
    monkeypatch.setattr(ranks, "all_gather_objects", lambda *_: found)
    with pytest.raises(TrainingError) as error:
        Ranks(1, 3).check_same("the ranks differ", {"rows": 49, "seed": 0}, "copy the data")
    assert str(error.value) == (
        "the ranks differ: rank 0 has rows: 49, rank 2 has 48; copy the data"
    )
    monkeypatch.setattr(ranks, "all_gather_objects", lambda mine, *_: [mine] * 3)
    Ranks(1, 3).check_same("the ranks differ", {"rows": 49, "seed": 0}, "copy the data")


def test_a_rank_whose_torchrun_was_killed_stops_as_by_a_signal(environment, monkeypatch, capsys):
    environment(TWO | {"TORCHELASTIC_RUN_ID": "a run"})
    monkeypatch.setattr(launcher, "GLANCE", 0.01)
    with noted_signals() as pending_signals, stopped_without_torchrun(1):
        time.sleep(0.1)
        assert not pending_signals
        monkeypatch.setattr(os, "getppid", lambda: 1)
        end = time.monotonic() + 60
        while not pending_signals and time.monotonic() < end:
            time.sleep(0.01)
    assert pending_signals == [signal.SIGTERM]
    told = capsys.readouterr().err
    assert told.startswith("rank 1: torchrun, which started it, was killed; stopping\n")
