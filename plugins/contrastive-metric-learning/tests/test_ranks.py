"""Two ranks mine one batch."""

import pytest
import torch
from safetensors.torch import load_file

from .one_of_two import LOSSES, SHARES, main, outcome

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


# Several processes


@pytest.fixture(scope="module")
def found(tmp_path_factory, in_ranks):
    """Run two processes, once for all tests; return what each found."""
    folder = tmp_path_factory.mktemp("two")
    in_ranks(main, len(SHARES), folder)
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", ["triplet", "circle", "nt-xent"])
def test_two_processes_mine_one_batch(found, name):
    truth = outcome(LOSSES[name], slice(None))
    for other in found:
        torch.testing.assert_close(other[f"{name}|loss"], truth["loss"])
        torch.testing.assert_close(other[f"{name}|accuracy"], truth["accuracy"])
    for side in "ab":
        mean = torch.cat([other[f"{name}|{side}"] for other in found]) / 2
        torch.testing.assert_close(mean, truth[side])


def test_local_negatives_are_those_of_each_process(found):
    for other, rows in zip(found, SHARES, strict=True):
        truth = outcome(LOSSES["local"], rows)
        torch.testing.assert_close(other["local|loss"], truth["loss"])
