"""A killed worker, or memory that is not there: one line, and no finished step is lost."""

import errno
import os
import resource
import signal
import sys
from functools import partial
from multiprocessing import active_children, current_process

import pytest
import torch
from safetensors.torch import load_file

from contrastive import build_model
from contrastive.console import quiet
from contrastive.data.loading import map_in_workers
from contrastive.data.worker_processes import LostWorker, worker_count
from contrastive.distributed.ranks import Ranks
from contrastive.encoders.weights import loading_weights
from contrastive.errors import DataError, TrainingError, WeightsError
from contrastive.evaluation.evaluate import evaluate
from contrastive.features.cache import FeatureCache
from contrastive.nn.memory import OutOfMemory
from contrastive.reporting.run_log import Log, read_log
from contrastive.training import parallel
from contrastive.training import train as training
from contrastive.training.rescue import finished_steps_saved
from contrastive.training.train import train
from tests.toys import toy_dict, toy_spec

pytestmark = pytest.mark.slow

TOO_MUCH = 2**50  # bytes: no machine has so many


class Tensors:
    """A job whose results hold open files, as long as they are there."""

    def __getitem__(self, group):
        return torch.zeros(1)


class Dies:
    """A job whose worker process ends in some way."""

    def __init__(self, how):
        self.how = how

    def __getitem__(self, group):
        if group == 3:
            os._exit(7) if self.how is None else os.kill(os.getpid(), self.how)
        return group


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (signal.SIGKILL, "was killed by SIGKILL (out of memory?); use fewer workers (training.w"),
        (signal.SIGBUS, "was killed by SIGBUS (is /dev/shm full?); give it more room, or use"),
        (signal.SIGSEGV, "was killed by SIGSEGV (a crash of a library that reads samples?)"),
        (None, "ended with exit code 7; use fewer workers"),
    ],
)
def test_a_worker_that_ends_is_one_line(how, told):
    with pytest.raises(LostWorker) as error:
        list(map_in_workers(Dies(how), range(8), workers=1))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("room", [0, 4, 30])  # none for a worker, too few, for it and few tensors
