"""Trackers and callbacks see what the log has, and a tracker that fails stops no run."""

import json
import shutil
import threading
import time
from types import SimpleNamespace

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contrastive import Callback, RunSpec, train
from contrastive.config.bounds import Name
from contrastive.console import told_to
from contrastive.errors import MissingExtra, SpecError, TrainingError
from contrastive.recipe.callback import RunInfo
from contrastive.recipe.trackers import Tracker, mlflow, trackers
from contrastive.training import tracking

SEEN = []
LET_GO = threading.Event()


class Stand(Callback):
    """Notes what it is given; ``trouble`` says in which method it fails."""

    def __init__(self, trouble=""):
        self.trouble = trouble

    def on_start(self, run):
        self.note("on_start", run.step, dict(run.state))
        run.state["id"] = f"of {run.step}"

    def on_step(self, step, metrics):
        self.note("on_step", step, metrics)

    def on_evaluation(self, step, metrics):
        self.note("on_evaluation", step, metrics)

    def on_end(self):
        self.note("on_end")

    def note(self, *call):
        if call[0] == self.trouble:
            raise ConnectionError("no network")
        if self.trouble == "exit" and call[0] == "on_step":
            raise SystemExit("no network")
        if self.trouble == "slow":
            LET_GO.wait(30)
        SEEN.append(call)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Register a tracker for this test alone."""
    SEEN.clear()
    LET_GO.clear()
    monkeypatch.setattr(trackers, "registered", dict(trackers.registered))

    @trackers.register("stand-in")
    class StandIn(Tracker):
        trouble: Name = "none"

        def check(self):
            if self.trouble == "missing":
                raise MissingExtra('stand is not installed; run: pip install "stand"')

        def build(self):
            return Stand(self.trouble)


def spec_in(folder, trouble="none", **training):
    (folder / "texts.txt").write_text("\n".join(f"text {i} of {i * i}" for i in range(32)))
    encoder = {"type": "text-transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.1}
    return {
        "model": {
            "embed_dim": 8,
            "towers": {"text": {"encoder": encoder, "head": {"type": "linear"}}},
            "loss": {"type": "infonce"},
            "pairs": [("text", "text")],
        },
        "data": {"type": "lines", "file": str(folder / "texts.txt")},
        "training": {"epochs": 2, "batch_size": 8, "workers": 0, "device": "cpu"}
        | {"trackers": [{"type": "stand-in", "trouble": trouble}]}
        | training,
        "evaluation": {"split": None},
    }


def logged(run):
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def steps(calls):
    return [call[1] for call in calls if call[0] == "on_step"]


def test_a_tracker_is_given_what_the_log_has_and_goes_on_from_the_checkpoint(tmp_path):
    spec = spec_in(tmp_path, checkpoint_every=2)

    class Stop(Callback):
        def on_step(self, step, metrics):
            if step == 3:
                raise ValueError("enough")

    with pytest.raises(TrainingError, match=r"callbacks: .*Stop\.on_step raised at .*: ValueError"):
        train(spec, tmp_path / "run", callbacks=[Stop()])
    assert SEEN[0] == ("on_start", 0, {})
    assert SEEN[-1] == ("on_end",)
    first = steps(SEEN)
    SEEN.clear()
    train(spec, tmp_path / "run", resume=True)
    name, done, state = SEEN[0]
    assert (name, state) == ("on_start", {"id": "of 0"})
    assert done <= max(first)
    lines = logged(tmp_path / "run")
    assert steps(SEEN) == [line["step"] for line in lines if line["step"] > done]
    kept = json.loads((tmp_path / "run" / "trackers.json").read_text())
    assert kept == {"stand-in": {"id": f"of {done}"}}
    last = next(call for call in reversed(SEEN) if call[0] == "on_step")
    assert last[2] == {name: x for name, x in lines[-1].items() if name != "step"}


def test_what_a_tracker_keeps_goes_with_a_run_to_a_storage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    spec = spec_in(tmp_path, checkpoint_every=2)

    class Stop(Callback):
        def on_step(self, step, metrics):
            if step == 3:
                raise ValueError("enough")

    with pytest.raises(TrainingError, match="enough"):
        train(spec, "memory://bucket/run", callbacks=[Stop()])
    shutil.rmtree(tmp_path / "runs")  # as on another machine
    SEEN.clear()
    train(spec, "memory://bucket/run", resume=True)
    name, done, state = SEEN[0]
    assert (name, done > 0, state) == ("on_start", True, {"id": "of 0"})
    kept = json.loads(MemoryFileSystem.store["/bucket/run/trackers.json"].getvalue())
    assert kept == {"stand-in": {"id": f"of {done}"}}


@pytest.mark.parametrize("trouble", ["on_start", "on_step", "on_end", "exit", "missing"])
def test_a_tracker_that_fails_is_told_once_and_the_run_is_as_without(tmp_path, trouble):
    said = []
    with told_to(said.append):
        train(spec_in(tmp_path, trouble), tmp_path / "run")
    told = [line for line in said if "training.trackers: stand-in" in line]
    assert len(told) == 1, said
    said = {"missing": "pip install", "exit": "SystemExit: no network"}
    assert said.get(trouble, "ConnectionError: no network") in told[0]
    train(spec_in(tmp_path, trackers=[]), tmp_path / "without")
    assert logged(tmp_path / "run") == logged(tmp_path / "without")


def test_a_tracker_that_hangs_holds_no_step_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "WAITING", 3)
    monkeypatch.setattr(tracking, "SECONDS_LEFT", 0.1)
    said = []
    with told_to(said.append):
        train(spec_in(tmp_path, "slow"), tmp_path / "run")
    LET_GO.set()
    until = time.monotonic() + 30
    while ("on_end",) not in SEEN and time.monotonic() < until:
        time.sleep(0.01)
    assert SEEN[-1] == ("on_end",)  # so that it closes what it has opened
    assert len(logged(tmp_path / "run")) == 6
    assert len([line for line in said if "stand-in is 3 calls behind" in line]) == 1


def test_mlflow_goes_on_in_a_run_without_later_steps_or_evaluations(tmp_path, monkeypatch):
    last = {"training/loss": 8, "evaluation/R": 8}
    client = SimpleNamespace(
        get_run=lambda _: SimpleNamespace(data=SimpleNamespace(metrics=last)),
        get_metric_history=lambda _, name: [SimpleNamespace(step=last[name])],
        update_run=lambda *_, **__: None,
        get_experiment_by_name=lambda _: SimpleNamespace(experiment_id="1"),
        create_run=lambda *_, **__: SimpleNamespace(info=SimpleNamespace(run_id="new")),
    )
    module = SimpleNamespace(MlflowClient=lambda _: client)
    monkeypatch.setattr(mlflow, "require", lambda *_, **__: module)
    said = []
    for step, evaluated, goes_on in ((8, 8, "old"), (8, 10, "new")):
        last["evaluation/R"] = evaluated
        run = RunInfo("a", tmp_path, {}, step, None, tell=said.append, state={"id": "old"})
        mlflow.MLflowCallback("e", None).on_start(run)
        assert run.state == {"id": goes_on}
    assert said == ["cannot take back steps: run new goes on from old"]


def test_callbacks_are_told_apart_from_what_is_none(tmp_path):
    for given in (Callback, Callback(), [print], [Callback]):
        with pytest.raises(SpecError, match="callbacks: takes"):
            train(spec_in(tmp_path), tmp_path / "run", callbacks=given)


def test_a_callback_that_draws_random_numbers_or_changes_modes_changes_nothing(tmp_path):
    import torch

    given = []

    class Changes(Callback):
        def on_start(self, run):
            self.model = run.model

        def on_step(self, step, metrics):
            given.append(dict(metrics))
            torch.rand(5)
            self.model.eval()
            torch.set_grad_enabled(False)
            metrics.clear()

    train(spec_in(tmp_path), tmp_path / "a", callbacks=[Changes(), Changes()])
    train(spec_in(tmp_path, trackers=[]), tmp_path / "b")
    assert logged(tmp_path / "a") == logged(tmp_path / "b")
    assert given[::2] == given[1::2] == [call[2] for call in SEEN if call[0] == "on_step"]
    assert all(given)


def test_validate_tells_what_is_not_installed_with_the_line_that_installs_it(tmp_path, command):
    text = json.dumps(spec_in(tmp_path, trackers=[{"type": "wandb"}, {"type": "trackio"}]))
    (tmp_path / "run.yaml").write_text(text)
    done = command("validate", tmp_path / "run.yaml")
    assert done.code == 3
    assert 'pip install "contrastive-kit[wandb]"' in done.err
    assert 'pip install "contrastive-kit[trackio]"' in done.err


def test_an_address_with_a_password_is_refused(tmp_path):
    fields = {"type": "mlflow", "uri": "https://me:secret@server/x"}
    with pytest.raises(SpecError, match="password") as told:
        RunSpec.model_validate(spec_in(tmp_path, trackers=[fields]))
    assert "secret" not in str(told.value)
