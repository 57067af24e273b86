"""What a run has written is not lost: by a resume, by damage, by names of others, by a failure."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import sys
from unittest.mock import DEFAULT, Mock

import pytest

from contrastive import load_model
from contrastive.console import noted_omissions
from contrastive.errors import ContrastiveError, DataError, TrainingError, WeightsError
from contrastive.features.cache import FeatureCache
from contrastive.model import saved_folder
from contrastive.model.run_checkpoints import drop_superseded
from contrastive.reporting.run_log import Log, read_log
from contrastive.training import recorder
from contrastive.training.train import Interrupted
from contrastive.training.train import train as start
from tests import crashing_run
from tests.crashing_run import spec

pytestmark = pytest.mark.slow


@pytest.fixture
def train(tmp_path):
    """Train for two epochs of three steps: ``train(folder, resume=True)``."""
    cache = FeatureCache(tmp_path / "cache")
    return lambda folder, **options: start(spec(2), folder, cache=cache, **options)


@pytest.fixture
def run(train, tmp_path, capsys):
    """Return the folder of a run that is done; its checkpoints are those of steps 5 and 6."""
    train(tmp_path / "run")
    capsys.readouterr()
    return tmp_path / "run"


def tree(folder):
    """Return each file in a folder with what it holds."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def step(run, number):
    return run / "checkpoints" / f"step-{number:08d}"


def names(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def spoil(folder, name="model.safetensors"):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-9])


def losses(run):
    return {line["step"]: line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(run, train, number, monkeypatch):
    before = tree(run)
    os.utime(step(run, 6) / "model.safetensors", (1, 1))  # so that it is read again
    real = saved_folder._sha256

    def fails(path):
        if path.parent == step(run, 6):
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(saved_folder, "_sha256", fails)
    with pytest.raises(WeightsError, match=f"cannot be read: {os.strerror(number)}"):
        train(run, resume=True)
    shutil.rmtree(run / "model")
    with pytest.raises(WeightsError, match=f"cannot be read: {os.strerror(number)}"):
        load_model(run)
    assert {n: data for n, data in before.items() if not n.startswith("model/")} == tree(run)


def test_a_checkpoint_of_a_later_release_is_not_taken_for_damaged(run, train):
    manifest = step(run, 6) / saved_folder.MANIFEST
    later = json.loads(manifest.read_text()) | {"format": saved_folder.FORMAT + 1}
    manifest.write_text(json.dumps(later))
    before = tree(run)
    with pytest.raises(WeightsError, match="pip install --upgrade"):
        train(run, resume=True)
    assert tree(run) == before


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "manifest.json"])
def test_a_damaged_checkpoint_is_kept_until_its_step_is_saved_again(
    run, train, name, capsys, monkeypatch
):
    before = tree(run)
    spoil(step(run, 6), name)
    monkeypatch.setattr(recorder, "save_step", lambda *_: pytest.fail("far enough"))
    with pytest.raises(pytest.fail.Exception):
        train(run, resume=True)
    assert "damaged, taking the one before it; it is kept as damaged-step-00000006" in (
        capsys.readouterr().err
    )
    assert names(run) == ["damaged-step-00000006", "step-00000005"]
    monkeypatch.undo()
    train(run, resume=True)
    assert tree(run) == before


def test_if_all_checkpoints_are_damaged_all_are_kept(run, train):
    shutil.rmtree(run / "model")
    for number in (5, 6):
        spoil(step(run, number))
    for _ in range(2):
        with pytest.raises(TrainingError, match="nothing to resume here"):
            train(run, resume=True)
    assert names(run) == ["damaged-step-00000005", "damaged-step-00000006"]


def test_what_others_put_beside_checkpoints_is_neither_read_nor_counted_nor_removed(train, run):
    before = tree(run)
    beside = run / "checkpoints"
    shutil.copytree(step(run, 5), beside / "step-best")
    shutil.copytree(step(run, 5), beside / "step-00000005.bak")
    shutil.copytree(step(run, 5), beside / "step-5")
    shutil.copytree(step(run, 5), beside / ".step-00000005.mine.old")
    (beside / "step-00000005.tar.gz").write_bytes(b"an archive")
    (beside / "step-notes").mkdir()
    (beside / "step-notes" / "notes.txt").write_text("mine")
    own = {name: data for name, data in tree(run).items() if name not in before}
    spoil(step(run, 6))
    train(run, resume=True)
    assert tree(run) == before | own
    shutil.rmtree(run / "model")
    assert load_model(run, trusted=True).spec == spec(2).model


