"""Gradients by micro-batches are those of the whole batch, with the memory of one micro-batch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive.errors import TrainingError
from contrastive.losses import execution, functional
from contrastive.nn.modes import eval_mode
from contrastive.training.gradient_cache import check_batch_norm, forward_in_micro_batches
from tests.micro_batches import (
    IDS,
    WIDTH,
    B,
    Tower,
    assert_equal,
    batch,
    by,
    gradients,
    pair,
    scalar,
)

pytestmark = pytest.mark.usefixtures("one_seed")

torch.set_num_threads(1)
SIZES = [1, 3, 5, 8, 12, 100]  # 5 and 8 leave a smaller last one; from 12 on there is only one


# Gradients


@pytest.mark.parametrize("rows", SIZES)
@pytest.mark.parametrize("how", ["eager", "chunked"])
@pytest.mark.parametrize("factor", [1, 1 / 4, 2.0**16], ids=["plain", "quarter", "scaler"])
def test_gradients_of_towers_temperature_and_bias_are_those_of_the_batch(rows, how, factor):
    towers, (x, y), log_scale, bias = pair(), batch(), scalar(2.0), scalar(-3.0)

    def found(embed):
        a, b = embed(towers[0], x), embed(towers[1], y)
        given = {"log_scale": log_scale, "execution": how}
        loss = execution.infonce(a, b, IDS, **given)
        loss = loss + execution.sigmoid(a, b, IDS, **given, bias=bias)
        return gradients(loss * factor, *towers, log_scale, bias)

    assert_equal(found(by(rows)), found(by(None)))


@pytest.mark.parametrize("rows", SIZES)
def test_identity_towers_leave_the_loss_as_it_is(rows):
    class Identity(nn.Module):
        def forward(self, x):
            return x

    def cached(a, b, *args, **options):
        """Return the loss as an execution of the same form: what parity suites compare."""
        return functional.sigmoid(
            *(forward_in_micro_batches(Identity(), {"x": z}, rows=rows) for z in (a, b)),
            *args,
            **options,
        )

    a, b = (normalize(z, dim=1).requires_grad_() for z in batch())
    given = {"log_scale": scalar(2.0), "bias": scalar(-3.0)}
    found, right = (loss(a, b, IDS, **given) for loss in (cached, functional.sigmoid))
    assert torch.equal(found, right)
    leaves = (a, b, *given.values())
    assert_equal(gradients(found, *leaves), gradients(right, *leaves))


def test_two_batches_add_up_and_one_module_may_be_both_towers():
    towers, log_scale = pair(shared=True), scalar(2.0)

    def found(embed):
        for seed in (1, 2):
            x, y = batch(seed=seed)
            loss = functional.infonce(embed(towers[0], x), embed(towers[1], y), log_scale=log_scale)
            if seed == 1:
                (loss / 2).backward()
        return gradients(loss / 2, *towers, log_scale)

    assert_equal(found(by(5)), found(by(None)))


def test_gradients_reach_each_parameter_once():
    """Hooks on gradients, such as those of DistributedDataParallel, see whole gradients."""
    towers, (x, y), calls = pair(), batch(), []
    for tower in towers:
        for p in tower.parameters():
            p.register_post_accumulate_grad_hook(lambda p: calls.append(id(p)))
    a, b = by(5)(towers[0], x), by(5)(towers[1], y)
    functional.infonce(a, b, log_scale=scalar(2.0)).backward()
    assert sorted(calls) == sorted({id(p) for tower in towers for p in tower.parameters()})


def test_without_gradients_there_is_one_pass():
    tower, (x, _), calls = Tower().double(), batch(), []
    tower.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        torch.testing.assert_close(by(5)(tower, x), tower(x))
    assert len(calls) == 3 + 1


def test_inputs_of_different_lengths_are_refused():
    x, _ = batch()
    with pytest.raises(ValueError, match=r"first dimension: \{'x': 12, 'mask': 11\}"):
        forward_in_micro_batches(Tower(), {"x": x, "mask": x[:11]}, rows=4)


# RngState


@pytest.mark.parametrize("rows", [1, 5, 8])
def test_dropout_is_the_same_in_both_passes(rows):
    towers, inputs = pair(partial(nn.Dropout, 0.5), partial(nn.Dropout, 0.2)), batch()

    def held(tower, x):
        """Return the same without a second pass: all activations are kept."""
        return torch.cat([tower(piece) for piece in x.split(rows)])

    def found(embed):
        torch.manual_seed(5)
        a, b = (embed(tower, x) for tower, x in zip(towers, inputs, strict=True))
        return gradients(functional.infonce(a, b, log_scale=scalar(2.0)), *towers)

    assert_equal(found(by(rows)), found(held))


def test_the_second_pass_leaves_the_generator_where_it_was():
    tower, (x, _) = Tower(nn.Dropout(0.5)).double(), batch()
    out = by(5)(tower, x)
    before = torch.get_rng_state()
    first = torch.autograd.grad(out.sum(), tower.parameters(), retain_graph=True)
    second = torch.autograd.grad(out.sum(), tower.parameters())
    assert_equal(second, first)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generators_of_all_gpus_are_replayed(monkeypatch):
    """Three pretended ones, of which the tower uses each; the inputs are on the CPU."""
    states = [torch.tensor([gpu * 100]) for gpu in range(3)]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda gpu: states[gpu].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s, gpu: states[gpu].copy_(s))

    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = nn.Parameter(torch.ones(())), []

        def forward(self, x):
            self.seen.append([int(state) for state in states])
            for state in states:
                state.add_(1)
            return (x * self.weight).exp()

    draws = Draws()
    out = forward_in_micro_batches(draws, {"x": torch.ones(6, 1)}, rows=2)
    assert draws.seen == [[0, 100, 200], [1, 101, 201], [2, 102, 202]]
    for state in states:
        state.add_(10)  # what happens between the passes
    out.sum().backward()
    assert sorted(draws.seen[3:]) == draws.seen[:3]
    assert [int(state) for state in states] == [13, 113, 213]


# Precision


@pytest.mark.slow
def test_autocast_is_that_of_the_call_and_micro_batches_do_not_add_to_its_errors():
    """A bf16 copy of the weights, kept by autocast, would add all micro-batches up in bf16."""
    towers, log_scale = pair(dtype=torch.float32), scalar(2.0, torch.float32)
    x, y = (torch.randn(256, 10) for _ in "ab")

    def found(embed, *, bf16=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            a, b = embed(towers[0], x), embed(towers[1], y)
        assert (a.dtype == torch.bfloat16) == bf16
        loss = functional.infonce(a.float(), b.float(), log_scale=log_scale)
        return torch.cat([g.flatten() for g in gradients(loss, *towers)])

    exact, whole = found(by(None), bf16=False), found(by(None))
    error = float((whole - exact).norm() / exact.norm())
    for rows in (1, 3, 64):
        split = found(by(rows))
        assert float((split - exact).norm() / exact.norm()) < 1.2 * error + 1e-3
    assert_equal([found(by(3), bf16=False)], [exact], within=1e-5)


def test_half_precision_does_not_outlive_the_call():
    tower, (x, _) = Tower(), batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        by(5)(tower, x).float().sum().backward()
        assert torch.is_autocast_cache_enabled()
    assert tower(x).dtype == torch.float32


# BatchNorm


def norms(kind, **options):
    return partial(kind, 16, **options)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.SyncBatchNorm])
def test_batch_norm_in_training_mode_is_refused(kind):
    tower, (x, _) = Tower(norms(kind)()), batch(torch.float32)
    told = rf"^net\.2: {kind.__name__} takes the statistics of the whole batch.* batch_norm to eval"
    for rows in (5, 100):
        with pytest.raises(TrainingError, match=told) as error:
            by(rows)(tower, x)
        assert "\n" not in str(error.value)
    assert tower.net[2].num_batches_tracked == 0
    by(5)(tower.eval(), x)


@pytest.mark.parametrize("choice", ["train", "eval"])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_without_running_statistics_is_refused_in_any_mode(choice, training):
    tower = Tower(norms(nn.BatchNorm1d, track_running_stats=False)()).train(training)
    with pytest.raises(TrainingError, match="keeps no running statistics"):
        check_batch_norm(tower, choice)


def test_batch_norm_by_choice_uses_and_keeps_its_running_statistics():
    tower, (x, _) = Tower(norms(nn.BatchNorm1d)()).double(), batch()
    norm = tower.net[2]
    norm.add_module("inner", nn.Dropout())
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    before, modes = {k: v.clone() for k, v in norm.state_dict().items()}, []
    norm.register_forward_hook(lambda *_: modes.append((norm.training, norm.inner.training)))
    weight = torch.randn(B, WIDTH, dtype=torch.float64)

    found = [
        gradients((by(rows, batch_norm="eval")(tower, x) * weight).sum(), tower)
        for rows in (5, 100)
    ]
    assert set(modes) == {(False, True)}, "or what is inside the norm changed its mode too"
    assert all(module.training for module in tower.modules())
    assert all(torch.equal(norm.state_dict()[k], v) for k, v in before.items())
    with eval_mode(tower):
        right = gradients((tower(x) * weight).sum(), tower)
    for each in found:
        assert_equal(each, right)


def test_the_mode_of_batch_norm_is_restored_after_an_error():
    tower = Tower(norms(nn.BatchNorm1d)())
    with pytest.raises(RuntimeError):
        by(2, batch_norm="eval")(tower, torch.zeros(4, 3))
    assert tower.net[2].training


# Memory


class Live(TorchDispatchMode):
    """The bytes of all tensors that were made within, at their highest."""

    def __init__(self):
        super().__init__()
        self.storages, self.peak = {}, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.storages = {k: v for k, v in self.storages.items() if not v[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return out


@pytest.mark.slow
def test_activations_are_those_of_a_micro_batch():
    hidden = 256
    layers = [layer for _ in range(4) for layer in (nn.Linear(hidden, hidden), nn.Tanh())]
    tower = Tower(*layers, hidden=hidden)
    weights = sum(4 * p.numel() for p in tower.parameters())

    def peak(size, rows):
        x = torch.randn(size, 10)
        with Live() as live:
            by(rows)(tower, x).square().sum().backward()
        tower.zero_grad(set_to_none=True)
        return live.peak

    activations = 4 * 4 * hidden  # bytes a row, at least: the outputs of four layers
    embeddings = 8 * 4 * WIDTH  # bytes a row, at most: the embeddings, their gradients, copies
    assert peak(512, None) - peak(256, None) > 256 * activations
    assert peak(512, 16) - peak(256, 16) < 256 * embeddings
    assert peak(256, 64) - peak(256, 32) > 32 * activations
    assert peak(512, 16) < 2.5 * weights + 3 * 16 * activations + 512 * embeddings


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_dropout_is_replayed_and_inputs_come_piece_by_piece():
    size, wide = 4096, 2048
    tower = Tower(nn.Dropout(0.5), nn.Linear(16, 16), nn.Dropout(0.2), inputs=wide).cuda()
    x, weight = torch.randn(size, wide), torch.randn(size, WIDTH, device="cuda")

    def found(rows):
        torch.manual_seed(5)
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            if rows:
                out = forward_in_micro_batches(
                    tower, {"x": x}, rows=rows, device=torch.device("cuda")
                )
            else:
                out = torch.cat([tower(piece.cuda()) for piece in x.split(64)])
        state = torch.cuda.get_rng_state()
        (out.float() * weight).sum().backward()
        assert torch.equal(torch.cuda.get_rng_state(), state)
        grads = torch.cat([p.grad.flatten() for p in tower.parameters()])
        tower.zero_grad(set_to_none=True)
        return grads, torch.cuda.max_memory_allocated() - start

    (split, low), (whole, high) = found(64), found(None)
    assert_equal([split], [whole], within=1e-3)
    assert low < high / 4
