"""Training through the public interface: what is frozen stays, what stopped goes on."""

import json
import math
import os
import signal
import sys
import threading
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

import tests.signalled
from contrastive import RunSpec, build_model, load_model
from contrastive.errors import DataError, TrainingError, WeightsError
from contrastive.evaluation.evaluate import evaluate
from contrastive.features.cache import FeatureCache
from contrastive.nn.fingerprint import weights_fingerprint
from contrastive.reporting.run_log import Log, read_log
from contrastive.training.run_folder import LOCK
from contrastive.training.train import train
from tests.miniature import write_flickr30k
from tests.toys import toy_dict, toy_spec


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "cache")


def losses(folder):
    return [line["loss"] for line in read_log(folder / "log.jsonl") if "loss" in line]


def changed(spec_dict, **model):
    """Return the spec with the image tower's keys replaced."""
    spec_dict["model"]["towers"]["image"] |= model
    return RunSpec.model_validate(spec_dict)


@pytest.mark.slow
def test_training_learns_to_find_pictures_it_has_not_seen(tmp_path, cache):
    spec = toy_spec(tmp_path / "data", epochs=15)
    model = train(spec, tmp_path / "run", cache=cache)
    log = losses(tmp_path / "run")
    assert log[-1] < 0.6 * log[0]
    result = evaluate(model, spec.data.build("test"), cache=cache)
    text_to_image = result.retrieval["text_to_image"].recall[1]
    assert text_to_image.low > text_to_image.chance


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_frozen_encoder_with_batch_norm_and_dropout_does_not_drift(tmp_path, cache, mode):
    spec = toy_dict(tmp_path / "data", cache=mode)
    model = build_model(spec)
    before = weights_fingerprint(model.tower("image").encoder)
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    trained = train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    trained.train()
    encoder = trained.tower("image").encoder
    assert not any(module.training for module in encoder.modules())
    assert trained.tower("image").head.training
    inputs = encoder.preprocess(
        [r["image"] for r in [RunSpec.model_validate(spec).data.build("val")[0]]]
    )
    pixels = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    features = trained.tower("image").encode(**pixels)
    assert not features.requires_grad, "a graph was built through the frozen encoder"
    torch.testing.assert_close(features, trained.tower("image").encode(**inputs), rtol=0, atol=0)
    assert weights_fingerprint(encoder) == before


@pytest.mark.slow
def test_an_encoder_that_is_not_frozen_trains(tmp_path, cache):
    spec = changed(toy_dict(tmp_path / "data", epochs=1), frozen="none")
    before = weights_fingerprint(build_model(spec).tower("image").encoder)
    model = train(spec, tmp_path / "run", cache=cache)
    assert weights_fingerprint(model.tower("image").encoder) != before
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert any(name.startswith("towers.image.encoder.") for name in saved)


@pytest.mark.slow
def test_cached_and_live_features_train_alike(tmp_path, cache):
    train(toy_spec(tmp_path / "data", cache="auto"), tmp_path / "cached", cache=cache)
    train(toy_spec(tmp_path / "data", cache="off"), tmp_path / "live")
    assert losses(tmp_path / "cached") == pytest.approx(losses(tmp_path / "live"), rel=1e-4)