def test_a_checkpoint_with_notes_of_somebody_is_not_removed(train, tmp_path):
    def noted(log, done, epoch, **metrics):
        log_step(log, done, epoch, **metrics)
        if done == 4:  # the second checkpoint is written beside the third step
            (step(tmp_path / "run", 2) / "notes.txt").write_text("mine")

    log_step = Log.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Log, "step", noted)
        train(tmp_path / "run")
    assert (step(tmp_path / "run", 2) / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("part", ["log.jsonl", "model", "checkpoints"])
def test_any_part_of_a_run_is_a_run(run, train, part):
    for other in {"log.jsonl", "model", "checkpoints"} - {part}:
        path = run / other
        path.unlink() if path.is_file() else shutil.rmtree(path)
    before = tree(run)
    with pytest.raises(TrainingError, match="holds a run already; go on with resume=True"):
        train(run)
    assert tree(run) == before


def test_a_model_without_checkpoints_is_not_begun_anew(run, train):
    shutil.rmtree(run / "checkpoints")
    before = tree(run)
    with pytest.raises(TrainingError, match=r"nothing to resume here; .*model is finished"):
        train(run, resume=True)
    assert tree(run) == before


def test_a_log_of_something_else_is_not_overwritten(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text('{"event": "mine"}\n')
    with pytest.raises(TrainingError, match=r"log\.jsonl: is not the log of a run; choose another"):
        train(tmp_path / "run")
    assert tree(tmp_path / "run") == {"log.jsonl": b'{"event": "mine"}\n'}


def test_a_folder_model_of_something_else_is_told_before_the_first_step(train, tmp_path):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "precious.txt").write_text("mine")
    with pytest.raises(TrainingError, match="model: holds other things than a saved model"):
        train(tmp_path / "run")
    assert tree(tmp_path / "run") == {"model/precious.txt": b"mine"}


@pytest.mark.parametrize(
    ("name", "kind"), [("model", "touch"), ("log.jsonl", "mkdir"), ("log.jsonl", "mkfifo")]
)
def test_what_is_in_the_way_of_model_and_log_is_told_before_the_first_step(
    train, tmp_path, name, kind
):
    place = tmp_path / "run" / name
    place.parent.mkdir()
    os.mkfifo(place) if kind == "mkfifo" else getattr(place, kind)()
    with pytest.raises(TrainingError, match=f"{name}: is .*; choose another output"):
        train(tmp_path / "run")
    assert [path.name for path in place.parent.iterdir()] == [name]


def test_a_file_lock_of_somebody_is_kept(train, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").write_text("mine")
    train(tmp_path / "run")
    assert (tmp_path / "run" / "lock").read_text() == "mine"


def test_an_output_that_cannot_be_locked_is_told_with_the_remedy(train, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse_to_lock)  # as a network disk may
    with pytest.raises(TrainingError, match=r"cannot be locked: No locks .* an output on anoth"):
        train(tmp_path / "run")


def refuse_to_lock(*_):
    raise OSError(errno.ENOLCK, "No locks available")


BAD_LINES = {
    "a number": b"3\n",
    "no step": b'{"loss": 1}\n',
    "a loss that is a word": b'{"step": 1, "loss": "low"}\n',
    "an evaluation that is none": b'{"step": 1, "evaluation": 3}\n',
    "a number that no float holds": b'{"step": 1' + 400 * b"0" + b"}\n",
    "zeros": b"\0" * 20 + b"\n",
    "another encoding": b'{"step": 1, "loss": \xff}\n',
    "half a line": b'{"step": 1, "lo\n',
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_of_the_log_costs_no_other_and_is_told(run, train, bad, capsys):
    log = run / "log.jsonl"
    right = log.read_bytes()
    spoilt = right.replace(b"\n", b"\n" + bad, 1)
    log.write_bytes(spoilt)
    train(run, resume=True)
    assert log.read_bytes() == right
    assert (run / "log.jsonl.bak-1").read_bytes() == spoilt
    told = capsys.readouterr().err
    assert "1 line is no line of a log; the file as it was is log.jsonl.bak-1" in told
    assert "are lost" not in told


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b"\n", b"\r\n"], ids=["BOM", "blank", "CRLF"])
def test_what_an_editor_adds_to_a_log_costs_nothing(run, train, start):
    before = read_log(run / "log.jsonl")
    (run / "log.jsonl").write_bytes(start + (run / "log.jsonl").read_bytes())
    train(run, resume=True)
    assert read_log(run / "log.jsonl") == before


@pytest.mark.parametrize("left", [0, 2])
def test_lines_that_a_log_has_lost_are_counted(run, train, left, capsys):
    lines = (run / "log.jsonl").read_bytes().splitlines(keepends=True)
    (run / "log.jsonl").write_bytes(b"".join(lines[:left]))
    train(run, resume=True)
    lost = len(lines) - left
    assert f"{lost} of {len(lines)} lines until step 6 are lost" in capsys.readouterr().err


def test_the_lines_of_a_log_are_on_the_disk_before_the_checkpoint_that_counts_them(
    train, tmp_path, monkeypatch
):
    flushed, real = [], Log.flush

    def flush(log):
        real(log)
        flushed.append(log.lines)

    def counted(*args):
        assert args[-1].log_lines == flushed[-1]
        save(*args)

    save = recorder.save_step
    monkeypatch.setattr(Log, "flush", flush)
    monkeypatch.setattr(recorder, "save_step", counted)
    train(tmp_path / "run")
    assert len(flushed) == 8  # six steps, and two epochs that are measured


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("part", ["evaluate", "check_up", "save_progress"])
def test_an_epoch_whose_evaluation_was_interrupted_is_measured_by_the_resumed_run(
    run, train, tmp_path, epoch, part, monkeypatch
):
    calls = []

    def interrupted(*args, **options):
        calls.append(args)
        if len(calls) == epoch:
            raise KeyboardInterrupt
        return real(*args, **options)

    real = getattr(recorder, part)
    monkeypatch.setattr(recorder, part, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "other")
    monkeypatch.undo()
    train(tmp_path / "other", resume=True)
    assert tree(tmp_path / "other") == tree(run)


@pytest.mark.parametrize("last", [3, 6], ids=["of an epoch", "of the run"])
def test_a_signal_in_the_last_step_loses_no_evaluation(run, train, tmp_path, last, monkeypatch):
    def signalled(log, done, epoch, **metrics):
        log_step(log, done, epoch, **metrics)
        if done == last:
            os.kill(os.getpid(), signal.SIGTERM)

    log_step = Log.step
    monkeypatch.setattr(Log, "step", signalled)
    with pytest.raises(Interrupted, match=f"interrupted at step {last} of 6; saved"):
        train(tmp_path / "other")
    monkeypatch.undo()
    train(tmp_path / "other", resume=True)
    assert tree(tmp_path / "other") == tree(run)


def failing(error, *, epochs=(1, 2)):
    """Return an evaluation that fails in some epochs."""
    results = [error if epoch in epochs else DEFAULT for epoch in (1, 2, 3)]
    return Mock(wraps=recorder.evaluate, side_effect=results)


@pytest.mark.parametrize("error", [DataError("bad images"), OSError(5, "I/O"), ZeroDivisionError()])
def test_a_failing_evaluation_does_not_end_a_run_and_is_done_again(
    run, train, tmp_path, error, monkeypatch, capsys
):
    monkeypatch.setattr(recorder, "evaluate", failing(error, epochs=(2,)))
    with noted_omissions() as noted:
        train(tmp_path / "other")
    assert noted == [f"epoch 2 is not measured: {error}"]
    told = capsys.readouterr().err
    assert noted[0] in told
    assert ("Traceback" in told) is isinstance(error, ZeroDivisionError), "only bugs have one"
    lines = read_log(tmp_path / "other" / "log.jsonl")
    assert [line["step"] for line in lines if "evaluation" in line] == [3]
    assert [line["not_measured"] for line in lines if "not_measured" in line] == [str(error)]
    monkeypatch.undo()
    train(tmp_path / "other", resume=True)
    assert tree(tmp_path / "other") == tree(run)


def test_a_failing_check_of_the_doctor_does_not_end_a_run(
    run, train, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(recorder, "check_up", lambda *_: 1 / 0)
    train(tmp_path / "other")
    assert "the doctor's check after step 3 failed: division by zero" in capsys.readouterr().err
    assert losses(tmp_path / "other") == losses(run)


def test_an_epoch_that_is_not_measured_does_not_cost_those_after_it(
    run, train, tmp_path, monkeypatch
):
    monkeypatch.setattr(recorder, "evaluate", failing(DataError("bad images"), epochs=(1,)))
    train(tmp_path / "other")
    assert losses(tmp_path / "other") == losses(run)
    last = [line for line in read_log(tmp_path / "other" / "log.jsonl") if "evaluation" in line]
    assert [line["step"] for line in last] == [6]


def test_the_exit_code_tells_that_an_epoch_is_not_measured(tmp_path, command, monkeypatch):
    path = tmp_path / "points.json"
    path.write_text(json.dumps(spec(1).model_dump(mode="json")))
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "evaluate", failing(DataError("bad images")))
        ended = command("train", path, "--output", tmp_path / "run")
    assert ended.code == 3, ended.err
    assert "epoch 1 is not measured: bad images" in ended.err
    ended = command("train", path, "--output", tmp_path / "run", "--resume")
    assert ended.code == 0, ended.err


def test_other_content_under_the_same_names_is_refused(run, train, monkeypatch):
    before = tree(run)
    spoil(step(run, 6))
    monkeypatch.setattr(crashing_run.Rows, "shift", 1)
    with pytest.raises(ContrastiveError, match=r"12 of the 12 points samples .* are others now"):
        train(run, resume=True)
    assert {n: d for n, d in tree(run).items() if "/step-00000005/" in n} == {
        n: d for n, d in before.items() if "/step-00000005/" in n
    }


def test_a_run_that_ended_before_its_first_checkpoint_begins_anew_and_keeps_its_log(
    run, train, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(recorder, "save_step", lambda *_: pytest.fail("too early"))
        with pytest.raises(pytest.fail.Exception):
            train(tmp_path / "other")
    lines = (tmp_path / "other" / "log.jsonl").read_bytes()
    train(tmp_path / "other", resume=True)
    assert "ended before its first checkpoint; starting at step 1" in capsys.readouterr().err
    assert tree(tmp_path / "other") == tree(run) | {"log.jsonl.bak-1": lines}


def test_ctrl_c_within_a_verb_ends_with_its_sentence(tmp_path, command, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    path = tmp_path / "points.json"
    path.write_text(json.dumps(spec(1).model_dump(mode="json")))
    monkeypatch.setattr("contrastive.features.cache.run_encoder", interrupted)
    ended = command("train", path, "--output", tmp_path / "run")
    assert ended.code == 130
    assert ended.err.endswith(
        "interrupted; files on disk are complete, and cached features are kept: run it again\n"
    )


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), BrokenPipeError(), RuntimeError("reentrant call")]
)
def test_a_run_goes_on_and_saves_when_its_lines_cannot_be_written(
    run, train, tmp_path, error, monkeypatch
):
    class Gone(io.StringIO):
        def write(self, _):
            raise error

    def signalled(log, done, epoch, **metrics):
        log_step(log, done, epoch, **metrics)
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    log_step = Log.step
    monkeypatch.setattr(Log, "step", signalled)
    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(Interrupted, match="interrupted at step 4 of 6; saved"):
        train(tmp_path / "other")
    monkeypatch.undo()
    train(tmp_path / "other", resume=True)
    assert tree(tmp_path / "other") == tree(run)


