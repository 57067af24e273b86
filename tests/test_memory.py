"""The memory of a training step is estimated before it is run, and the allocator agrees."""

import json
import sys

import pytest
import torch
from torch.autograd.profiler import profile

from contrastive import RunSpec
from contrastive.distributed.ranks import Ranks
from contrastive.nn.snapshot import Snapshot
from contrastive.training.batches import TrainingBatches
from contrastive.training.built import built_for_training
from contrastive.training.memory import step_memory
from contrastive.training.memory_plan import spec_memory
from contrastive.training.optimizer import optimizer_of
from contrastive.training.step import step_loss
from tests.toys import toy_dict

TOLERANCE = 0.2
RESNET = {"type": "resnet", "width": 4, "image_size": 64}
VIT = {"type": "vit", "width": 48, "heads": 4, "depth": 3, "image_size": 64, "patch_size": 8}
CBOW = {"type": "cbow", "width": 64}
WORDS = {"type": "text-transformer", "width": 32, "depth": 2, "heads": 4}
LARGE = {"type": "cbow", "width": 256, "buckets": 20_000}
SPECS = {
    "convolutions": (RESNET, CBOW, {}),
    "transformers": (VIT, WORDS, {}),
    "bf16": (VIT, WORDS, {"precision": "bf16"}),
    "micro-batches": (VIT, WORDS, {"micro_batch": 8}),
    "checkpoints": (VIT, WORDS, {"checkpoint_activations": ["image", "text"]}),
    "weights": (VIT, LARGE, {"batch_size": 4}),
    "frozen": (VIT, WORDS, {}),
}


def run_spec(data, name):
    image, text, settings = SPECS[name]
    spec = toy_dict(data, images=40, **{"batch_size": 32, "cache": "off"} | settings)
    towers = {
        m: {"encoder": e, "head": {"type": "linear"}}
        for m, e in zip(("image", "text"), (image, text), strict=True)
    }
    if name == "frozen":
        towers["image"]["frozen"] = "encoder"
    spec["model"]["towers"] = towers
    return RunSpec.model_validate(spec)


def most_allocated(work):
    """Return the bytes that torch's allocator has given out at the fullest moment of some work."""
    with profile(profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_the_estimate_is_what_the_allocator_gives(tmp_path, name):
    spec = run_spec(tmp_path / "data", name)
    settings, dtype = spec.training, torch.bfloat16 if name == "bf16" else None
    model = built_for_training(spec, torch.device("cpu")).train()
    samples = spec.data.build("train", purpose="training")
    first, batch = TrainingBatches(samples, model, settings, Ranks(), cache=None).iterate(0, 2)
    optimizer = optimizer_of(model, settings)

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        loss, _ = step_loss(model, batch, settings, dtype=dtype)
        loss.backward()
        optimizer.step()

    step(first)  # which makes the moments
    optimizer.zero_grad(set_to_none=True)
    measured = most_allocated(lambda: step(batch))
    found = step_memory(model, batch, settings, rows=len(batch.ids), dtype=dtype)
    always = found.weights + found.optimizer + found.inputs
    print(f"{name}: {(found.peak - always) / measured - 1:+.1%} of what the allocator gave out")
    assert found.peak - always == pytest.approx(measured, rel=TOLERANCE)
    of_moments = sum(x.nbytes for state in optimizer.state.values() for x in state.values())
    assert found.optimizer == pytest.approx(of_moments, rel=0.01)
    in_advance, _ = spec_memory(spec)  # before there are batches: by the longest rows
    assert found.peak <= in_advance.peak < (1 + TOLERANCE) * found.peak


def test_an_estimate_leaves_the_model_as_it_was(tmp_path):
    spec = run_spec(tmp_path / "data", "convolutions")
    model = built_for_training(spec, torch.device("cpu")).train()
    samples = spec.data.build("train", purpose="training")
    batches = TrainingBatches(samples, model, spec.training, Ranks(), cache=None)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    random = torch.get_rng_state()
    step_memory(model, next(batches.iterate(0, 1)), spec.training, rows=512, dtype=None)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


def test_a_snapshot_puts_back_what_a_pass_changes():
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Dropout())
    frozen = torch.nn.BatchNorm1d(3).eval()
    snapshot = Snapshot(torch.nn.ModuleList([module, frozen]).train())
    first = module(torch.ones(4, 3))
    mean = module[0].running_mean.clone()
    snapshot.restore()
    assert not module[0].running_mean.any()
    assert torch.equal(module(torch.ones(4, 3)), first)
    assert torch.equal(module[0].running_mean, mean)


def test_a_large_batch_is_estimated_from_a_few_rows(tmp_path):
    spec = run_spec(tmp_path / "data", "convolutions")
    model = built_for_training(spec, torch.device("cpu")).train()
    samples = spec.data.build("train", purpose="training")
    batch = next(TrainingBatches(samples, model, spec.training, Ranks(), cache=None).iterate(0, 1))

    def found(rows, **settings):
        changed = spec.training.model_copy(update=settings)
        return step_memory(model, batch, changed, rows=rows, dtype=None)

    small, large = found(1000), found(2000)
    assert large.activations["image"] == pytest.approx(2 * small.activations["image"], rel=0.01)
    assert large.weights == small.weights
    assert found(2000, batch_norm="eval", micro_batch=8).peak < small.peak / 4
    # with the batch of the step before, which is to be logged; of micro-batches, one is on a GPU
    assert found(1000, device="cuda").inputs == small.inputs
    assert found(1000, device="cuda", micro_batch=1000).inputs == pytest.approx(small.inputs / 2)
    assert found(8192).loss == pytest.approx(4 * found(2048).loss, rel=0.3)  # chunks, not pairs


def test_validate_tells_what_a_step_takes(tmp_path, command):
    spec = run_spec(tmp_path / "data", "transformers")
    path = tmp_path / "spec.yaml"
    path.write_text(spec.model_dump_json())
    outcome = command("validate", path, "--memory", "training.micro_batch=8", "--json")
    assert outcome.code == 0, outcome.err
    found = json.loads(outcome.out)
    assert found["optimizer"] == 2 * found["gradients"]
    assert found["weights"] + found["optimizer"] < found["peak"]
    if sys.platform == "linux":  # with the interpreter, which has imported torch
        assert found["peak"] + 100 * 2**20 < found["process"] < found["peak"] + 4 * 2**30
    assert "the process: about " in command("validate", path, "--memory").out
    told = command("validate", path, "--memory", "training.device=cuda").out
    assert "the process: " not in told
    assert "│ activations: image │" in told
    assert "peak: " in told
    assert "for a batch of 32, at " in told
    if not torch.cuda.is_available():
        assert "in bf16 on cpu, since cuda is not here" in told
    assert "not counted: what kernels take" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--upgrade",), "--memory and --upgrade: give one at a time"),
        (("data.folder=nowhere",), "nowhere"),
        (("training.split=no",), "no split 'no'; there are:"),
    ],
)
def test_what_cannot_be_estimated_is_one_line(tmp_path, command, arguments, message):
    path = tmp_path / "spec.yaml"
    path.write_text(run_spec(tmp_path / "data", "convolutions").model_dump_json())
    outcome = command("validate", path, "--memory", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_model_alone_has_no_step(tmp_path, command):
    path = tmp_path / "model.yaml"
    path.write_text(run_spec(tmp_path / "data", "convolutions").model.model_dump_json())
    outcome = command("validate", path, "--memory")
    assert outcome.code == 2
    assert "describes a model, without data to train on" in outcome.err