@pytest.mark.slow
def test_the_log_has_every_step_and_the_evaluation_of_each_epoch(tmp_path, cache):
    spec = toy_spec(tmp_path / "data", epochs=3, warmup=0.5)
    train(spec, tmp_path / "run", cache=cache)
    lines = read_log(tmp_path / "run" / "log.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 13))  # 64 pairs by 16, 3 epochs
    assert {"loss", "log_scale", "lr", "collisions", "accuracy", "grad_norm"} <= set(steps[0])
    rates = [line["lr"] for line in steps]
    assert rates[:6] == pytest.approx([1e-2 * (i + 1) / 6 for i in range(6)])
    assert rates[6] == 1e-2
    assert rates == sorted(rates[:6]) + sorted(rates[6:], reverse=True)
    assert rates[-1] < 0.1 * rates[6]
    assert steps[0]["log_scale"] == pytest.approx(math.log(1 / 0.07))
    assert any(line["collisions"] > 0 for line in steps), "two captions of an image never met"
    measured = [line["step"] for line in lines if "evaluation" in line]
    assert measured == [4, 8, 12]


def log_scales(run):
    return [line["log_scale"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.slow
def test_the_temperature_has_no_weight_decay(tmp_path, cache):
    spec = toy_spec(tmp_path / "data", lr=1e-6, weight_decay=1000.0, epochs=10)
    model = train(spec, tmp_path / "run", cache=cache)
    assert model.loss.log_scale.item() == pytest.approx(math.log(1 / 0.07), abs=1e-3)


@pytest.mark.slow
def test_the_temperature_stays_in_bounds(tmp_path, cache):
    spec = toy_dict(tmp_path / "data", lr=0.03, epochs=20)
    spec["evaluation"] = {"split": None}
    train(RunSpec.model_validate(spec), tmp_path / "free", cache=cache)
    low, high = min(log_scales(tmp_path / "free")), max(log_scales(tmp_path / "free"))
    bound = (math.log(1 / 0.07) + high) / 2
    assert low >= 0
    assert bound < high, "it never rose, so that nothing would be shown"
    spec["model"]["loss"]["max_scale"] = math.exp(bound)
    train(RunSpec.model_validate(spec), tmp_path / "bound", cache=cache)
    assert max(log_scales(tmp_path / "bound")) == pytest.approx(bound, abs=1e-6)


@pytest.mark.slow
def test_a_checkpoint_holds_no_frozen_weights_and_loads_as_it_was(tmp_path, cache):
    spec = toy_spec(tmp_path / "data")
    model = train(spec, tmp_path / "run", cache=cache)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert not any(name.startswith("towers.image.encoder.") for name in weights)
    assert "loss.log_scale" in weights
    again = load_model(tmp_path / "run")
    rows = spec.data.build("test")
    for modality in ("image", "text"):
        samples = [rows[i][modality] for i in range(4)]
        assert torch.equal(again.embed(modality, samples), model.embed(modality, samples))
    assert again.scale == model.scale
    assert again.spec == spec.model
    names = {p.suffix for p in (tmp_path / "run").rglob("*") if p.is_file()}
    assert names == {".json", ".jsonl", ".safetensors"}


@pytest.mark.slow
def test_a_model_refuses_another_encoder_than_it_was_trained_with(tmp_path, cache):
    spec = toy_dict(tmp_path / "data", epochs=1)
    own = tmp_path / "own.safetensors"
    weights = load_file(spec["model"]["towers"]["image"]["encoder"]["weights"])
    from safetensors.torch import save_file

    save_file(weights, own)
    spec["model"]["towers"]["image"]["encoder"]["weights"] = str(own)
    train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    weights["bn1.weight"] = weights["bn1.weight"] + 1
    save_file(weights, own)
    with pytest.raises(WeightsError, match="image encoder's weights are not those it was trained"):
        load_model(tmp_path / "run")


@pytest.mark.slow
def test_evaluating_on_what_was_trained_on_is_refused(tmp_path, cache):
    spec = toy_spec(tmp_path / "data", epochs=1)
    model = train(spec, tmp_path / "run", cache=cache)
    for seen in (model, load_model(tmp_path / "run")):
        with pytest.raises(
            DataError, match="'train' shares 160 of 160 image rows with the training"
        ):
            evaluate(seen, spec.data.build("train"), split="train")
    leaky = spec.model_copy(
        update={"evaluation": spec.evaluation.model_copy(update={"split": "train+val"})}
    )
    with pytest.raises(DataError, match="shares"):
        train(leaky, tmp_path / "leaky", cache=cache)
    assert not (tmp_path / "leaky" / "checkpoints").exists()


@pytest.mark.slow
def test_bad_rows_and_images_are_reported_and_training_goes_on(tmp_path, cache, capsys):
    write_flickr30k(tmp_path / "data", images=48, broken=1, malformed=1)
    spec = toy_dict(tmp_path / "data", epochs=1)
    spec["data"]["max_bad"] = 0.1
    train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    told = capsys.readouterr().err
    assert "1000092795.jpg" in told
    assert "dataset_flickr30k.json" in told
    spec["data"]["max_bad"] = 0
    with pytest.raises(DataError, match=r"samples are bad, 0 may be \(max_bad: 0\)"):
        train(RunSpec.model_validate(spec), tmp_path / "strict", cache=cache)


@pytest.mark.slow
def test_live_encoders_leave_out_bad_images_too(tmp_path, capsys):
    write_flickr30k(tmp_path / "data", images=48, broken=1)
    spec = toy_dict(tmp_path / "data", epochs=2, cache="off")
    spec["data"]["max_bad"] = 0.1
    train(RunSpec.model_validate(spec), tmp_path / "run")
    assert capsys.readouterr().err.count("1000092795.jpg: ") == 1, (
        "said once, for both rows and epochs"
    )


@pytest.mark.slow
def test_a_run_is_not_overwritten_by_mistake(tmp_path, cache):
    spec = toy_spec(tmp_path / "data", epochs=1)
    train(spec, tmp_path / "run", cache=cache)
    with pytest.raises(TrainingError, match="holds a run already; go on with resume=True"):
        train(spec, tmp_path / "run", cache=cache)
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(spec, tmp_path / "other", resume=True, cache=cache)
    with pytest.raises(TrainingError, match=r"to change the spec: spec\.with_\('training.lr=1'\)"):
        train(spec, "training.lr=1")


def train_in_a_group(told, signalled, arguments):
    """Train by the command line in a process group of its own, as a terminal starts one."""
    os.setsid()
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(told, os.O_CREAT | os.O_APPEND | os.O_WRONLY), stream.fileno())
    sys.argv = ["contrastive", "train", *arguments]
    tests.signalled.main(*signalled)


@pytest.fixture
def ended(forkserver, tmp_path):
    """Train until a signal: ``ended(path, run, signalled=...)``; return the exit code and stderr.

    ``signalled`` is a signal's name, a step, and who gets it: see ``tests.signalled``.
    """

    def start(spec_path, run, *extra, signalled):
        arguments = [str(spec_path), "--output", str(run), *extra]
        told = tmp_path / "told.txt"
        told.unlink(missing_ok=True)
        process = forkserver.Process(target=train_in_a_group, args=(told, signalled, arguments))
        process.start()
        process.join()
        return process.exitcode, told.read_text()

    return start


@pytest.mark.nightly
def test_a_run_killed_and_resumed_is_the_run_that_never_stopped(tmp_path, ended, capsys):
    """SIGKILL, then SIGTERM, then to the end: the same losses and weights to the last bit.

    A worker, and random numbers in it, are what is hardest to take up again; other kinds of runs
    are killed in ``test_kills``.
    """
    spec = toy_dict(tmp_path / "data", epochs=4, checkpoint_every=3, workers=1)
    spec["model"]["towers"]["image"]["encoder"]["augment"] = "crop-flip"
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(spec))
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    train(path, whole)
    code, _ = ended(path, broken, signalled=("SIGKILL", 4, "self"))
    assert code == -signal.SIGKILL
    code, told = ended(path, broken, "--resume", signalled=("SIGTERM", 10, "self"))
    assert code == 128 + signal.SIGTERM, told
    assert "go on with resume=True" in told
    capsys.readouterr()
    train(path, broken, resume=True)
    assert "resumed at step" in capsys.readouterr().err

    assert losses(broken) == losses(whole)
    assert len(losses(whole)) == 16
    left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_ctrl_c_with_worker_processes_saves_and_can_be_resumed(tmp_path, ended):
    """A terminal sends SIGINT to the whole group, so the workers get it too."""
    spec = toy_dict(tmp_path / "data", epochs=50, cache="off", workers=2)
    path, run = tmp_path / "spec.yaml", tmp_path / "run"
    path.write_text(json.dumps(spec))
    code, told = ended(path, run, signalled=("SIGINT", 6, "group"))
    assert code == 130, told
    assert "Traceback" not in told
    done = len(losses(run))
    assert done < 200
    assert (run / "checkpoints" / f"step-{done:08d}").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", pytest.param("SIGUSR1", marks=pytest.mark.nightly)])
def test_a_closed_terminal_and_a_batch_system_find_the_step_saved(tmp_path, ended, name):
    spec = toy_dict(tmp_path / "data", epochs=50, cache="off", workers=1)
    path, run = tmp_path / "spec.yaml", tmp_path / "run"
    path.write_text(json.dumps(spec))
    code, told = ended(path, run, signalled=(name, 3, "group"))
    assert code == 128 + signal.Signals[name], told
    done = len(losses(run))
    assert f"interrupted at step {done} of 200; saved; go on with" in told
    assert (run / "checkpoints" / f"step-{done:08d}").is_dir()


@pytest.mark.slow
def test_a_run_that_was_started_to_outlive_its_terminal_does(tmp_path, cache, monkeypatch):
    real = Log.step

    def step(self, *args, **metrics):
        real(self, *args, **metrics)
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(Log, "step", step)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        train(toy_spec(tmp_path / "data", epochs=1), tmp_path / "run", cache=cache)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert len(losses(tmp_path / "run")) == 4


def test_an_empty_or_unwanted_evaluation_split(tmp_path, cache):
    spec = toy_dict(tmp_path / "data", images=4, epochs=1)  # four images, all of them in train
    with pytest.raises(DataError, match="no split 'val'; there are: 'train'"):
        train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    spec["evaluation"] = {"split": None}
    train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    assert not any("evaluation" in line for line in read_log(tmp_path / "run" / "log.jsonl"))


def steps_of(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


@pytest.mark.slow
def test_resuming_refuses_another_run(tmp_path, cache):
    spec = toy_dict(tmp_path / "data", epochs=1)
    train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    other = toy_dict(tmp_path / "data", epochs=1, batch_size=8)
    with pytest.raises(TrainingError, match=r"with training\.batch_size: 16, the spec says 8"):
        train(RunSpec.model_validate(other), tmp_path / "run", resume=True, cache=cache)
    moved = toy_dict((tmp_path / "data").rename(tmp_path / "moved"), epochs=1, workers=1)
    train(RunSpec.model_validate(moved), tmp_path / "run", resume=True, cache=cache)
    annotations = tmp_path / "moved" / "dataset_flickr30k.json"
    document = json.loads(annotations.read_text())
    document["images"].reverse()
    annotations.write_text(json.dumps(document))
    with pytest.raises(TrainingError, match="was trained on other rows"):
        train(RunSpec.model_validate(moved), tmp_path / "run", resume=True, cache=cache)


@pytest.mark.slow
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, cache, capsys):
    spec = toy_spec(tmp_path / "data", epochs=2)
    train(spec, tmp_path / "run", cache=cache)
    weights = tmp_path / "run" / "checkpoints" / "step-00000008" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    right = losses(tmp_path / "run")
    train(spec, tmp_path / "run", resume=True, cache=cache)
    assert "step-00000008: damaged, taking the one before it" in capsys.readouterr().err
    assert losses(tmp_path / "run") == right
    assert steps_of(tmp_path / "run") == [4, 8]


def test_two_processes_do_not_train_into_one_folder(tmp_path, cache):
    from filelock import FileLock

    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / LOCK),
        pytest.raises(TrainingError, match="another process is training here"),
    ):
        train(toy_spec(tmp_path / "data"), tmp_path / "run", cache=cache)


