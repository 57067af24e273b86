"""Checkpoints are written beside the steps: of the step that they are of, one at a time, whole."""

import gc
import hashlib
import math
import threading
import weakref

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

from contrastive.errors import TrainingError, WeightsError
from contrastive.model import tensor_pieces
from contrastive.model.tensor_pieces import Counted, safetensors_pieces
from contrastive.reporting.run_log import read_log
from contrastive.training import checkpoints, parallel
from contrastive.training.background import BackgroundJobs
from contrastive.training.train import train
from tests.toys import toy_spec

LONG = 20  # seconds, after which a test has failed
BEFORE = "step-00000000"  # is written before the first step, to see whether it can be
SHARED = torch.arange(12.0)
TENSORS = {
    "none": {},
    "types": {str(t): torch.ones(3, dtype=t) for t in tensor_pieces.NAMES},
    "other types": {"c": torch.ones(2, dtype=torch.complex64), "f": torch.ones(2)},
    "shapes": {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "é\n": torch.randn(2, 3, 4),
    },
    "views": {"whole": SHARED, "tied": SHARED, "slice": SHARED[2:9:3], "t": SHARED.view(3, 4).T},
    "long": {"a": torch.randn(1000), "b": torch.randn(3), "c": torch.randn(777).bfloat16()},
    "of any stride": {str(n): torch.as_strided(torch.tensor([5]), (n,), (0,)) for n in (0, 1)},
    "not finite": {"x": torch.tensor([math.nan, math.inf, -0.0])},
}


@pytest.mark.parametrize("piece", [1 << 22, 100])
@pytest.mark.parametrize("what", TENSORS)
def test_pieces_are_the_file_that_the_library_reads(monkeypatch, what, piece):
    monkeypatch.setattr(tensor_pieces, "PIECE", piece)
    counted = Counted(safetensors_pieces(TENSORS[what]))
    pieces = [bytes(each) for each in counted]
    data = b"".join(pieces)
    found = load(data)
    assert found.keys() == TENSORS[what].keys()
    for name, tensor in TENSORS[what].items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert counted.bytes == len(data)
    assert counted.sha256 == hashlib.sha256(data).hexdigest()
    if what == "long":
        assert max(map(len, pieces[1:]), default=0) <= piece


