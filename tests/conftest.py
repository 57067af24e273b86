"""What every test gets, and how tests meet the command line and packages of others.

Nothing here imports torch: its one thread comes from the environment, which processes inherit.
"""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from contrastive import cli
from contrastive.components import REGISTRIES

if TYPE_CHECKING:
    from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # torch reads this when it is imported, and so the next one
os.environ["HF_HUB_OFFLINE"] = "1"
# an address of S3 in a test leads to no server but that test's own
os.environ |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"}

# nohup, and a shell that starts the tests in the background, let them be ignored by all children
for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)

_numbers = itertools.count()
PACKAGES = Path(__file__).parent / "packages"
SCRIPT = Path(sysconfig.get_path("scripts")) / "contrastive"
LONG = {
    "crash_at_every_operation",
    "kernels",
    "compiled_kernels",
    "docs",
    "write_a_plugin",
    "audit",
}
LONG |= {"stand_ins", "readme_uses", "init", "systems", "kills", "ranks", "distributed"}
"""What takes long begins first, lest one process works on it when the others are done."""
LONGEST = "test_kernels_in_the_interpreter"  # two minutes in one piece


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items):
    def late(item):
        is_long = item.path.stem.removeprefix("test_") in LONG
        return not item.name.startswith(LONGEST), not is_long

    items.sort(key=late)


def pytest_collection():
    gc.disable()  # what tests import is large, and stays


def pytest_collection_finish():
    gc.freeze()  # so that no collection looks through it
    gc.set_threshold(20_000, 20, 20)  # of objects; with 700, it takes 4 % of the time
    gc.enable()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Give each test a feature cache of its own, and the library ``datasets`` too."""
    folder = tmp_path_factory.getbasetemp() / "caches" / str(next(_numbers))  # made if need be
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(folder))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
    if "datasets" in sys.modules:  # which reads it once
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")


@pytest.fixture(autouse=True, scope="session")
def _no_wait_for_the_disk():
    """Let no test of this process wait until the disk has what it writes.

    A run flushes some twenty files. ``test_crash_at_every_operation`` watches that, in others.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _registries_as_they_were():
    """Forget the components that a test registers or installs."""
    before = [dict(registry.registered) for registry in REGISTRIES]
    yield
    for registry, names in zip(REGISTRIES, before, strict=True):
        registry.registered.clear()
        registry.registered.update(names)
        vars(registry).pop("installed", None)


@pytest.fixture
def command(monkeypatch, capsys):
    """Call the command line in this process: ``command("validate", path) -> Outcome``."""
    # what --no-plugins and main() set is undone afterwards
    for name in ("CONTRASTIVE_PLUGINS", "PYTHONSAFEPATH"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def call(*args) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["contrastive", *map(str, args)])
        capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def reader(tmp_path, monkeypatch, command, shared_folder):
    """Return a ``Reader`` of the documentation in a folder with what lies beside the package."""
    from tests.reader import Reader

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("examples", "plugins", "benchmarks"):
        (tmp_path / name).symlink_to(PACKAGES.parents[1] / name)
    made = Reader(tmp_path, command, monkeypatch, shared_folder)
    monkeypatch.setitem(sys.modules, "notebook", made.module)
    return made


def pytest_terminal_summary(terminalreporter):
    """Say how many blocks of the documentation ran, and instead of which a stand-in did."""
    properties = [pair for r in terminalreporter.getreports("passed") for pair in r.user_properties]
    ran = [value for name, value in properties if name == "block"]
    instead = sorted(value for name, value in properties if name == "stand-in")
    if ran or instead:
        line = f"documentation: {len(ran)} blocks run as they are, {len(instead)} by a stand-in"
        terminalreporter.write_line(f"{line}: {', '.join(instead)}" if instead else line)


