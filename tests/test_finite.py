"""A NaN or an infinity is noticed in its step: told where it came first, not applied, not saved."""

import json
import math
import sys
from functools import cache, partial

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist

from contrastive import RunSpec, load_model
from contrastive.errors import ContrastiveError, TrainingError, WeightsError
from contrastive.features.cache import FeatureCache
from contrastive.reporting.run_log import read_log
from contrastive.training import parallel
from contrastive.training.train import train
from tests.toys import toy_dict

pytestmark = pytest.mark.slow
STEP = 6  # of 8, of which the fourth is saved
ROWS = [2, 5]
VALUES = [math.nan, math.inf, -math.inf]


def odd_features(model, batch, value):
    batch.features["image"][ROWS] = value


def odd_inputs(model, batch, value):
    [tensor] = batch.inputs["image"][0].values()
    tensor[ROWS, 0, 3, 3] = value


def odd_weight(model, batch, value):
    model.tower("text").head.weight.data[1, 2] = value


def odd_embedding(model, batch, value, view=0):
    """One view of the rows, from here on."""
    calls = []

    def put(module, args, output):
        calls.append(1)
        if (len(calls) - 1) % 2 == view or not view:
            output = output.clone()
            output[ROWS] = value
        return output

    model.tower("image").head.register_forward_hook(put)


def odd_loss(model, batch, value):
    def put(module, args, output):
        return output[0] + value, output[1]

    model.loss.register_forward_hook(put)


def odd_gradient(model, batch, value):
    model.tower("text").head.weight.register_hook(lambda gradient: gradient * value)


LIVE = {"encoder": {"type": "resnet", "width": 4, "image_size": 32}, "frozen": "none"}
REMEDY = "try a lower training.lr, or training.precision: fp32"
ELSEWHERE = f"inputs, weights and embeddings are finite; {REMEDY}"
INJECTED = {
    "features": (odd_features, {}, "the image features of {} are not finite"),
    "inputs": (odd_inputs, LIVE, "the image inputs of {} are not finite"),
    "a weight": (odd_weight, {}, f"the weight towers.text.head.weight is not finite; {REMEDY}"),
    "an embedding": (odd_embedding, {}, f"the image embeddings of {{}} are not finite; {REMEDY}"),
    "a live embedding": (
        odd_embedding,
        LIVE,
        f"the image embeddings of {{}} are not finite; {REMEDY}",
    ),
    "the second view": (
        partial(odd_embedding, view=1),
        LIVE | {"encoder": LIVE["encoder"] | {"augment": "crop-flip"}},
        f"the image embeddings of {{}} are not finite; {REMEDY}",
    ),
    "the loss": (odd_loss, {}, ELSEWHERE),
    "a gradient": (odd_gradient, {}, ELSEWHERE),
}


def spec_of(data, tower, **settings):
    spec = toy_dict(data, **settings)
    spec["model"]["towers"]["image"] |= tower
    if "augment" in tower.get("encoder", ()):
        spec["model"]["pairs"] = [["image", "text"], ["image", "image"]]
    return spec


def steps(run):
    return [line for line in read_log(run / "log.jsonl") if "loss" in line]


