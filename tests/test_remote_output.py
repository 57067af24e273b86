"""A run whose output is a storage: what is there is whole, a failing storage costs no step."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from contrastive import Callback, RunSpec, console, load_model
from contrastive.config.local_files import address_of
from contrastive.console import noted_omissions
from contrastive.data.storage import remote_folders
from contrastive.data.storage.remote_folders import StorageError, remote_folder
from contrastive.distributed.ranks import Ranks
from contrastive.errors import ContrastiveError, MissingExtra, TrainingError, WeightsError
from contrastive.features.cache import FeatureCache
from contrastive.spec.training import KeepSpec
from contrastive.training import remote_output, run_token
from contrastive.training.remote_output import sent_to, staging_folder
from contrastive.training.train import Interrupted
from contrastive.training.train import train as start
from tests.crashing_run import spec
from tests.toys import toy_dict

RUN = "memory://bucket/runs/a"
HERE = staging_folder(RUN)
STEPS = 6


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """Work in an empty folder, with an empty storage that is not waited for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(remote_folders, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    fsspec.config.conf.clear()


@pytest.fixture
def train(tmp_path_factory):
    """Train for two epochs of three steps, each of which is saved: ``train(resume=True)``."""
    cache = FeatureCache(tmp_path_factory.mktemp("cache"))
    return lambda output=RUN, **options: start(spec(2), output, cache=cache, **options)


def there():
    """Return what the storage holds of the run: bytes by name."""
    store = MemoryFileSystem.store
    return {
        path.removeprefix("/bucket/runs/a/"): file.getvalue() for path, file in [*store.items()]
    }


def here(folder=HERE):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put_back(files):
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    for name, content in files.items():
        fsspec.filesystem("memory").pipe_file(f"/bucket/runs/a/{name}", content)


def operations(monkeypatch, before):
    """Call ``before(name, path)`` before each change of the storage."""

    def stand_in(name, real):
        def call(self, *args, **kwargs):
            before(name, args[-1])
            return real(self, *args, **kwargs)

        return call

    for name in ("put_file", "rm_file"):
        monkeypatch.setattr(MemoryFileSystem, name, stand_in(name, getattr(MemoryFileSystem, name)))


@pytest.mark.slow
def test_the_storage_has_all_of_the_run_each_manifest_last(train, monkeypatch):
    put = []
    operations(monkeypatch, lambda name, path: put.append(path) if name == "put_file" else None)
    trained = train()
    assert there() == here()
    assert {name.partition("/")[0] for name in there()} == {"log.jsonl", "checkpoints", "model"}
    folders = {name.rpartition("/")[0] for name in there() if "/" in name}
    assert len(folders) == 3
    for folder in folders:
        of_one = [name for name in put if f"/{folder}/" in name]
        assert of_one[-1].endswith("manifest.json")
    for place in ("", "/model", f"/checkpoints/step-{STEPS:08d}"):
        loaded = load_model(RUN + place, trusted=True)
        assert all(map(_equal, loaded.state_dict().values(), trained.state_dict().values()))


def _equal(a, b):
    return (a == b).all()


def all_listed(files):
    """Whether all that each manifest lists is there as it says."""
    return all(
        hashlib.sha256(files[name.replace("manifest.json", file)]).hexdigest() == about["sha256"]
        for name, content in files.items()
        if name.endswith("manifest.json")
        for file, about in json.loads(content)["files"].items()
    )


@pytest.mark.slow
@pytest.mark.parametrize("every", [19, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_run_that_was_killed_goes_on_elsewhere_to_the_same_bits(train, monkeypatch, every):
    """At every operation of the storage, which then is as it was, and the disk is another."""
    kept = []
    with monkeypatch.context() as watching:
        operations(watching, lambda *_: kept.append(there()))
        train()
    whole = there()
    assert len(kept) > 50
    assert all(map(all_listed, kept)), "a manifest was there without what it lists"
    resumed = 0
    for files in kept[::every]:
        put_back(files)
        shutil.rmtree("runs")
        try:
            train(resume=True)
            resumed += 1
        except TrainingError as error:
            assert "nothing to resume here" in str(error)  # noqa: PT017 # some began anew
            assert not any(name.endswith("manifest.json") for name in files)
            train()
        assert newest(there()) == newest(whole)
        assert all_listed(there())
        assert len(checkpoints(there())) <= KeepSpec().last
    assert resumed > len(kept[::every]) / 2


def checkpoints(files):
    return sorted({name.split("/")[1] for name in files if name.startswith("checkpoints/")})


def newest(files):
    """Return all but the checkpoint before the last, which depends on what was sent in time."""
    last = checkpoints(files)[-1]
    return {x: held for x, held in files.items() if not x.startswith("checkpoints/") or last in x}


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "lost", "no manifest"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(train, capsys, damage):
    train()
    whole = there()
    name = f"checkpoints/step-{STEPS:08d}/"
    weights = name + "model.safetensors"
    changed = whole | {weights: whole[weights][:-9] + bytes(9)}
    if damage != "flipped":
        changed = dict(whole)
        del changed[name + ("manifest.json" if damage == "no manifest" else "state.json")]
    put_back(changed)
    shutil.rmtree("runs")
    capsys.readouterr()
    train(resume=True)
    told = capsys.readouterr().err
    what = "was not sent whole" if damage == "no manifest" else "damaged"
    assert f"{RUN}/{name.rstrip('/')}: {what}" in told
    assert f"fetched step-{STEPS - 1:08d}" in told
    assert there() == whole


@pytest.mark.slow
def test_where_no_checkpoint_is_whole_nothing_is_begun_anew(train):
    train()
    damaged = {n: x[:-1] if n.endswith("model.safetensors") else x for n, x in there().items()}
    put_back(damaged)
    shutil.rmtree("runs")
    with pytest.raises(TrainingError, match=f"{RUN}: has no whole checkpoint"):
        train(resume=True)
    assert there() == damaged


@pytest.mark.slow
def test_a_storage_that_fails_costs_no_step_and_what_lacks_is_sent_later(
    train, monkeypatch, capsys
):
    whole, count, failed = {}, 0, threading.Event()

    def fails(name, path):
        nonlocal count
        count += 1
        if count > 40 or failed.is_set():
            raise OSError(5, "Input/output error, please retry")

    def say(text):
        console.say(text)
        if "the run goes on in" in text:
            failed.set()

    class Waits(Callback):
        def on_step(self, step, metrics):
            nonlocal count
            if step == 3:
                count += 40
            if step == STEPS:
                assert failed.wait(60)

    with monkeypatch.context() as failing:
        operations(failing, fails)
        failing.setattr(remote_output, "say", say)
        with noted_omissions() as omitted:
            train(callbacks=[Waits()])
    told = capsys.readouterr().err
    assert f"the run goes on in {HERE}" in told
    (line,) = omitted
    assert line.startswith(f"{RUN}: lacks checkpoints/step-")
    assert "model, log.jsonl (" in line
    assert "cannot be written: Input/output error, please retry); " in line
    assert f"the run is whole in {HERE}" in line
    load_model(HERE, trusted=True)
    with noted_omissions() as omitted:
        train(resume=True)
    assert not omitted
    whole = there()
    assert whole == here()
    shutil.rmtree("runs")
    put_back({})
    train()
    assert there() == whole


@pytest.mark.slow
def test_a_storage_that_fails_for_a_while_has_everything_at_the_end(train, monkeypatch, capsys):
    calls = iter(range(10_000))

    def fails(name, path):
        if 20 <= next(calls) < 26:
            raise OSError(5, "Input/output error, please retry")

    operations(monkeypatch, fails)
    with noted_omissions() as omitted:
        train()
    assert not omitted
    told = capsys.readouterr().err
    assert "please retry; the run goes on" in told
    assert "can be written to again, and has what it lacked" in told
    assert there() == here()


@pytest.mark.slow
def test_a_run_that_a_signal_ends_has_sent_the_step(train, monkeypatch):
    train()
    whole = there()
    put_back({})
    shutil.rmtree("runs")
    sent = threading.Event()

    def ends(name, path):
        if name == "put_file" and path.endswith("manifest.json") and not sent.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            sent.set()

    class Waits(Callback):
        def on_step(self, step, metrics):
            assert step < 3 or sent.wait(60)

    with monkeypatch.context() as watching:
        operations(watching, ends)
        with pytest.raises(Interrupted):
            train(callbacks=[Waits()])
    assert there() == here()
    shutil.rmtree("runs")
    train(resume=True)
    assert there() == whole


def test_a_storage_that_cannot_be_written_to_is_told_before_anything_is_read(train, monkeypatch):
    def refuses(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuses)
    monkeypatch.setattr("contrastive.training.train._samples", lambda _: pytest.fail("is read"))
    with pytest.raises(TrainingError) as told:
        train()
    assert str(told.value) == (
        f"{RUN}/.contrastive.lock: cannot be written: Access Denied; check the address, your "
        "credentials and the network, or choose another output"
    )
    assert not HERE.exists()


@pytest.mark.slow
def test_of_two_runs_in_one_place_the_later_has_it(train, monkeypatch, capsys):
    def taken(name, path):
        if path.endswith("manifest.json"):  # the first: what is sent beside it is of one job
            about = {"token": "of another", "host": "elsewhere", "process": 7, "since": 0.5}
            content = json.dumps(about).encode()
            MemoryFileSystem.store[f"/bucket/runs/a/{run_token.NAME}"].seek(0)
            MemoryFileSystem.store[f"/bucket/runs/a/{run_token.NAME}"].truncate()
            MemoryFileSystem.store[f"/bucket/runs/a/{run_token.NAME}"].write(content)

    operations(monkeypatch, taken)
    with noted_omissions() as omitted:
        train()
    assert "a run of elsewhere (process 7) writes there now; this run sends nothing more" in (
        capsys.readouterr().err
    )
    assert len(omitted) == 1
    assert "elsewhere" in there()[run_token.NAME].decode()
    assert not any(name.startswith("model/") for name in there())
    assert f"step-{STEPS:08d}" in {path.name for path in (HERE / "checkpoints").iterdir()}
    shutil.rmtree("runs")
    monkeypatch.undo()


def test_who_has_not_ended_is_told_with_its_age(monkeypatch, capsys):
    monkeypatch.setattr(run_token.time, "time", lambda: 1000.0)
    run_token.RunToken(remote_folder(RUN))
    monkeypatch.setattr(run_token.time, "time", lambda: 1600.0)
    later = run_token.RunToken(remote_folder(RUN))
    assert "begun 10 min ago, has not ended there" in capsys.readouterr().err
    later.release()
    assert not there()


@pytest.mark.slow
def test_each_machine_of_several_fetches_what_all_go_on_from(train, tmp_path):
    train()
    for folder in (tmp_path / "disk of its own", HERE):
        with (
            sent_to(RUN, folder, KeepSpec(), Ranks(1, 2), []) as remote,
            remote.brought(resume=True),
        ):
            newest = f"checkpoints/step-{STEPS:08d}/"
            assert {n: x for n, x in here(folder).items() if n.startswith(newest)} == {
                n: x for n, x in there().items() if n.startswith(newest)
            }
            assert (folder / "log.jsonl").exists()
    assert not any("lock" in name for name in there())


@pytest.mark.slow
def test_what_is_there_already_is_not_overwritten(train):
    with pytest.raises(TrainingError, match=f"{RUN}: nothing to resume here; to begin, leave out"):
        train(resume=True)
    train()
    whole = there()
    shutil.rmtree("runs")
    for output, problem in ((RUN, "holds a run already"), (f"{RUN}/model", "is a saved model")):
        with pytest.raises(TrainingError, match=f"{output}: {problem}"):
            train(output)
    put_back({})
    HERE.mkdir(parents=True)
    (HERE / "log.jsonl").write_text('{"step": 1, "epoch": 1.0, "loss": 1.0}\n')
    with pytest.raises(TrainingError, match=f"{HERE}: holds a run already"):
        train()
    shutil.rmtree("runs")
    train()
    assert there() == whole


SECRET = "zu9bUgx3aVfW"


@pytest.mark.parametrize("address", [f"s3://me:{SECRET}@b/a", f"https://b/a?sig={SECRET}"])
def test_an_address_with_a_password_is_refused_and_not_shown(train, address, command, tmp_path):
    data = toy_dict(tmp_path / "data") | {"output": address}
    Path("run.yaml").write_text(json.dumps(data))
    told = []
    for call in (
        lambda: train(address),
        lambda: load_model(address),
        lambda: RunSpec.model_validate(data),
    ):
        with pytest.raises(ContrastiveError, match="a password or a query") as error:
            call()
        told.append(str(error.value))
    for arguments in (
        ("train", "run.yaml"),
        ("evaluate", "--model", address),
        ("doctor", address),
        ("train", "run.yaml", "-o", address),
    ):
        done = command(*arguments)
        assert done.code == 2
        told.append(done.err)
    assert not any(SECRET in line for line in told)
    assert all("a password or a query" in line for line in told)


def test_what_a_library_says_of_credentials_is_not_repeated(monkeypatch):
    def refuses(*_, **__):
        msg = f"http://me:{SECRET}@host/b?X-Amz-Signature=abc denied key {SECRET}\nto you"
        raise PermissionError(msg)

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(MemoryFileSystem, "ls", refuses)
    with pytest.raises(StorageError) as told:
        remote_folder(RUN).entries()
    assert str(told.value) == f"{RUN}: cannot be read: http://host/b denied key *** to you"


def test_a_call_is_tried_three_times_and_given_up_without_an_answer(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("content")
    calls, ends, forever = [], threading.Event(), threading.Event()
    real = MemoryFileSystem.put_file

    def sometimes(self, *args, **kwargs):
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return real(self, *args, **kwargs)

    monkeypatch.setattr(MemoryFileSystem, "put_file", sometimes)
    remote_folder(RUN).put(tmp_path / "file", "file")
    assert (len(calls), there()) == (3, {"file": b"content"})

    def hangs(*_, **__):
        calls.append(1)
        forever.wait()
        ends.set()

    monkeypatch.setattr(MemoryFileSystem, "put_file", hangs)
    monkeypatch.setattr(remote_folders, "ANSWER_WITHIN", 0.05)
    with pytest.raises(StorageError, match=f"{RUN}/file: cannot be written: no answer within 0 s"):
        remote_folder(RUN).put(tmp_path / "file", "file")
    assert len(calls) == 4
    forever.set()
    assert ends.wait(10)


def test_a_storage_without_its_library_is_one_line(train, monkeypatch):
    for module in ("s3fs", "gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, module, None)
    for scheme in ("s3", "gs"):
        known = vars(sys.modules["fsspec.registry"])["_registry"]
        monkeypatch.delitem(known, scheme, raising=False)
    for scheme in ("s3", "gs"):
        with pytest.raises(MissingExtra, match=r'fs is not installed; run: pip install "contr'):
            train(f"{scheme}://bucket/a")
    with pytest.raises(MissingExtra, match=r"az:// needs another package: Install adlfs"):
        load_model("az://bucket/a")
    with pytest.raises(TrainingError, match="weird://b/a: Protocol not known: weird; give s3://"):
        train("weird://b/a")
    with pytest.raises(WeightsError, match="a model of the Hugging Face Hub is hf:a/b"):
        load_model("hf://a/b")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("s3://bucket/runs/a/", "s3://bucket/runs/a"),
        (Path("s3://bucket/runs/a"), "s3://bucket/runs/a"),
        ("file:///tmp/a", "file:///tmp/a"),
        (Path("file:///tmp/a"), "file:///tmp/a"),
        ("runs/a", ""),
        ("C:/runs/a", ""),
    ],
)
def test_an_address_keeps_its_slashes(given, address):
    assert address_of(given) == address
    run = RunSpec.model_validate(spec(1).model_dump() | {"output": given})
    assert run.output == (address or Path(given))
    assert run.model_dump(mode="json")["output"] == (address or str(given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://", "output: s3:// has no folder; give one, such as s3://bucket/runs/a"),
        ("", "output: is empty; give a path"),
        (5, "output: 5 is no path; a file or a folder of that name is put in quotes: '5'"),
    ],
)
def test_what_is_no_place_is_one_line(given, said):
    with pytest.raises(ContrastiveError) as told:
        RunSpec.model_validate(spec(1).model_dump() | {"output": given})
    assert str(told.value) == f"RunSpec: {said}"


@pytest.mark.slow
def test_the_command_line_takes_addresses(command, tmp_path):
    store = f"file://{tmp_path}/store/a"
    data = toy_dict(tmp_path / "data", epochs=1) | {"output": store}
    Path("run.yaml").write_text(json.dumps(data))
    done = command("train", "run.yaml", "--json")
    assert done.code == 0
    folder = staging_folder(store)
    assert json.loads(done.out) == {"model": str(folder / "model"), "output": store}
    assert here(tmp_path / "store" / "a") == here(folder)
    shutil.rmtree("runs")
    assert command("train", "run.yaml", "-o", store, "--resume").code == 0
    for arguments in (
        ("evaluate", "--model", store),
        ("embed", "run.yaml", "-m", store, "-o", "embedded"),
        ("compare", store, folder),
    ):
        assert command(*arguments).code == 0
    done = command("doctor", store)
    assert done.code in (0, 1)
    assert "its copy is" in done.err
    stored = f"{store}/model/run.json".removeprefix("file://")
    assert f"output is {store}, in a saved spec; to send" in command("train", stored).err
    with pytest.raises(TrainingError, match=f"to send to it: --output {store}$"):
        start(stored)
