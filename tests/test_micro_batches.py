"""Micro-batches change nothing but the memory: gradients are those of the whole batch."""

import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from contrastive import RunSpec, build_model, load_model
from contrastive.errors import TrainingError
from contrastive.features.cache import FeatureCache
from contrastive.losses import execution, functional
from contrastive.nn.modes import eval_mode
from contrastive.reporting.run_log import read_log
from contrastive.training.gradient_cache import check_batch_norm, embed, micro_batched
from contrastive.training.train import train
from tests.toys import toy_dict

torch.set_num_threads(1)

B, WIDTH = 12, 6
SIZES = [1, 3, 5, 8, 12, 100]  # 5 and 8 leave a smaller last one; from 12 on there is only one
IDS = torch.tensor([0, 0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 8])


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


class Tower(nn.Module):
    """What is asked for, between layers that need gradients."""

    def __init__(self, *between, inputs=10, hidden=16):
        super().__init__()
        first, last = nn.Linear(inputs, hidden), nn.Linear(hidden, WIDTH)
        self.net = nn.Sequential(first, nn.GELU(), *between, last)

    def forward(self, x):
        return normalize(self.net(x), dim=1)


def pair(*make, dtype=torch.float64, shared=False):
    """Return two towers, or one twice; ``make`` makes what is between their layers."""
    a = Tower(*(f() for f in make)).to(dtype)
    return (a, a) if shared else (a, Tower(*(f() for f in make)).to(dtype))


def batch(dtype=torch.float64, seed=1):
    noise = torch.Generator().manual_seed(seed)
    return [torch.randn(B, 10, generator=noise, dtype=dtype) for _ in "ab"]


def scalar(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def by(rows, **options):
    """Return what embeds by micro-batches of so many rows; None calls the module by itself."""

    def of(tower, x):
        return tower(x) if rows is None else micro_batched(tower, {"x": x}, rows=rows, **options)

    return of


def gradients(loss, *owners):
    """Return the gradients that ``backward`` leaves, each parameter once."""
    loss.backward()
    leaves = [p for owner in owners for p in getattr(owner, "parameters", lambda o=owner: [o])()]
    found = [leaf.grad.clone() for leaf in dict.fromkeys(leaves)]
    for leaf in leaves:
        leaf.grad = None
    return found


def assert_equal(found, right, *, within=1e-10):
    assert len(found) == len(right)
    for x, y in zip(found, right, strict=True):
        assert y.norm() > 0, "nothing would be shown"
        assert float((x - y).norm() / y.norm()) < within


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
            *(micro_batched(Identity(), {"x": z}, rows=rows) for z in (a, b)), *args, **options
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
        micro_batched(Tower(), {"x": x, "mask": x[:11]}, rows=4)


# Randomness


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
    out = micro_batched(draws, {"x": torch.ones(6, 1)}, rows=2)
    assert draws.seen == [[0, 100, 200], [1, 101, 201], [2, 102, 202]]
    for state in states:
        state.add_(10)  # what happens between the passes
    out.sum().backward()
    assert sorted(draws.seen[3:]) == draws.seen[:3]
    assert [int(state) for state in states] == [13, 113, 213]


# Precision


def test_autocast_is_that_of_the_call_and_micro_batches_do_not_add_to_its_errors():
    """A bf16 copy of the weights, kept by autocast, would add all micro-batches up in bf16."""
    towers, log_scale = pair(dtype=torch.float32), scalar(2.0, torch.float32)
    x, y = (torch.randn(256, 10) for _ in "ab")

    def found(embed, *, half=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            a, b = embed(towers[0], x), embed(towers[1], y)
        assert (a.dtype == torch.bfloat16) == half
        loss = functional.infonce(a.float(), b.float(), log_scale=log_scale)
        return torch.cat([g.flatten() for g in gradients(loss, *towers)])

    exact, whole = found(by(None), half=False), found(by(None))
    error = float((whole - exact).norm() / exact.norm())
    for rows in (1, 3, 64):
        split = found(by(rows))
        assert float((split - exact).norm() / exact.norm()) < 1.2 * error + 1e-3
    assert_equal([found(by(3), half=False)], [exact], within=1e-5)


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


# Real towers


class Pooled(nn.Module):
    def __init__(self, model, pool):
        super().__init__()
        self.model, self.pool = model, pool

    def forward(self, **inputs):
        return normalize(self.pool(self.model(**inputs)), dim=1)


def distilbert(dropout=0.0):
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(dim=WIDTH * 2, n_layers=2, n_heads=2, hidden_dim=24, vocab_size=32)
    config.dropout = config.attention_dropout = dropout
    model = DistilBertModel(config)
    lengths = torch.arange(B) % 7 + 1  # padded to the batch, as tokenizers do
    mask = (torch.arange(8) < lengths[:, None]).long()
    words = torch.randint(1, 32, (B, 8)) * mask
    inputs = {"input_ids": words, "attention_mask": mask}
    return Pooled(model, lambda out: out.last_hidden_state[:, 0]), inputs


def hf_resnet():
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, WIDTH * 2], depths=[1, 1])
    inputs = {"pixel_values": torch.randn(B, 3, 32, 32).double()}
    return Pooled(ResNetModel(config), lambda out: out.pooler_output.flatten(1)), inputs


