"""A step waits for its device once, for the numbers of the one before; what is odd is left out."""

import json
import math
import threading

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive import build_model
from contrastive.distributed.ranks import Ranks
from contrastive.errors import TrainingError
from contrastive.reporting.run_log import Log
from contrastive.spec import TrainingSpec
from contrastive.training import optimizer as optimizers
from contrastive.training import recorder
from contrastive.training import train as training
from contrastive.training.batches import Batch
from contrastive.training.optimizer import clip_gradients_, leaves_out_itself, optimizer_of
from contrastive.training.signals import ENDING
from contrastive.training.step_log import StepLog
from tests.toys import tiny_model, toy_dict

pytestmark = pytest.mark.slow

OPERATORS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "_unique2", "masked_select"}
REST = {"lr": 0.1, "metrics": {}, "sent": torch.zeros(len(ENDING))}
METHODS = ("cpu", "tolist", "numpy")  # which dispatch nothing on a CPU


class Waits(TorchDispatchMode):
    """Notes what would wait for a GPU."""

    def __init__(self, patch):
        super().__init__()
        self.found = []
        for name in METHODS:
            patch.setattr(torch.Tensor, name, self._noted(name, getattr(torch.Tensor, name)))

    def _noted(self, name, real):
        def method(*args, **kwargs):
            if threading.current_thread() is threading.main_thread():  # not of a checkpoint
                self.found.append(name)
            return real(*args, **kwargs)

        return method

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        bools = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
        if name in OPERATORS or bools:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("towers", ["cached", "live, two views, by micro-batches"])
def test_a_step_reads_the_numbers_of_the_one_before_in_one_copy(tmp_path, monkeypatch, towers):
    spec = toy_dict(tmp_path / "data", clip_norm=None, epochs=2)  # a CPU looks whether to clip
    spec["evaluation"] = {"split": None}
    if towers != "cached":
        vit = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 1}
        encoder = vit | {"heads": 2, "augment": "crop-flip"}
        spec["model"]["towers"]["image"] |= {"encoder": encoder, "frozen": "none"}
        spec["model"]["pairs"] = [["image", "text"], ["image", "image"]]
        spec["training"]["micro_batch"] = 6
    steps, running = [], []
    set_rates, is_due = training.set_rates, recorder.Recorder.is_due

    def begin(*args):
        running.append(Waits(monkeypatch))
        running[-1].__enter__()
        return set_rates(*args)

    def end(*args):  # the first of two calls
        if len(steps) < len(running):
            running[-1].__exit__(None, None, None)
            steps.append(list(running[-1].found))
        return is_due(*args)

    monkeypatch.setattr(training, "set_rates", begin)
    monkeypatch.setattr(recorder.Recorder, "is_due", end)
    training.train(spec, tmp_path / "run")
    # the first step also looks whether rows are normalised and views differ; the fifth follows the
    # end of an epoch, at which nothing is left to read
    assert steps[1:] == [["tolist"], ["tolist"], ["tolist"], [], ["tolist"], ["tolist"], ["tolist"]]


def test_clipping_on_a_device_does_not_wait():
    parameter = nn.Parameter(torch.ones(3, device="meta"))  # which has no number to wait for
    parameter.grad = torch.ones(3, device="meta")
    assert clip_gradients_([parameter], 1.0).device.type == "meta"


@pytest.fixture(params=["one pass", "one pass, as on MPS", "several passes"])
def steps(request, tmp_path, monkeypatch):
    """Return a model with gradients, its optimizer, and a log of its steps."""
    model = build_model(tiny_model("infonce"))
    settings = TrainingSpec(weight_decay=0.1)
    optimizer = optimizer_of(model, settings)
    for group in optimizer.param_groups:
        group["fused"] = request.param != "several passes" or None
    if "MPS" in request.param:
        monkeypatch.setattr(optimizers, "LEAVES_OUT", {"cuda"})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with Log(tmp_path / "log.jsonl") as log:
        about = log, model, optimizer, settings, Ranks()
        steps = StepLog(*about, steps_per_epoch=4, advance=lambda *_: None)
        yield model, optimizer, steps


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def update(step_log, optimizer, loss, norm):
    if step_log.is_applied(loss, norm):
        optimizer.step()


def same(model, before):
    return all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "gradient", "weights"])