@pytest.mark.parametrize("theirs", [(), ("log.jsonl", LOCK)], ids=["moved", "another run"])
def test_a_run_whose_folder_is_another_by_now_saves_nothing_there(
    tmp_path, cache, monkeypatch, theirs
):
    run, moved = tmp_path / "run", tmp_path / "moved"
    spec, step = toy_spec(tmp_path / "data", checkpoint_every=2), Log.step

    def meddle(log, done, *args, **metrics):
        step(log, done, *args, **metrics)
        if done == 3 and run.exists():
            for thread in threading.enumerate():  # the second step is saved by now
                if thread.name == "contrastive-background":
                    thread.join()
            run.rename(moved)
            for name in theirs:
                run.mkdir(exist_ok=True)
                (run / name).write_text("theirs")

    monkeypatch.setattr(Log, "step", meddle)
    with pytest.raises(TrainingError, match=r"is not the log of this run any more: .*--resume"):
        train(spec, run, cache=cache)
    assert {path.name for path in run.glob("*")} == {*theirs}
    assert steps_of(moved) == [2]
    if not theirs:
        train(spec, moved, resume=True, cache=cache)
        assert steps_of(moved) == [6, 8]


@pytest.mark.slow
def test_a_run_with_nothing_to_train_says_so(tmp_path, cache):
    spec = toy_dict(tmp_path / "data")
    spec["model"]["loss"]["learn_temperature"] = False
    for tower in spec["model"]["towers"].values():
        tower["frozen"] = "all"
    with pytest.raises(TrainingError, match="nothing to train"):
        train(RunSpec.model_validate(spec), tmp_path / "run", cache=cache)
    assert not (tmp_path / "run").exists(), "an empty folder is left behind"