def test_what_is_written_is_not_copied(monkeypatch):
    monkeypatch.setattr(tensor_pieces, "PIECE", 64)
    tensor = torch.randn(100)
    _, *pieces = safetensors_pieces({"x": tensor})
    views = [np.frombuffer(each, np.uint8) for each in pieces if len(each)]
    assert sum(map(len, views)) == 400
    assert all(np.shares_memory(view, tensor.numpy()) for view in views)


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.slow
def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    """Each is held back until the step after it has run, and is that of its own step."""
    spec = toy_spec(tmp_path / "data", checkpoint_every=1)
    train(spec, tmp_path / "whole")
    ran, writing, met = {i: threading.Event() for i in range(1, 9)}, [], []
    real, real_write = parallel.step_loss, checkpoints.write_folder

    def step_loss(*args, **how):
        found = real(*args, **how)
        ran[next(i for i in ran if not ran[i].is_set())].set()
        return found

    def write(folder, files, **how):
        writing.append(folder)
        number = int(folder.name[5:])
        if 0 < number < 8 and not how:  # the first is a trial before the run
            met.append(ran[number + 1].wait(LONG))
        assert len(writing) == 1
        real_write(folder, files, **how)
        writing.remove(folder)

    copies, real_copied, sizes = [], checkpoints._copied, set()

    def copied(files):
        gc.collect()
        assert not any(copy() is not None for copy in copies), "one copy is held at a time"
        found = real_copied(files)
        tensors = [
            x for name in found if name.endswith("safetensors") for x in found[name].values()
        ]
        sizes.add(sum(x.nbytes for x in tensors))
        copies.extend(map(weakref.ref, tensors))
        return found

    monkeypatch.setattr(parallel, "step_loss", step_loss)
    monkeypatch.setattr(checkpoints, "write_folder", write)
    monkeypatch.setattr(checkpoints, "_copied", copied)
    model = train(spec, tmp_path / "run")
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    assert max(sizes) < 3 * trained + 50_000  # two moments; BatchNorm, dropout's generator, samples
    assert met == [True] * 7
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    for step in ("step-00000007", "step-00000008"):
        for path in (tmp_path / "run" / "checkpoints" / step).glob("*.safetensors"):
            a = load_file(path)
            b = load_file(tmp_path / "whole" / "checkpoints" / step / path.name)
            assert a.keys() == b.keys()
            assert all(torch.equal(a[name], b[name]) for name in a), path


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_read_back_ends_the_run_and_costs_none(tmp_path, monkeypatch):
    real = checkpoints.is_whole
    monkeypatch.setattr(checkpoints, "is_whole", lambda step: step.name[-1] in "12" and real(step))
    with pytest.raises(TrainingError, match=r"step-00000003: cannot be read back as it was writte"):
        train(toy_spec(tmp_path / "data", checkpoint_every=1), tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-00000001", "step-00000002", "step-00000003"]


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(tmp_path, monkeypatch):
    real = checkpoints.write_folder

    def write(folder, *given, **how):
        if folder.name == BEFORE:
            return real(folder, *given, **how)
        raise WeightsError(f"{folder}: cannot be written: No space left on device")

    monkeypatch.setattr(checkpoints, "write_folder", write)
    with pytest.raises(WeightsError, match="step-00000002: cannot be written: No space"):
        train(toy_spec(tmp_path / "data", checkpoint_every=2), tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_that_fails_beside_a_bug_is_told(tmp_path, monkeypatch, capsys):
    real, calls, third = parallel.step_loss, [], threading.Event()

    def step_loss(*args, **how):
        calls.append(1)
        if len(calls) == 3:
            third.set()
            raise ZeroDivisionError
        return real(*args, **how)

    real_write = checkpoints.write_folder

    def write(folder, *given, **how):
        if folder.name == BEFORE:
            return real_write(folder, *given, **how)
        third.wait(LONG)
        raise WeightsError(f"{folder.name}: cannot be written: No space left on device")

    monkeypatch.setattr(parallel, "step_loss", step_loss)
    monkeypatch.setattr(checkpoints, "write_folder", write)
    with pytest.raises(ZeroDivisionError):
        train(toy_spec(tmp_path / "data", checkpoint_every=2), tmp_path / "run")
    line = "step 2 is not saved: step-00000002: cannot be written: No space left on device\n"
    assert capsys.readouterr().err.endswith(line)


def failing():
    raise OSError(5, "I/O error")


def test_jobs_are_done_in_order_and_none_comes_after_one_that_failed():
    done, go = [], threading.Event()
    with BackgroundJobs() as jobs:
        jobs.submit(lambda: done.append(go.wait(LONG)))
        jobs.submit(lambda: done.append(2))
        assert done == []
        go.set()
        jobs.wait()
        assert done == [True, 2]
        jobs.submit(failing)
        with pytest.raises(OSError, match="I/O error"):
            jobs.wait()
        jobs.submit(lambda: done.append(3))
    assert done == [True, 2]


def test_jobs_of_several_threads_are_done_one_at_a_time():
    running, together, done = [], [], []

    def job():
        running.append(1)
        together.append(len(running))
        threading.Event().wait(0.001)
        running.pop()
        done.append(1)

    with BackgroundJobs() as jobs:

        def submit():
            for _ in range(20):
                jobs.submit(job)

        threads = [threading.Thread(target=submit) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == 160
    assert {*together} == {1}


def test_a_job_that_fails_is_raised_at_the_end_or_told_beside_another_error(capsys):
    with pytest.raises(OSError, match="I/O error"), BackgroundJobs() as jobs:
        jobs.submit(failing)

    def fail_beside_it():
        with BackgroundJobs() as jobs:
            jobs.submit(failing)
            raise KeyError

    with pytest.raises(KeyError):
        fail_beside_it()
    assert capsys.readouterr().err == "[Errno 5] I/O error\n"


def test_a_bug_beside_another_error_keeps_its_traceback(capsys):
    def fail_beside_it():
        with BackgroundJobs() as jobs:
            jobs.submit(lambda: {}["a key"])
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail_beside_it()
    told = capsys.readouterr().err
    assert told.startswith("Traceback")
    assert told.endswith("KeyError: 'a key'\n'a key'\n")


def test_a_second_interruption_waits_for_no_job_and_begins_none():
    begun, go, over = [], threading.Event(), threading.Event()

    def interrupt():
        with BackgroundJobs() as jobs:
            jobs.submit(lambda: over.set() if go.wait(LONG) else None)
            jobs.submit(lambda: begun.append(2))
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert not over.is_set()
    threads = set(threading.enumerate()) - before
    assert all(thread.daemon for thread in threads)
    go.set()
    for thread in threads:
        thread.join(LONG)
    assert over.is_set()
    assert begun == []


def test_a_thread_that_cannot_be_started_is_told_as_such(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"), BackgroundJobs() as jobs:
        jobs.submit(failing)