def timm_resnet():
    import timm

    net = timm.create_model("test_resnet", num_classes=WIDTH * 2)
    return Pooled(net, lambda out: out), {"x": torch.randn(B, 3, 32, 32).double()}


@pytest.mark.parametrize("image", [hf_resnet, timm_resnet])
@pytest.mark.parametrize("rows", [1, 5])
def test_real_networks_get_the_gradients_of_the_batch(image, rows):
    (images, pixels), (texts, words), log_scale = image(), distilbert(), scalar(2.0)
    images, texts = images.double(), texts.double()
    with pytest.raises(TrainingError, match="BatchNorm"):
        micro_batched(images, pixels, rows=rows)
    for module in images.modules():  # else it starts with means of 0 and variances of 1
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)

    def found(rows):
        a = micro_batched(images, pixels, rows=rows, batch_norm="eval")
        b = micro_batched(texts, words, rows=rows)
        loss = functional.infonce(a, b, IDS, log_scale=log_scale)
        loss.backward()
        owners = {"image": images, "text": texts}
        grads = {
            f"{who}.{name}": p.grad
            for who, owner in owners.items()
            for name, p in owner.named_parameters()
            if p.grad is not None
        } | {"log_scale": log_scale.grad}
        for owner in owners.values():
            owner.zero_grad(set_to_none=True)
        log_scale.grad = None
        return grads

    split, whole = found(rows), found(None)
    assert split.keys() == whole.keys()
    largest = max(float(g.norm()) for g in whole.values())
    for name, right in whole.items():  # some are 0 in truth, such as those of the keys' biases
        assert float((split[name] - right).norm()) < 1e-10 * largest, name


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_dropout_of_a_transformer_is_the_same_in_both_passes(attention):
    texts, words = distilbert(dropout=0.3)
    texts.model.set_attn_implementation(attention)
    texts, weight = texts.double(), torch.randn(B, WIDTH * 2).double()

    def held(texts, words):
        starts = range(0, B, 5)
        return torch.cat([texts(**{k: v[i : i + 5] for k, v in words.items()}) for i in starts])

    def found(embed):
        torch.manual_seed(3)
        (embed(texts, words) * weight).sum().backward()
        grads = [p.grad for p in texts.parameters() if p.grad is not None]
        texts.zero_grad(set_to_none=True)
        return grads

    assert_equal(found(partial(micro_batched, rows=5)), found(held))


# Towers of a model


@pytest.fixture
def model(tmp_path):
    spec = toy_dict(tmp_path / "data")
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
    return build_model(spec)


def test_a_frozen_encoder_runs_once_and_its_head_sees_the_whole_batch(model):
    tower, calls = model.tower("image"), {"encoder": [], "head": []}
    for name, rows in calls.items():
        getattr(tower, name).register_forward_hook(lambda *a, rows=rows: rows.append(len(a[2])))
    image = {"image": torch.randn(B, 3, 32, 32)}
    weight = torch.randn(B, 32)
    found = gradients((embed(tower, image, rows=5) * weight).sum(), tower.head)
    assert calls == {"encoder": [5, 5, 2], "head": [12]}
    assert all(p.grad is None for p in tower.encoder.parameters())
    assert_equal(found, gradients((tower(**image) * weight).sum(), tower.head), within=1e-5)


def test_a_trained_tower_is_embedded_by_micro_batches(model):
    tower = model.tower("text")
    words = tower.encoder.preprocess([f"word {i} of {i % 3}" for i in range(B)])
    weight = torch.randn(B, 32)
    found = gradients((embed(tower, words, rows=5) * weight).sum(), tower)
    assert_equal(found, gradients((tower(**words) * weight).sum(), tower), within=1e-5)


# Training


def live(folder, **training):
    """Return a run whose two towers are trained, without BatchNorm."""
    spec = toy_dict(folder / "data", **training)
    spec["model"]["towers"]["image"] = {
        "encoder": {"type": "vit", "image_size": 32, "patch_size": 8, "width": 16, "depth": 1},
        "head": {"type": "mlp", "dropout": training.pop("dropout", 0.0)},
    }
    spec["model"]["towers"]["image"]["encoder"]["heads"] = 2
    spec["training"]["lr"] = 1e-3
    return spec


