"""Two ranks mine one batch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Several processes


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Run two processes, once for all tests; return what each found."""
    folder = tmp_path_factory.mktemp("two")
    started = [
        subprocess.Popen(
            [sys.executable, HERE / "one_of_two.py", str(rank), folder],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate()[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("one_of_two", HERE / "one_of_two.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["triplet", "circle", "nt-xent"])
def test_two_processes_mine_one_batch(found, script, name):
    truth = script.outcome(script.LOSSES[name], slice(None))
    for other in found:
        torch.testing.assert_close(other[f"{name}|loss"], truth["loss"])
        torch.testing.assert_close(other[f"{name}|accuracy"], truth["accuracy"])
    for side in "ab":
        mean = torch.cat([other[f"{name}|{side}"] for other in found]) / 2
        torch.testing.assert_close(mean, truth[side])


def test_local_negatives_are_those_of_each_process(found, script):
    for other, rows in zip(found, script.SHARES, strict=True):
        truth = script.outcome(script.LOSSES["local"], rows)
        torch.testing.assert_close(other["local|loss"], truth["loss"])
