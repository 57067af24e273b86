"""What would end a run after hours is told before its first step."""

import os
import shutil

import pytest

from contrastive import train
from contrastive.errors import DataError, TrainingError
from contrastive.training import start_checks
from tests.miniature import Picture
from tests.toys import toy_dict, toy_spec

pytestmark = pytest.mark.slow


def no_step(run):
    """Whether a run's folder is as if it had never begun."""
    return not run.exists() or not any((run / "checkpoints").glob("*"))


@pytest.fixture
def steps(monkeypatch):
    """Return the steps that were begun."""
    from contrastive.training import parallel as module

    begun, real = [], module.step_loss

    def counted(*args, **how):
        begun.append(1)
        return real(*args, **how)

    monkeypatch.setattr(module, "step_loss", counted)
    return begun


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_broken_images_of_the_evaluation_are_told_before_the_first_step(tmp_path, steps, cache):
    spec = toy_spec(tmp_path / "data", cache=cache)
    held_out = [picture for picture in map(Picture, range(48)) if picture.split == "val"]
    for picture in held_out[:3]:
        path = tmp_path / "data" / "flickr30k-images" / picture.name
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"evaluation.split 'val': \d+ of \d+ samples are bad") as e:
        train(spec, tmp_path / "run")
    assert held_out[0].name in str(e.value)
    assert not steps
    assert no_step(tmp_path / "run")


def test_a_disk_without_room_for_a_checkpoint_is_told_with_sizes(tmp_path, steps, monkeypatch):
    monkeypatch.setattr(start_checks, "write_files", lambda *_, **__: refuse())
    with pytest.raises(TrainingError, match=r"a checkpoint takes about \d+ MB, [\d,]+ MB are free"):
        train(toy_spec(tmp_path / "data"), tmp_path / "run")
    assert not steps
    assert not (tmp_path / "run" / "checkpoints").exists()


def refuse():
    raise OSError(122, "Disk quota exceeded")


def test_room_for_all_that_a_run_keeps_is_asked_for(tmp_path, steps, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(start_checks.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TrainingError, match="1 MB are free, and up to 4 checkpoints of"):
        train(toy_spec(tmp_path / "data"), tmp_path / "run")
    assert not steps


def limited(spec, run):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # a checkpoint has more
    try:
        train(spec, run)
    except TrainingError as error:
        os._exit(3 if "File too large; a checkpoint takes about" in str(error) else 4)
    os._exit(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no limits here")
@pytest.mark.nightly
def test_a_real_limit_is_met_before_the_first_step(tmp_path, forkserver):
    spec = toy_dict(tmp_path / "data")
    process = forkserver.Process(target=limited, args=(spec, tmp_path / "run"))
    process.start()
    process.join()
    assert process.exitcode == 3
    assert no_step(tmp_path / "run")


def test_nothing_of_the_trial_is_left(tmp_path):
    train(toy_spec(tmp_path / "data", epochs=1), tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]