def lines(run, name):
    return [line[name] for line in read_log(run / "log.jsonl") if "loss" in line]


def test_a_run_by_micro_batches_is_the_run_without(tmp_path):
    for name, rows in (("whole", None), ("split", 5)):
        spec = RunSpec.model_validate(live(tmp_path, micro_batch=rows))
        train(spec, tmp_path / name)
    for figure in ("loss", "grad_norm", "log_scale", "accuracy"):
        whole, split = (lines(tmp_path / name, figure) for name in ("whole", "split"))
        assert len(whole) == 8
        assert split == pytest.approx(whole, rel=1e-3)


def test_a_resumed_run_by_micro_batches_is_the_one_that_never_stopped(tmp_path):
    spec = live(tmp_path, micro_batch=5, epochs=3)
    spec["model"]["towers"]["image"]["head"]["dropout"] = 0.3
    spec = RunSpec.model_validate(spec)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(spec, whole)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000012")
    shutil.rmtree(broken / "model")
    train(spec, broken, resume=True)
    assert lines(broken, "loss") == lines(whole, "loss")
    left, right = (load_file(run / "model" / "model.safetensors") for run in (whole, broken))
    assert all(torch.equal(left[name], right[name]) for name in left)


def with_batch_norm(folder, **training):
    spec = toy_dict(folder / "data", epochs=1, **training)
    spec["model"]["towers"]["image"]["frozen"] = "none"
    spec["model"]["towers"]["text"]["frozen"] = "encoder"
    return RunSpec.model_validate(spec)


def test_a_run_with_batch_norm_is_refused_before_anything_is_encoded(tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    told = r"^towers\.image\.encoder\S+: BatchNorm\w+ takes the statistics of the whole batch"
    with pytest.raises(TrainingError, match=told):
        train(with_batch_norm(tmp_path, micro_batch=4), tmp_path / "run", cache=cache)
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("rows", [None, 5])
def test_a_run_with_batch_norm_by_choice_keeps_its_statistics(tmp_path, rows):
    spec = with_batch_norm(tmp_path, micro_batch=rows, batch_norm="eval")
    before = statistics(build_model(spec))
    assert before
    model = train(spec, tmp_path / "run")
    for each in (model, load_model(tmp_path / "run")):
        after = statistics(each)
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def statistics(model):
    return {n: b.clone() for n, b in model.named_buffers() if "running" in n or "tracked" in n}


# Several processes, and the real thing

RANK = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from contrastive.distributed.global_batch import BatchGroup
from contrastive.losses.execution import infonce
from contrastive.training.gradient_cache import micro_batched

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        self.b = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, y, rows):
        a, b = (micro_batched(m, {"input": z}, rows=rows) for m, z in ((self.a, x), (self.b, y)))
        group = BatchGroup.current()
        return infonce(a, b, log_scale=self.log_scale, normalize=True, group=group)


model = Pair().double()
inputs = load_file(f"{folder}/inputs.safetensors")
model.load_state_dict({k: v for k, v in inputs.items() if k not in "xy"})
mine = slice(0, 7) if rank == 0 else slice(7, 12)
wrapped = DistributedDataParallel(model)
for _ in range(2):
    model.zero_grad()
    loss = wrapped(inputs["x"][mine], inputs["y"][mine], 3)
    loss.backward()
grads = {name: p.grad for name, p in model.named_parameters()}
save_file(grads | {"loss": loss.detach()}, f"{folder}/{rank}.safetensors")
distributed.destroy_process_group()
"""


def test_two_processes_by_micro_batches_are_one_process_without(tmp_path):
    from safetensors.torch import save_file

    from contrastive.losses.execution import infonce

    nets = nn.ModuleDict(
        {k: nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6)) for k in "ab"}
    ).double()
    log_scale, (x, y) = scalar(2.0), batch()
    weights = nets.state_dict() | {"log_scale": log_scale.detach(), "x": x, "y": y}
    save_file(weights, tmp_path / "inputs.safetensors")
    loss = infonce(nets["a"](x), nets["b"](y), log_scale=log_scale, normalize=True)
    loss.backward()
    right = {name: p.grad for name, p in nets.named_parameters()} | {"log_scale": log_scale.grad}

    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(found.pop("loss"), loss.detach())
        assert found.keys() == right.keys()
        assert_equal([found[name] for name in right], list(right.values()))


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
                out = micro_batched(tower, {"x": x}, rows=rows, device=torch.device("cuda"))
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