def test_a_copy_of_a_checkpoint_under_a_later_number_is_told(run, train):
    shutil.rmtree(run / "model")
    shutil.copytree(step(run, 5), step(run, 9))
    with pytest.raises(TrainingError, match=r"step-00000009: is a copy of step 5; move it out"):
        train(run, resume=True)
    assert names(run) == ["step-00000005", "step-00000006", "step-00000009"]
    step(run, 9).rename(run / "mine")
    train(run, resume=True)
    assert (run / "model").is_dir()


def test_a_later_number_that_holds_no_checkpoint_takes_the_place_of_none(run):
    step(run, 9).mkdir()
    drop_superseded(run, 6, last=2)
    assert names(run) == ["step-00000005", "step-00000006", "step-00000009"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_log_that_is_a_pipe_is_not_waited_for(run, train):
    (run / "log.jsonl").unlink()
    os.mkfifo(run / "log.jsonl")
    with pytest.raises(TrainingError, match=r"log\.jsonl: is no regular file; choose"):
        train(run, resume=True)


@pytest.mark.parametrize(
    "change",
    ["model.loss.type=sigmoid", "training.clip_norm=null", "model.embed_dim=7"],
)
def test_a_changed_spec_is_told_with_an_override_that_lets_the_run_go_on(run, tmp_path, change):
    changed, cache = spec(2).with_(change), FeatureCache(tmp_path / "cache")
    with pytest.raises(TrainingError, match=f"was trained with {change.partition('=')[0]}") as told:
        start(changed, run, resume=True, cache=cache)
    override = str(told.value).partition("; give ")[2].partition(", or start anew")[0]
    before = tree(run)
    start(changed.with_(override), run, resume=True, cache=cache)
    assert tree(run) == before