def test_too_many_open_files_are_one_line(room, capfd):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + room, before[1]))
    held = []
    try:
        with pytest.raises(LostWorker, match=r"^too many open files; raise .* \(ulimit -n\)"):
            held.extend(map_in_workers(Tensors(), range(100), workers=1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.parametrize(
    ("cores", "quota", "ranks", "workers"),
    [
        (8, None, None, 8),
        (8, "max 100000", "1", 8),
        (8, "250000 100000", None, 2),
        (8, None, "4", 2),
        (8, None, "16", 1),
        (64, None, None, 16),
        (64, "50000 100000", None, 1),
        (64, "1600000 100000", "junk", 16),
    ],
)
def test_auto_is_a_worker_for_each_core_that_a_rank_may_use(
    tmp_path, monkeypatch, cores, quota, ranks, workers
):
    group = tmp_path / "cpu.max"
    if quota:
        group.write_text(f"{quota}\n", encoding="ascii")
    monkeypatch.setattr("contrastive.data.worker_processes.QUOTA", group)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert worker_count("auto") == workers
    assert [worker_count(n) for n in (0, 3, 256)] == [0, 3, 256]
    monkeypatch.setitem(current_process()._config, "daemon", True)  # as in a Pool
    assert worker_count("auto") == 0


class Asked:
    """Meets what meets the thread of a worker that hands out its tensors' files."""

    def __init__(self, error):
        self.error = error

    def __getitem__(self, group):
        sys.excepthook(type(self.error), self.error, None)
        return group


def test_a_worker_without_files_ends_and_a_parent_that_has_gone_is_no_traceback(capfd):
    with pytest.raises(LostWorker, match=r"^too many open files"):
        list(map_in_workers(Asked(OSError(errno.EMFILE, "Too many open files")), [0], workers=1))
    assert [*map_in_workers(Asked(ConnectionResetError()), [0], workers=1)] == [0]
    assert capfd.readouterr().err == ""


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def hard_to_take_up(data, **settings):
    """Return a spec with BatchNorm and dropout in what trains, and an augmentation."""
    spec = toy_dict(data, cache="off", **{"epochs": 3} | settings)
    encoder = {"type": "resnet", "width": 4, "image_size": 32, "augment": "crop-flip"}
    spec["model"]["towers"]["image"]["encoder"] = encoder
    del spec["model"]["towers"]["image"]["frozen"]
    return spec


@pytest.fixture
def resumed(tmp_path):
    """Resume a run that has failed, and insist that it becomes the run that never failed."""

    def go_on(spec, error, at):
        broken, whole = tmp_path / "broken", tmp_path / "whole"
        assert f"saved at step {at}; go on with resume=True (--resume)" in str(error.value)
        assert "\n" not in str(error.value)
        with quiet():
            train(spec, broken, resume=True)
            train(spec, whole)
        assert losses(broken) == losses(whole)
        left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
        assert all(torch.equal(left[name], right[name]) for name in left | right)

    return go_on


@pytest.mark.parametrize("when", ["between steps", "in an update"])
def test_a_killed_worker_costs_no_finished_step(tmp_path, monkeypatch, resumed, when):
    spec = hard_to_take_up(tmp_path / "data", workers=1)
    left, at = [6], 7 if when == "between steps" else 6  # a step is logged with the one after it

    def kill(real, *args, **kwargs):
        left[0] -= 1
        result = real(*args, **kwargs)
        if not left[0]:
            for worker in active_children():
                os.kill(worker.pid, signal.SIGKILL)
                os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # it has ended
        return result

    place, name = (Log, "step") if when == "between steps" else (torch.optim.AdamW, "step")
    real = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args, **kwargs: kill(real, *args, **kwargs))
    with pytest.raises(LostWorker, match="was killed by SIGKILL") as error:
        train(spec, tmp_path / "broken")
    resumed(spec, error, at=at)


def fails_once(real, call, *args, **kwargs):
    """Do something, and at one of its calls ask for too much memory before it is over."""
    call[0] -= 1
    result = real(*args, **kwargs)
    if not call[0]:
        torch.empty(TOO_MUCH, dtype=torch.uint8)
    return result


def test_a_step_without_memory_costs_no_finished_step(tmp_path, monkeypatch, resumed):
    spec = hard_to_take_up(tmp_path / "data")
    failing = partial(fails_once, parallel.step_loss, [7])
    monkeypatch.setattr(parallel, "step_loss", failing)
    with pytest.raises(OutOfMemory) as error:
        train(spec, tmp_path / "broken")
    told = str(error.value)
    assert told.startswith(f"out of memory ({TOO_MUCH / 2**30:,.1f} GiB more were asked for)")
    assert "a step of 16 rows takes about" in told
    assert "another run with training.batch_size=8" in told
    assert "micro_batch" not in told, "BatchNorm refuses it"
    resumed(spec, error, at=6)


def test_the_remedies_for_a_lack_of_memory_work_on_resume(tmp_path, monkeypatch, command):
    spec = hard_to_take_up(tmp_path / "data")
    encoder = {"type": "vit", "width": 24, "depth": 2, "heads": 2, "image_size": 64}
    spec["model"]["towers"]["image"]["encoder"] = encoder
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "step_loss", partial(fails_once, parallel.step_loss, [2]))
        with pytest.raises(OutOfMemory) as error:
            train(spec, run)
    same, _, anew = str(error.value).partition("the same run with ")[2].partition(", or another")
    assert "training.batch_size=8" in anew
    remedies = [part.split(" (")[0] for part in same.split("), ")]
    assert sorted(remedies) == [
        "training.checkpoint_activations=[image]",
        "training.micro_batch=4",
    ]
    path = tmp_path / "spec.yaml"
    path.write_text(training.run_spec(spec).model_dump_json())
    outcome = command("train", path, *remedies, "--output", run, "--resume")
    assert outcome.code == 0, outcome.err
    assert len(losses(run)) == 12


def test_an_error_of_a_component_costs_no_finished_step(tmp_path, monkeypatch, capsys):
    real, calls = parallel.step_loss, []

    def step_loss(*args, **how):
        calls.append(1)
        return real(*args, **how) if len(calls) < 3 else 1 / 0

    monkeypatch.setattr(parallel, "step_loss", step_loss)
    with pytest.raises(ZeroDivisionError):
        train(toy_spec(tmp_path / "data"), tmp_path / "run")
    assert "saved at step 2; go on with resume=True (--resume)" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]


