"""A step on several ranks is that of one: BatchNorm, accumulation, caching, and what is sent."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from contrastive import RunSpec, build_model
from contrastive.distributed.batch_norm import global_batch_norm
from contrastive.distributed.ranks import Ranks
from contrastive.errors import DataError
from contrastive.reporting.run_log import read_log
from contrastive.training import parallel
from contrastive.training.batches import TrainingBatches
from contrastive.training.signals import ENDING
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow

PARTS = "tests.rank_parts"
FEW = 6  # steps
CASES = {
    "a trained norm": ({"towers.image.frozen": "none"}, {"lr": 1e-4}),  # else rounding grows
    "a norm in a head": ({"towers.image.head": {"type": f"{PARTS}:NormHead"}}, {}),
    "accumulated": ({}, {"accumulate": 2, "batch_size": 7}),
    "accumulated, cached gradients": (
        {"towers.image.frozen": "none"},
        {"accumulate": 2, "batch_size": 7, "micro_batch": 3, "batch_norm": "eval"},
    ),
    "compiled norm": ({"towers.image.frozen": "none"}, {"compile": "towers", "lr": 1e-4}),
}
BY_NIGHT = ["compiled norm", "accumulated"]  # by day with cached gradients
# rounding grows in a ResNet that trains: AdamW makes whole steps of gradients that are rounding
GROWS = ["a trained norm", "accumulated, cached gradients", "compiled norm"]


def specs_in(folder, epochs=None):
    toy, specs = toy_dict(folder / "data", images=36, epochs=2, batch_size=15), {}
    for name, (model, training) in CASES.items():
        spec = specs[name] = deepcopy(toy)
        spec["model"]["towers"]["image"]["head"]["dropout"] = 0.0
        for path, value in model.items():
            _, modality, field = path.split(".")
            spec["model"]["towers"][modality][field] = value
        spec["training"] |= {"lr": 1e-3} | training | ({"epochs": epochs} if epochs else {})
        spec["evaluation"] = {"split": None}
    return specs


def joined(rank, size, folder):
    store = f"file://{folder}/store-{size}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)


def trained_in_rank(rank, size, specs, folder):
    """Be a rank that trains each spec."""
    joined(rank, size, folder)
    for name, spec in specs.items():
        train(spec, folder / f"{size}" / name)
    dist.destroy_process_group()


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


def check_losses(folder, in_ranks, specs, sizes):
    for size in sizes:
        in_ranks(trained_in_rank, size, specs, folder)
    for name, spec in specs.items():
        train(spec, folder / "1" / name)
        expected = losses(folder / "1" / name)
        assert len(expected) >= FEW
        for size in sizes:
            within = 5e-2 if name in GROWS and len(expected) > FEW else 1e-5
            assert losses(folder / f"{size}" / name) == pytest.approx(expected, rel=within), name


def test_the_losses_of_two_ranks_are_those_of_one(tmp_path, in_ranks):
    specs = {name: spec for name, spec in specs_in(tmp_path).items() if name not in BY_NIGHT}
    check_losses(tmp_path, in_ranks, specs, [2])


@pytest.mark.nightly
def test_the_losses_of_100_steps_are_those_of_one(tmp_path, in_ranks):
    check_losses(tmp_path, in_ranks, specs_in(tmp_path, epochs=100), [2, 4])


SHAPES = [(7, 5), (7, 5, 4), (7, 5, 3, 2)]
AT = [0, 3, 7]  # rows of the first rank, of both


def norms_in_rank(rank, size, folder):
    """Be a rank that normalises some rows; leave what came out, and its gradients."""
    joined(rank, size, folder)
    found = []
    for module, x, outer in problems():
        own = slice(AT[rank], AT[rank + 1])
        rows = x[own].clone().requires_grad_()
        with global_batch_norm(module, size):
            y = module(rows)
            (y * outer[own]).sum().backward()
        assert "forward" not in vars(module)
        sums = [p.grad for p in module.parameters()]
        for each in sums:
            dist.all_reduce(each)
        found.append([y.detach(), rows.grad, *sums, *module.buffers()])
    named = {f"{i}.{k}": x.contiguous() for i, each in enumerate(found) for k, x in enumerate(each)}
    save_file(named, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


def problems():
    """Return modules, inputs, and gradients of their outputs."""
    torch.manual_seed(0)
    for shape in SHAPES:
        norm = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) - 2]
        for affine in (True, False):
            module = norm(5, affine=affine, dtype=torch.float64)
            x, outer = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
            yield module, x * 3 + 100, outer
    # one row and one pixel of a rank are enough, since the others have more
    module = nn.Sequential(nn.BatchNorm1d(5, momentum=None, dtype=torch.float64), nn.ReLU())
    yield module, torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)


def test_batch_norm_takes_the_statistics_of_all_rows(tmp_path, in_ranks):
    in_ranks(norms_in_rank, 2, tmp_path)
    parts = [load_file(tmp_path / f"{rank}.safetensors") for rank in range(2)]
    for i, (module, rows, outer) in enumerate(problems()):
        x = rows.requires_grad_()
        y = module(x)
        (y * outer).sum().backward()
        whole = [y, x.grad, *(p.grad for p in module.parameters()), *module.buffers()]
        for k, expected in enumerate(whole):
            left, right = (part[f"{i}.{k}"] for part in parts)
            found = torch.cat([left, right]) if k < 2 else left
            torch.testing.assert_close(found, expected.detach(), rtol=1e-11, atol=1e-11)
            assert k < 2 or torch.equal(left, right)


class SmallBuckets(DistributedDataParallel):
    def __init__(self, module, **options):
        super().__init__(module, bucket_cap_mb=1e-3, **options)


def sends_in_rank(rank, size, spec, folder):
    """Be a rank in a few steps; leave what it sends, and when."""
    joined(rank, size, folder)
    events = []
    parallel.DistributedDataParallel = SmallBuckets
    dist._DEFAULT_FIRST_BUCKET_BYTES = 1000
    run = RunSpec.model_validate(spec)
    model = build_model(run.model).train()
    ranks = Ranks(rank, size, cpu_group=dist.new_group(backend="gloo"))
    rows = run.data.build("train", purpose="training")
    batches = TrainingBatches(rows, model, run.training, ranks, cache=None)
    gradients = parallel.StepGradients(model, run.training, ranks, dtype=None)

    def bucket_sent(_, bucket):
        events.append("bucket")
        sent = dist.all_reduce(bucket.buffer().div_(size), async_op=True).get_future()
        return sent.then(lambda done: done.value()[0])

    gradients._loss.register_comm_hook(None, bucket_sent)
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: events.append("gradient"))
    backward, all_reduce = torch.Tensor.backward, dist.all_reduce

    def ended(loss):
        backward(loss)
        events.append("end")

    def counted(x, *args, **kwargs):
        if not kwargs.get("async_op"):
            events.append(f"{x.numel()} numbers")
        return all_reduce(x, *args, **kwargs)

    torch.Tensor.backward, dist.all_reduce = ended, counted
    for batch in batches.iterate(0, 2):
        gradients.compute([batch])
        events.append("step")
    (folder / f"{rank}.json").write_text(json.dumps(events))
    dist.destroy_process_group()


def test_gradients_are_sent_during_the_backward_pass(tmp_path, in_ranks):
    spec = toy_dict(tmp_path / "data", images=16, batch_size=8, cache="off")
    spec["model"]["towers"]["image"]["frozen"] = "none"
    in_ranks(sends_in_rank, 2, spec, tmp_path)
    events = json.loads((tmp_path / "0.json").read_text())
    assert events == json.loads((tmp_path / "1.json").read_text())
    step = events[: events.index("step")]
    during, after = step[: step.index("end")], step[step.index("end") + 1 :]
    assert during.count("bucket") > 5
    assert after == [f"{1 + len(ENDING)} numbers"], "the loss and signals, in one collective"
    last = len(during) - 1 - during[::-1].index("gradient")
    assert during[last:].count("bucket") <= 1, "all buckets but the last go while others compute"


def test_fewer_rows_than_a_step_takes_are_one_line(tmp_path):
    spec = toy_dict(tmp_path / "data", images=8, batch_size=8, accumulate=1000)
    with pytest.raises(DataError, match=r"fewer than a step of 1000 batches of 8; lower training"):
        train(spec, tmp_path / "run")