@pytest.fixture(scope="session")
def process():
    """Run the installed command: ``process("validate", path, site=folder) -> Outcome``."""

    def run(*args, site: Path | None = None, cwd: Path | None = None) -> Outcome:
        env = os.environ | ({"PYTHONPATH": str(site)} if site else {})
        done = subprocess.run(
            [SCRIPT, *map(str, args)], capture_output=True, text=True, env=env, cwd=cwd, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def forkserver():
    """Return what starts processes that are sent pickles, from one that can train at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            *("torch", "timm", "transformers", "hypothesis", "pytest", "numpy.ma"),
            *("contrastive.cli", "contrastive.training.train", "contrastive.encoders.timm"),
            *("rich.console", "rich.progress", "rich.table", "tests.toys", "tests.unflushed"),
        ]
    )
    return context


@pytest.fixture(scope="session")
def in_ranks(forkserver):
    """Call a module's function in each of some ranks: ``in_ranks(function, 2, *more)``.

    It is given its rank, the world size, and ``more``; ``killed`` is the rank that SIGKILL ends.
    All others then have to end soon.
    """
    soon = 30  # seconds

    def call(function, size, *more, killed=None):
        ranks = [forkserver.Process(target=function, args=(i, size, *more)) for i in range(size)]
        try:
            for rank in ranks:
                rank.start()
            if killed is not None:
                ranks[killed].join()
                until = time.monotonic() + soon
            for rank in ranks:
                rank.join(None if killed is None else max(0, until - time.monotonic()))
        finally:
            for rank in ranks:
                rank.kill()
        assert [rank.exitcode for rank in ranks] == [-9 * (i == killed) for i in range(size)]

    return call


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Make a folder once for all workers: ``shared_folder("several", make)``."""
    own = tmp_path_factory.getbasetemp()
    base = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def call(name: str, make: Callable[[Path], None]) -> Path:
        folder = base / name
        with FileLock(base / f"{name}.lock"):
            if not (folder / "made").exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                (folder / "made").touch()
        return folder

    return call


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Make a folder with packages of ``tests/packages``, as pip leaves them: ``site("good")``."""

    def install(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("site")
        for name in names:
            shutil.copytree(PACKAGES / name / f"contrastive_{name}", folder / f"contrastive_{name}")
            about = tomllib.loads((PACKAGES / name / "pyproject.toml").read_text())["project"]
            info = folder / f"contrastive_{name}-{about['version']}.dist-info"
            info.mkdir()
            metadata = (
                f"Metadata-Version: 2.4\nName: {about['name']}\nVersion: {about['version']}\n"
            )
            metadata += "".join(f"Requires-Dist: {one}\n" for one in about.get("dependencies", ()))
            (info / "METADATA").write_text(metadata)
            lines = [
                line
                for group, points in about["entry-points"].items()
                for line in (f"[{group}]", *(f"{key} = {path}" for key, path in points.items()))
            ]
            (info / "entry_points.txt").write_text("\n".join(lines))
        return folder

    return install


@pytest.fixture
def installed(site, monkeypatch):
    """Install packages of ``tests/packages`` into this process: ``installed("good")``.

    ``alone`` leaves out those of the environment: a listing starts a process for each.
    """

    def install(*names: str, alone: bool = False) -> None:
        if alone:
            packages = [f"contrastive-{name.replace('_', '-')}" for name in names]
            monkeypatch.setenv("CONTRASTIVE_PLUGINS", ",".join(packages))
        monkeypatch.syspath_prepend(site(*names))
        for registry in REGISTRIES:
            vars(registry).pop("installed", None)

    yield install
    ours = {f"contrastive_{folder.name}" for folder in PACKAGES.iterdir()}
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]


@pytest.fixture
def one_seed():
    """Draw the same random numbers in each test."""
    import torch

    torch.manual_seed(0)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Let the Hugging Face cache be empty and the Hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Return folders of tiny models of the real classes, with random weights."""
    from tests.tiny_encoders import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def built(models):
    """Return a function that builds each encoder once; for tests that do not change it."""
    from tests.tiny_encoders import SPECS

    return cache(lambda which: SPECS[which](models).build())


@pytest.fixture(scope="session")
def distilbert(tmp_path_factory):
    """Return a folder with a tiny DistilBERT and its tokenizer, random and saved as any other."""
    from tests.fine_tuning import save_distilbert

    return save_distilbert(tmp_path_factory.mktemp("distilbert"))


@pytest.fixture(scope="session")
def vit_weights(tmp_path_factory):
    """Return a file with random weights of timm's smallest vision transformer."""
    from tests.fine_tuning import save_vit

    return save_vit(tmp_path_factory.mktemp("vit") / "test_vit.safetensors")