def test_an_update_that_fails_is_not_saved(tmp_path, monkeypatch):
    real, call = torch.optim.AdamW.step, [3]

    def step(self):
        return fails_once(partial(real, self), call)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(OutOfMemory, match="in the midst of an update, so that the step is not"):
        train(toy_spec(tmp_path / "data"), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


FULL = "run/checkpoints/step-00000001: cannot be written: No space left on device"


@pytest.mark.parametrize(
    ("first", "kind", "begins", "ends"),
    [
        (MemoryError(), OutOfMemory, "out of memory", "; take less"),
        (LostWorker("a worker was killed"), LostWorker, "a worker was killed", ""),
        (DataError("3 samples are bad"), DataError, "3 samples are bad", ""),
    ],
)
@pytest.mark.parametrize(
    ("second", "why"),
    [
        (WeightsError(FULL), FULL),
        (MemoryError(), "out of memory"),
        (OSError(5, "I/O error"), "[Errno 5] I/O error"),
        (TrainingError("image.head.weight is not\nfinite"), "image.head.weight is not finite"),
        (KeyError("a bug"), "'a bug'"),
    ],
)
def test_a_save_that_fails_hides_no_first_cause(capsys, first, kind, begins, ends, second, why):
    def save(step):
        raise second

    def run():
        saved = {"save": save, "advise": lambda batch: "take less"}
        with finished_steps_saved(torch.nn.Linear(1, 1), Ranks(), 0, **saved) as steps:
            steps.begin(object())
            with steps.update():
                pass
            raise first

    with pytest.raises(kind) as error:
        run()
    assert str(error.value) == f"{begins}; step 1 is not saved: {why}{ends}"
    told = capsys.readouterr().err
    assert told.endswith("KeyError: 'a bug'\n") if isinstance(second, KeyError) else not told


@pytest.mark.parametrize("cached", [True, False])
def test_encoding_and_evaluation_without_memory_are_one_line(tmp_path, monkeypatch, cached):
    spec = toy_spec(tmp_path / "data")
    model = build_model(spec)
    encoder = model.tower("image").encoder
    failing = partial(fails_once, encoder.forward, [1])
    monkeypatch.setattr(encoder, "forward", failing)
    what = "encoding 8 image samples at a time" if cached else "embedding image samples, 8 at a"
    cache = FeatureCache(tmp_path / "cache") if cached else None
    with pytest.raises(OutOfMemory, match=rf"{what}.*: out of memory \(.*; \w+ a smaller") as error:
        evaluate(model, spec.data.build("val"), cache=cache)
    assert "\n" not in str(error.value)


def test_a_verb_without_memory_is_one_line(tmp_path, monkeypatch, command):
    def fail(*_args, **_kwargs):
        raise MemoryError

    monkeypatch.setattr("contrastive.cli.validate.load_any", fail)
    outcome = command("validate", tmp_path / "spec.yaml")
    assert outcome.code == 2
    assert outcome.err.startswith("out of memory; take smaller batches or fewer samples")
    assert outcome.err.count("\n") == 1


def test_a_lack_of_memory_is_not_told_as_a_broken_file():
    with pytest.raises(MemoryError), loading_weights("encoder", "model.safetensors"):
        raise MemoryError


def test_samples_that_vanish_cost_no_finished_step(tmp_path, monkeypatch):
    spec = toy_spec(tmp_path / "data", cache="off")
    real, count = Log.step, [5]

    def step(*args, **kwargs):
        real(*args, **kwargs)
        count[0] -= 1
        if not count[0]:
            for path in (tmp_path / "data" / "flickr30k-images").iterdir():
                path.unlink()

    monkeypatch.setattr(Log, "step", step)
    with pytest.raises(DataError, match=r"samples are bad.*; saved at step 6; go on with resume"):
        train(spec, tmp_path / "run")
    # the fifth step is logged when the sixth is done, which was the last with samples
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()
