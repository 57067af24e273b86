"""What the fused losses ask of the host, in Triton's interpreter: it never waits for the GPU."""

from __future__ import annotations

import math
from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime.interpreter import GridExecutor

from contrastive.losses import execution
from tests.interpreted.judge import KINDS, embeddings, ids

aten = torch.ops.aten
# on a GPU these copy from the host or read what is computed, and wait for that
WAITS = {
    aten.lift_fresh.default,
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_dim.default,
}


class Watch(TorchDispatchMode):
    """Collect the operations that torch dispatches."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = func is aten.index.Tensor and any(x.dtype == torch.bool for x in args[1])
        self.seen.append(aten.nonzero.default if masks else func)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched(monkeypatch):
    """Collect what is dispatched; a launch of a kernel is the word launch."""
    launch = GridExecutor.__call__
    watch = Watch()

    def called(*args, **kwargs):
        watch.seen.append("launch")
        with _disable_current_modes():
            return launch(*args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", called)

    @contextmanager
    def watching():
        watch.seen.clear()
        with watch:
            yield watch.seen

    return watching


def call(loss, kind, how, *, sides=None, **given):
    """Compute a loss and its gradients."""
    a, b = (x.requires_grad_() for x in (sides or embeddings()))
    a_ids, b_ids = ids(kind, len(a), len(b))
    scalars = [torch.tensor(math.log(14.0), requires_grad=True)]
    if loss == "sigmoid":
        scalars.append(torch.tensor(-3.0, requires_grad=True))
        given["bias"] = scalars[1]

    def run():
        value = getattr(execution, loss)(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=scalars[0],
            positives=KINDS[kind],
            execution=how,
            **given,
        )
        torch.autograd.grad(value, [a, b, *scalars])

    return run


@pytest.mark.parametrize("how", ["fused", "eager"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("loss", "given"),
    [
        ("infonce", {"normalize": True}),
        ("infonce", {"direction": "b_to_a"}),
        ("infonce", {"label_smoothing": 0.1}),
        ("sigmoid", {}),
    ],
    ids=str,
)
def test_nothing_waits_for_the_gpu(loss, given, kind, how, watched):
    run = call(loss, kind, how, **given)
    with watched() as seen:
        run()
    assert not WAITS.intersection(seen)
