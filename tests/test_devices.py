"""What is decided by the kind of device; an Apple GPU stands in for itself by name alone."""

from __future__ import annotations

import pytest
import torch

from contrastive.distributed import ranks
from contrastive.errors import TrainingError
from contrastive.nn import device as devices
from contrastive.nn import embeddings
from contrastive.nn.device import batch_size, pick_device, widest_float
from contrastive.nn.rng import RngState
from contrastive.spec import TrainingSpec
from contrastive.training.built import autocast_dtype
from contrastive.training.device_copies import copied_to

MPS = torch.device("mps")


@pytest.fixture
def there(monkeypatch):
    """Let devices be there: ``there(cuda=False, mps=True)``."""

    def let(*, cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return let


@pytest.mark.parametrize(
    ("cuda", "mps", "picked"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_cuda_then_mps_then_cpu(there, cuda, mps, picked):
    there(cuda=cuda, mps=mps)
    assert pick_device("auto").type == picked


def test_an_apple_gpu_trains_in_fp32_unless_it_is_asked_for_less():
    assert autocast_dtype(TrainingSpec(), MPS) is None
    assert autocast_dtype(TrainingSpec(precision="fp16"), MPS) is torch.float16
    assert autocast_dtype(TrainingSpec(precision="bf16"), MPS) is torch.bfloat16


def test_an_apple_gpu_has_no_float64_and_no_pinned_memory(monkeypatch):
    assert [widest_float(each) for each in ("cpu", "cuda:1", "mps:0")] == [
        torch.float64,
        torch.float64,
        torch.float32,
    ]
    batches = iter(())
    assert copied_to(MPS, batches, TrainingSpec()) is batches
    moved = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, where: moved.append((x.dtype, where)) or x)
    embeddings.embedding_sides(MPS, a=torch.ones(1, 2, dtype=torch.float64), b=torch.ones(1, 2))
    assert moved == [(torch.float32, MPS)] * 2


def test_an_apple_gpu_takes_the_batches_of_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "device_of", lambda _: MPS)
    assert batch_size(torch.nn.Linear(1, 1)) == devices.GPU_BATCH


def test_the_generator_of_an_apple_gpu_is_set_back(monkeypatch, there):
    there(cuda=False, mps=True)
    state = [torch.tensor([1])]
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: state[0])
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda x: state.__setitem__(0, x))
    with RngState():
        state[0] = torch.tensor([2])
        drawn = torch.rand(1)
    assert state[0].item() == 1
    assert torch.equal(torch.rand(1), drawn)


def test_several_ranks_share_no_apple_gpu(monkeypatch, there):
    there(cuda=False, mps=True)
    assert ranks._own_device("auto", 2).type == "cpu"
    monkeypatch.setattr(ranks, "pick_device", torch.device)
    with pytest.raises(TrainingError, match=r"mps is one device for 2 ranks; write cpu$"):
        ranks._own_device("mps", 2)