def test_after_a_number_that_is_not_finite_no_update_is_applied(steps, what, odd):
    model, optimizer, step_log = steps
    fine, batch = torch.tensor(1.0), batch_of(model)
    numbers = {"loss": fine, "gradient_norm": fine}
    update(step_log, optimizer, *numbers.values())
    if what == "weights":
        with torch.no_grad():
            next(model.parameters()).view(-1)[0] = odd
    step_log.add(1, [batch], **numbers, **REST)
    before = weights(model)
    counted = [x["step"].clone() for x in optimizer.state.values()]
    of_two = numbers | {"loss": torch.tensor(odd)} if what == "loss" else numbers
    of_two = numbers | {"gradient_norm": torch.tensor(odd)} if what == "gradient" else of_two
    update(step_log, optimizer, *of_two.values())
    told = "after step 1, which is not saved|at step 2 .* not applied"

    def go_on():
        for done, each in ((2, of_two), (3, numbers)):
            step_log.add(done, [batch], **each, **REST)
            update(step_log, optimizer, fine, fine)

    with pytest.raises(TrainingError, match=told):
        go_on()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num()), name
    assert [x["step"] for x in optimizer.state.values()] == counted


def test_a_finite_step_is_applied_as_ever(steps):
    model, optimizer, step_log = steps
    other = build_model(tiny_model("infonce"))
    other.load_state_dict(model.state_dict())
    plain = optimizer_of(other, TrainingSpec(weight_decay=0.1))
    for group, own in zip(plain.param_groups, optimizer.param_groups, strict=True):
        group["fused"] = own["fused"]
    for _ in range(3):
        for parameter in other.parameters():
            parameter.grad = torch.ones_like(parameter)
        update(step_log, optimizer, torch.tensor(1.0), torch.tensor(2.0))
        plain.step()
    assert same(model, weights(other))


def test_a_device_that_ignores_found_inf_is_asked():
    optimizer = optimizer_of(build_model(tiny_model("infonce")), TrainingSpec())
    found = {t: leaves_out_itself(optimizer, torch.device(t)) for t in ("cpu", "cuda", "mps")}
    assert found == {"cpu": True, "cuda": True, "mps": False}


def batch_of(model):
    features = {m: torch.randn(2, model.tower(m).encoder.out_dim) for m in model.towers}
    return Batch(torch.arange(2), ["a", "b"], features)


def test_parts_without_gradients_are_those_of_the_step_not_of_the_next(steps, capsys):
    model, _, step_log = steps
    one = torch.tensor(1.0)
    step_log.add(1, [batch_of(model)], loss=one, gradient_norm=one, **REST)
    model.zero_grad(set_to_none=True)  # as the next step begins
    step_log.settle()
    assert capsys.readouterr().err == ""


class Unanswered(Ranks):
    """One of two, of which the other is in a step."""

    def all_reduce_max(self, number):
        raise AssertionError(number)


def test_the_main_rank_saves_what_was_done_without_the_others(tmp_path):
    model = build_model(tiny_model("infonce"))
    optimizer, settings, ranks = (
        optimizer_of(model, TrainingSpec()),
        TrainingSpec(),
        Unanswered(0, 2),
    )
    odd, one = torch.tensor(math.nan), torch.tensor(1.0)
    with Log(tmp_path / "log.jsonl") as log:
        about = log, model, optimizer, settings, ranks
        step_log = StepLog(*about, steps_per_epoch=4, advance=lambda *_: None)
        step_log.add(2, [batch_of(model)], loss=odd, gradient_norm=one, **REST)
        with pytest.raises(TrainingError, match="embeddings of rank 0 are finite"):
            recorder.Recorder(tmp_path, None, model, *[None] * 6).save_once(step_log, 2)


def test_a_line_has_the_numbers_that_item_gives(steps, tmp_path):
    _, _, step_log = steps
    metrics = {
        "half": torch.tensor(0.1, dtype=torch.bfloat16),
        "single": torch.tensor(0.1),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "count": torch.tensor(2**53 - 1),
        "byte": torch.tensor(7, dtype=torch.uint8),
        "flag": torch.tensor(True),
        "odd": torch.tensor(math.nan),
        "plain": 3,
        "word": "cosine",
        "none": None,
    }
    loss, norm = torch.tensor(0.3), torch.tensor(0.7)
    batch = Batch(torch.arange(2))
    step_log.add(1, [batch], loss=loss, gradient_norm=norm, **REST | {"metrics": metrics})
    path = tmp_path / "log.jsonl"
    assert path.read_text() == "", "it is read with the next step"
    step_log.settle()
    step_log.settle()
    plain = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
    numbers = {"loss": loss.item(), "lr": 0.1, "grad_norm": norm.item()} | plain
    assert path.read_text() == json.dumps({"step": 1, "epoch": 0.25} | numbers) + "\n"
