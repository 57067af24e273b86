"""Against a real server of S3: what it holds, a run that is killed, answers that are errors."""

from __future__ import annotations

import json
import shutil
import signal

import fsspec
import pytest

from contrastive import load_model
from contrastive.console import noted_omissions
from contrastive.data.storage import remote_folders
from contrastive.errors import TrainingError, WeightsError
from contrastive.features.cache import FeatureCache
from contrastive.training.remote_output import staging_folder
from contrastive.training.train import train as start
from tests.crashing_run import spec
from tests.storages import BUCKET, KEY, SECRET, kills, reach, s3_server, train_until_killed

pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytestmark = pytest.mark.slow
RUN = f"s3://{BUCKET}/runs/a"
HERE = staging_folder(RUN)


@pytest.fixture(scope="module")
def server():
    with s3_server() as made:
        yield made


@pytest.fixture
def s3(server, tmp_path, monkeypatch):
    """Return the server with an empty bucket; the test works in an empty folder."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION", "EC2_METADATA_DISABLED"):
        monkeypatch.setenv(f"AWS_{name}", "")
    monkeypatch.setattr(fsspec.config, "conf", {})
    monkeypatch.setattr(remote_folders, "PAUSES", (0.0, 0.0))
    monkeypatch.chdir(tmp_path)
    reach(server.address)
    server.meet = lambda *_: None
    files = fsspec.filesystem("s3")
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    server.requests.clear()
    return server


def there():
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    place = RUN.removeprefix("s3://") + "/"
    return {path.removeprefix(place): content(files, path) for path in files.find(place)}


def here(folder=HERE):
    local = fsspec.filesystem("file")
    paths = (path for path in folder.rglob("*") if path.is_file() and ".bak-" not in path.name)
    return {path.relative_to(folder).as_posix(): content(local, str(path)) for path in paths}


def content(files, path):
    """Return what a file holds; a manifest lists the same files in any order."""
    data = files.cat_file(path)
    return json.loads(data) if path.endswith("manifest.json") else data


def train(tmp_path, output=RUN, **options):
    return start(spec(2), output, cache=FeatureCache(tmp_path / "cache"), **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a run writes that nothing happens to, on a disk."""
    folder = tmp_path_factory.mktemp("whole")
    start(spec(2), folder / "run", cache=FeatureCache(folder / "cache"))
    return here(folder / "run")


@pytest.mark.nightly  # as tests of a storage in memory do, by a server, with a killed process
@pytest.mark.parametrize(
    ("at", "nth"),
    [
        ("/manifest.json", 2),
        ("/optimizer.safetensors", 1),
        ("step-00000006/manifest.json", 1),
        ("model/manifest.json", 1),
    ],
)
def test_a_killed_run_goes_on_elsewhere_to_the_same_bits(s3, whole, tmp_path, forkserver, at, nth):
    there_first = tmp_path / "first machine"
    there_first.mkdir()
    process = forkserver.Process(
        target=train_until_killed, args=(s3.address, str(there_first), RUN)
    )
    s3.meet = kills(lambda: process.pid, at, nth)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    s3.meet = lambda *_: None
    assert ".contrastive.lock" in there()
    train(tmp_path, resume=True)
    assert there() == whole
    assert all(whole[name] == data for name, data in here().items())


def test_answers_that_are_errors_cost_no_step(s3, whole, tmp_path, capsys):
    """Every seventh answer is one; then all of them, until the run has ended."""
    count = iter(range(1_000_000))
    s3.meet = lambda *_: None if next(count) % 7 else "500 InternalError"
    with noted_omissions() as omitted:
        train(tmp_path)
    assert not omitted
    s3.meet = lambda *_: None
    assert there() == whole
    shutil.rmtree("runs")
    fsspec.filesystem("s3").rm(RUN, recursive=True)

    sent = s3.requests
    sent.clear()
    s3.meet = lambda *_: (
        "500 InternalError" if any("log.jsonl" in path for _, path in sent) else None
    )
    with noted_omissions() as omitted:
        train(tmp_path)
    assert len(omitted) == 1
    assert f"{RUN}: lacks checkpoints/step-00000005, checkpoints/step-00000006" in omitted[0]
    assert here() == whole
    s3.meet = lambda *_: None
    train(tmp_path, resume=True)
    assert there() == whole
    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize("case", ["no such bucket", "no credentials", "denied", "errors", "gone"])
def test_what_cannot_be_written_to_is_told_in_one_line_before_the_first_step(
    s3, tmp_path, monkeypatch, case
):
    output, said = RUN, "cannot be "
    if case == "no such bucket":
        output, said = "s3://nowhere/a", "written: The specified bucket does not exist; check"
    elif case == "no credentials":
        for name in (KEY, SECRET):
            assert name
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        fsspec.config.conf["s3"]["client_kwargs"] = {"region_name": "us-east-1"}  # another instance
        said = "Unable to locate credentials; check"
    elif case == "denied":
        s3.meet = lambda method, _: "403 AccessDenied" if method == "PUT" else None
    elif case == "errors":
        s3.meet = lambda *_: "500 InternalError"
    else:
        fsspec.config.conf["s3"]["endpoint_url"] = "http://127.0.0.1:9"
        said = "Could not connect to the endpoint URL"
    monkeypatch.setattr("contrastive.training.train._samples", lambda _: pytest.fail("is read"))
    with pytest.raises(TrainingError, match=said) as told:
        train(tmp_path, output)
    assert len(str(told.value).splitlines()) == 1
    assert str(told.value).startswith(f"{output}")
    with pytest.raises(WeightsError, match=f"^{output}"):
        load_model(output)
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