class Injected:
    """Puts a number into a step; notes the rows of it, and the weights before."""

    def __init__(self, inject, value):
        self.real, self.inject, self.value, self.calls = parallel.step_loss, inject, value, 0

    def __call__(self, model, batch, *args, **kwargs):
        self.calls += 1
        if self.calls == STEP:
            self.model = model
            self.inject(model, batch, self.value)
            self.sources = [batch.sources[i] for i in ROWS]
            self.before = {n: p.detach().clone() for n, p in model.named_parameters()}
        return self.real(model, batch, *args, **kwargs)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("finite") / "data"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return a run of a spec that nothing happens to."""

    @cache
    def run(text):
        folder = tmp_path_factory.mktemp("whole")
        train(json.loads(text), folder / "run", cache=FeatureCache(folder / "cache"))
        return folder / "run"

    return lambda spec: run(json.dumps(spec))


@pytest.fixture
def goes_on(whole):
    """Insist that the fourth step of a run is the last that is saved, and resume it."""

    def check(spec, run):
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
        assert not (run / "model").exists()
        train(spec, run, resume=True)
        assert steps(run) == steps(whole(spec))
        left, right = (load_file(x / "model" / "model.safetensors") for x in (run, whole(spec)))
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)

    return check


@pytest.mark.parametrize("what", INJECTED)
def test_what_is_not_finite_ends_the_step_and_is_named(tmp_path, data, goes_on, monkeypatch, what):
    inject, tower, cause = INJECTED[what]
    spec = spec_of(data, tower)
    value = VALUES[list(INJECTED).index(what) % 3]
    injected = Injected(inject, value)
    with monkeypatch.context() as patch:
        patch.setattr(parallel, "step_loss", injected)
        with pytest.raises(TrainingError) as error:
            train(spec, tmp_path / "run")
    told = str(error.value)
    assert f"at step {STEP} (logit scale " in told
    assert told.endswith(f"which is not applied: {cause.format(', '.join(injected.sources))}")
    after = dict(injected.model.named_parameters())
    for name, before in injected.before.items():
        assert torch.equal(after[name].nan_to_num(), before.nan_to_num()), name
    assert [line["step"] for line in steps(tmp_path / "run")] == [1, 2, 3, 4, 5]
    goes_on(spec, tmp_path / "run")


def rank(number, size, spec, folder, what):
    """Be one of the ranks, of which the last has a NaN."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=number, world_size=size)
    injected = Injected(INJECTED[what][0], math.nan)
    if number == size - 1:
        parallel.step_loss = injected
    with (folder / f"{number}.err").open("w") as sys.stderr:
        try:
            train(spec, folder / "run")
        except (ContrastiveError, SystemExit) as error:
            (folder / f"{number}.txt").write_text(str(error))
    if number == size - 1:
        (folder / "sources.txt").write_text(", ".join(injected.sources))


@pytest.mark.parametrize("what", ["inputs", "an embedding"])
def test_a_rank_alone_with_a_nan_says_which_rows(tmp_path, data, in_ranks, what):
    _, tower, cause = INJECTED[what]
    spec = spec_of(data, tower, batch_norm="eval")  # several ranks train no other
    in_ranks(rank, 2, spec, tmp_path, what)
    cause = cause.format((tmp_path / "sources.txt").read_text())
    assert f"rank 1: {cause}" in (tmp_path / "1.err").read_text()
    told = (tmp_path / "0.txt").read_text()
    assert f"the loss is nan at step {STEP}" in told
    assert told.endswith("which is not applied: rank 1 says why")
    assert [line["step"] for line in steps(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


def diverged(optimizer):
    """Weights that are finite, and their norm is not."""
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.data.add_(1e30)


def odd_moment(optimizer):
    first = optimizer.param_groups[0]["params"][0]
    optimizer.state[first]["exp_avg_sq"].view(-1)[0] = math.inf


UPDATES = {
    "a norm that overflows": (diverged, STEP, "the norm of the weights is not finite after step 6"),
    "a moment": (odd_moment, 8, r"\|exp_avg_sq is not finite after step 8"),
}


@pytest.mark.parametrize("what", UPDATES)
def test_an_update_that_diverges_is_not_saved(tmp_path, data, goes_on, monkeypatch, what):
    spoil, at, message = UPDATES[what]
    spec = spec_of(data, {})
    real, calls = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        real(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == at:
            spoil(self)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(TrainingError, match=f"{message}, which is not saved; {REMEDY}"):
            train(spec, tmp_path / "run")
    goes_on(spec, tmp_path / "run")


def test_statistics_that_are_not_finite_are_not_saved(tmp_path, data, monkeypatch):
    """BatchNorm's: in training, nothing of a step depends on them."""

    def odd(model, batch, value):
        model.get_buffer("towers.image.encoder.net.bn1.running_mean")[0] = value

    monkeypatch.setattr(parallel, "step_loss", Injected(odd, math.nan))
    with pytest.raises(
        TrainingError, match="running_mean is not finite after step 8, which is not"
    ):
        train(spec_of(data, LIVE), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000004"]


@pytest.mark.parametrize("value", VALUES)
def test_loading_names_the_tensor_that_is_not_finite(tmp_path, data, value):
    model = train(RunSpec.model_validate(spec_of(data, {}, epochs=1)), tmp_path / "run")
    odd_weight(model, None, value)
    model.save(tmp_path / "model")
    with pytest.raises(WeightsError, match=r"text\.head\.weight is not finite: the run"):
        load_model(tmp_path / "model")