@pytest.mark.parametrize("workers", [0, 1])
def test_pictures_that_vanish_end_the_run_in_one_line(tmp_path, workers):
    spec = toy_spec(tmp_path / "data", cache="off", workers=workers)
    rows = spec.data.build("train", purpose="training")
    for row in rows:
        row["image"].unlink(missing_ok=True)

    class Gone(type(spec.data)):
        def build(self, split, *, purpose="evaluation"):
            return rows if split == "train" else []

    gone = spec.model_copy(
        update={
            "data": Gone(folder=spec.data.folder),
            "evaluation": spec.evaluation.model_copy(update={"split": None}),
        }
    )
    with pytest.raises(DataError, match="samples are bad, 1 may be") as error:
        train(gone, tmp_path / "run")
    assert "\n" not in str(error.value)


def test_a_log_that_is_cut_off_is_read_up_to_there(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2.0}\n\xff\xfe{"step": 2')
    assert read_log(path) == [{"step": 1, "loss": 2.0}]


def test_of_a_long_log_the_newest_steps_are_read_and_some_of_each_time_before(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        for step in range(1, 5001):
            log.step(step, step / 100, loss=1.0)
            if step % 1000 == 0:
                log.note({"step": step, "epoch": step / 100, "gradients": {"text.head": 1.0}})
    whole, some = (read_log(tmp_path / "log.jsonl", steps=steps) for steps in (None, 200))
    assert len(whole) == 5005
    assert some == [line for line in whole if line in some]
    assert [line["step"] for line in some if "gradients" in line] == [1000, 2000, 3000, 4000, 5000]
    steps = [line["step"] for line in some if "loss" in line]
    assert len(steps) <= 400
    assert steps[-200:] == list(range(4801, 5001))
    assert steps[0] == 1
    assert max(b - a for a, b in pairwise(steps)) <= 32


def test_the_log_rounds_the_epoch_of_every_line_and_nothing_else(tmp_path):
    with Log(tmp_path / "log.jsonl") as log:
        log.step(1, 1 / 3, loss=1 / 3)
        log.note({"step": 2, "epoch": 2 / 3, "gradients": {"head": 2 / 3}})
    assert read_log(tmp_path / "log.jsonl") == [
        {"step": 1, "epoch": 0.333333, "loss": 1 / 3},
        {"step": 2, "epoch": 0.666667, "gradients": {"head": 2 / 3}},
    ]
