"""Training by micro-batches, in one process and in two, is training without."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from contrastive import RunSpec, build_model, load_model
from contrastive.distributed.global_batch import BatchGroup
from contrastive.errors import TrainingError
from contrastive.features.cache import FeatureCache
from contrastive.losses.execution import infonce
from contrastive.reporting.run_log import read_log
from contrastive.training.gradient_cache import forward_in_micro_batches
from contrastive.training.train import train
from tests.micro_batches import assert_equal, batch, scalar
from tests.toys import toy_dict

pytestmark = pytest.mark.usefixtures("one_seed")


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


@pytest.mark.slow
def test_a_run_by_micro_batches_is_the_run_without(tmp_path):
    for name, rows in (("whole", None), ("split", 5)):
        spec = RunSpec.model_validate(live(tmp_path, micro_batch=rows))
        train(spec, tmp_path / name)
    for figure in ("loss", "grad_norm", "log_scale", "accuracy"):
        whole, split = (lines(tmp_path / name, figure) for name in ("whole", "split"))
        assert len(whole) == 8
        assert split == pytest.approx(whole, rel=1e-3)


@pytest.mark.slow
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


@pytest.mark.slow
# nightly: at once, as in test_activation_checkpointing
@pytest.mark.parametrize("rows", [5, pytest.param(None, marks=pytest.mark.nightly)])
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


# Several processes


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        self.b = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, y, rows):
        towers = (self.a, x), (self.b, y)
        a, b = (forward_in_micro_batches(m, {"input": z}, rows=rows) for m, z in towers)
        group = BatchGroup.current()
        return infonce(a, b, log_scale=self.log_scale, normalize=True, group=group)


def rank_by_micro_batches(rank, size, folder):
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", store, rank=rank, world_size=size)
    model = Pair().double()
    inputs = load_file(folder / "inputs.safetensors")
    model.load_state_dict({k: v for k, v in inputs.items() if k not in "xy"})
    mine = slice(0, 7) if rank == 0 else slice(7, 12)
    wrapped = DistributedDataParallel(model)
    for _ in range(2):
        model.zero_grad()
        loss = wrapped(inputs["x"][mine], inputs["y"][mine], 3)
        loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    save_file(grads | {"loss": loss.detach()}, folder / f"{rank}.safetensors")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_by_micro_batches_are_one_process_without(tmp_path, in_ranks):
    nets = nn.ModuleDict(
        {k: nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6)) for k in "ab"}
    ).double()
    log_scale, (x, y) = scalar(2.0), batch()
    weights = nets.state_dict() | {"log_scale": log_scale.detach(), "x": x, "y": y}
    save_file(weights, tmp_path / "inputs.safetensors")
    loss = infonce(nets["a"](x), nets["b"](y), log_scale=log_scale, normalize=True)
    loss.backward()
    right = {name: p.grad for name, p in nets.named_parameters()} | {"log_scale": log_scale.grad}

    in_ranks(rank_by_micro_batches, 2, tmp_path)
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}.safetensors")
        torch.testing.assert_close(found.pop("loss"), loss.detach())
        assert found.keys() == right.keys()
        assert_equal([found[name] for name in right], list(right.values()))
