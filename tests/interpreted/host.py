"""What the fused losses ask of the host, in Triton's interpreter: few launches and no waits."""

from __future__ import annotations

import math
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.runtime.interpreter import GridExecutor

from contrastive.losses import execution
from contrastive.losses.backends.triton import tiles
from contrastive.losses.dcl import dcl
from contrastive.losses.supcon import supcon
from contrastive.nn.live_bytes import LiveBytes
from tests.interpreted.judge import KINDS, TILE, embeddings, fused, ids, labels_of

nightly = pytest.mark.nightly  # by day, each setting in some case
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

# these launch nothing on a GPU
SILENT = {
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.promote_types.default,
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
    """Collect what is dispatched; a launch of a kernel is the word launch, and computes nothing.

    The host reads no number of a kernel, which would be to wait for it.
    """
    watch = Watch()
    monkeypatch.setattr(GridExecutor, "__call__", lambda *_, **__: watch.seen.append("launch"))

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


@pytest.mark.parametrize("how", ["fused", pytest.param("eager", marks=nightly)])
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


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("how", ["fused", pytest.param("eager", marks=nightly)])
@pytest.mark.parametrize("loss", [supcon, partial(dcl, candidates="both", sigma=0.5)])
def test_losses_of_row_sums_do_not_wait_either(loss, how, with_ids, watched):
    a, b = (x.requires_grad_() for x in embeddings())
    log_scale = torch.tensor(2.0, requires_grad=True)
    of_both = ids("groups") if with_ids else (None, None)
    with watched() as seen:
        value = loss(a, b, *of_both, log_scale=log_scale, execution=how)
        torch.autograd.grad(value, [a, b, log_scale])
    assert not WAITS.intersection(seen)


def launches(seen):
    """Return what would be a launch on a GPU: all but views and new memory."""

    def is_view(operation):
        aliases = [x.alias_info for x in operation._schema.returns]
        return bool(aliases) and all(x is not None and not x.is_write for x in aliases)

    return [x for x in seen if x == "launch" or not (x in SILENT or is_view(x))]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [(21, 37), pytest.param((24, 24), marks=nightly)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_infonce_takes_few_launches(kind, size, normalize, watched):
    run = call("infonce", kind, "fused", sides=embeddings(*size), normalize=normalize)
    with watched() as seen:
        run()
    assert len(launches(seen)) <= (15 if kind == "diagonal" else 19)


def test_each_chunk_takes_six_more_launches(watched):
    a, b = (x.requires_grad_() for x in embeddings(48, 37))
    log_scale = torch.tensor(2.0, requires_grad=True)
    counts = []
    for rows in (48, 24, 16):
        with watched() as seen:
            loss = fused(rows=rows).infonce(a, b, log_scale, normalize=False)
            torch.autograd.grad(loss, [a, b, log_scale])
        counts.append(len(launches(seen)))
    # of the first sweep the sums and what adds them up; of the second G, its matched pairs, and the
    # products with it
    assert counts == [15, 21, 27]


@pytest.mark.parametrize(
    "kind", ["groups", *(pytest.param(kind, marks=nightly) for kind in ("diagonal", "masked"))]
)
def test_low_memory_holds_the_sums_of_few_tiles(kind, monkeypatch):
    launch = GridExecutor.__call__

    def uncounted(*args, **kwargs):  # what the interpreter holds
        with _disable_current_modes():
            return launch(*args, **kwargs)

    monkeypatch.setattr(GridExecutor, "__call__", uncounted)
    monkeypatch.setattr(tiles, "LOW_MEMORY_BYTES", 2**11)
    size, groups = 96, 1 + (kind == "groups")
    a, b = embeddings(size, size)
    labels = labels_of(a, b, kind, *ids(kind, size, size))
    held, wanted = [], []
    for low_memory, most in ((False, tiles.PARTIAL_BYTES), (True, 2**11)):
        backend = fused(low_memory=low_memory, rows=None)
        with LiveBytes((a, b)) as count:
            backend.sums(a, b, torch.tensor(14.0), labels, gradients=False)
        held.append(max(count.after))
        rows = min(size, tiles.partial_rows(TILE, size, most=most, groups=kind == "groups"))
        down, across = rows // TILE.rows, size // TILE.columns
        wanted.append(4 * groups * (across * rows + down * size))
    assert held[0] - held[1] == wanted[0] - wanted[1] > 0
    assert wanted[1] <= 2**11
