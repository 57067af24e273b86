"""A clock that goes back, between runs and within one, changes nothing."""

import os
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from contrastive.console import quiet
from contrastive.data import content_index
from contrastive.reporting.run_log import Log, read_log
from contrastive.training.train import Interrupted, train
from tests.toys import toy_dict

AHEAD = 3 * 365 * 86_400  # seconds by which the clock was wrong


def age_by(seconds, folder):
    """Let all in a folder be written later, or earlier."""
    for path in [folder, *folder.rglob("*")]:
        when = path.stat().st_mtime + seconds
        os.utime(path, (when, when))


class Backwards:
    """A clock that goes back by an hour whenever one looks."""

    def __init__(self):
        self.now = time.time()

    def time(self):
        self.now -= 3600
        return self.now

    def time_ns(self):
        return int(self.time() * 1e9)


@pytest.fixture
def goes_back(monkeypatch):
    clock = Backwards()
    monkeypatch.setattr(time, "time", clock.time)
    monkeypatch.setattr(time, "time_ns", clock.time_ns)


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("goes_back")
def test_a_run_does_not_go_by_the_clock(tmp_path, monkeypatch):
    spec = toy_dict(tmp_path / "data", checkpoint_every=1)
    real = Log.step

    def step(self, done, *args, **metrics):
        real(self, done, *args, **metrics)
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    with quiet():
        train(spec, whole)
        monkeypatch.setattr(Log, "step", step)
        with pytest.raises(Interrupted):
            train(spec, broken)
        monkeypatch.setattr(Log, "step", real)
        first, *_, newest = sorted((broken / "checkpoints").iterdir())
        age_by(AHEAD, tmp_path)
        age_by(AHEAD, first)  # which is then the newest by its time
        train(spec, broken, resume=True)
    assert not newest.exists(), "it was superseded"
    assert losses(whole) == losses(broken)
    left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(left[name], right[name]) for name in left | right)


@pytest.mark.usefixtures("goes_back")
@pytest.mark.parametrize("noted", ["now", "ahead", "back"])
def test_a_file_that_changes_while_the_clock_is_wrong_is_read_again(tmp_path, noted):
    path = tmp_path / "image.png"
    path.write_bytes(b"first")
    if noted != "now":
        age_by(AHEAD if noted == "ahead" else -AHEAD, tmp_path)
    about = path.stat()
    index = content_index.ContentIndex(tmp_path / "index")
    first = index.hash_of(path)
    path.write_bytes(b"other")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert index.hash_of(path) == content_index.file_hash(b"other") != first
