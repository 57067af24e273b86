"""Two ranks compute each loss of the whole batch, and share one queue."""

from __future__ import annotations

import pytest
import torch
from torch import distributed as dist

from contrastive.distributed.global_batch import BatchGroup
from tests.row_losses import CONFIGS, call, gradients, stream

pytestmark = pytest.mark.slow

SPLIT = [5, 3]
LOCAL = {"hard-negative-one-way", "queue-local"}


def outcomes(module, rows):
    """Return what some steps of the stream give with some rows of each batch."""
    found = []
    for a, b, ids in stream(n=8, d=8):
        own = [x.detach()[rows].requires_grad_() for x in (a, b)]
        loss, figures = call(module, *own, ids[rows])
        found.append((loss.detach(), gradients(loss, (*own, *module.parameters())), figures))
    state = {name: x.detach().clone() for name, x in module.state_dict().items()}
    return found, state


def in_a_process(rank, size, folder):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    rows = slice(sum(SPLIT[:rank]), sum(SPLIT[: rank + 1]))
    assert BatchGroup.current() is not None
    found = {name: outcomes(config.build(), rows) for name, config in CONFIGS.items()}
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_compute_the_loss_of_the_whole_batch_and_have_one_queue(tmp_path, in_ranks):
    in_ranks(in_a_process, len(SPLIT), tmp_path)
    files_of = [tmp_path / f"{rank}.pt" for rank in range(len(SPLIT))]
    found = [torch.load(path) for path in files_of]  # noqa: TID251
    for name, config in CONFIGS.items():
        whole, state = outcomes(config.build(), slice(None))
        results = [of_process[name] for of_process in found]
        for _, other in results:
            for key, x in state.items():
                torch.testing.assert_close(other[key], x)
        if name in LOCAL:
            assert results[0][0][0][0] != results[1][0][0][0]
            continue
        for step, (loss, grads, _) in enumerate(whole):
            steps = [of_process[step] for of_process, _ in results]
            for other, _, _ in steps:
                torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
            for at, grad in enumerate(grads):
                shares = [other[at] for _, other, _ in steps]
                mean = torch.cat(shares) / len(SPLIT) if at < 2 else torch.stack(shares).mean(0)
                torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6)
