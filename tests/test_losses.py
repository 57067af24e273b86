"""The losses against a slow and obvious reference: loops over pairs, in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import cross_entropy, normalize
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.errors import SpecError
from contrastive.losses import InfoNCE, Loss, Sigmoid, execution, losses
from contrastive.losses.functional import accuracy, collisions, infonce, sigmoid, similarity

torch.set_num_threads(1)

POSITIVES = ["multi", "mask", "ignore"]
MODULES = [InfoNCE, Sigmoid]
quick = settings(deadline=None, max_examples=40)


class Holder(Config):
    loss: Loss


# The reference


def slow_infonce(a, b, a_ids=None, b_ids=None, *, log_scale, positives="multi"):
    logits, same = slow_logits(a, b, log_scale), slow_same(a_ids, b_ids)
    n, m = len(a), len(b)
    rows = slow_softmax(n, m, lambda i, j: logits[i][j], same, positives)
    columns = slow_softmax(m, n, lambda j, i: logits[i][j], lambda j, i: same(i, j), positives)
    return (rows + columns) / 2


def slow_softmax(n, m, logit, same, positives):
    terms = []
    for i in range(n):
        targets, candidates = [], []
        for j in range(m):
            if positives == "multi":
                is_target, is_candidate = same(i, j), True
            else:
                is_target = i == j
                is_candidate = is_target or positives == "ignore" or not same(i, j)
            targets += [logit(i, j)] if is_target else []
            candidates += [logit(i, j)] if is_candidate else []
        if targets:
            total = torch.log(sum(torch.exp(x) for x in candidates))
            terms.append(total - sum(targets) / len(targets))
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def slow_sigmoid(a, b, a_ids=None, b_ids=None, *, log_scale, bias, positives="multi"):
    logits, same = slow_logits(a, b, log_scale), slow_same(a_ids, b_ids)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(a)):
        for j in range(len(b)):
            if positives == "mask" and same(i, j) and i != j:
                continue
            is_match = same(i, j) if positives == "multi" else i == j
            sign = 1 if is_match else -1
            total = total + torch.log(1 + torch.exp(-sign * (logits[i][j] + bias)))
    return total / min(len(a), len(b))


def slow_logits(a, b, log_scale):
    return [[torch.exp(log_scale) * (x * y).sum() for y in b] for x in a]


def slow_same(a_ids, b_ids):
    if a_ids is None:
        return lambda i, j: i == j
    b_ids = a_ids if b_ids is None else b_ids
    return lambda i, j: int(a_ids[i]) == int(b_ids[j])


# What they are given


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def scalar(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def leaves(a, b, log_scale=2.0, bias=-3.0, dtype=torch.float64):
    a, b = (x.detach().to(dtype, copy=True).requires_grad_() for x in (a, b))
    return a, b, scalar(log_scale, dtype), scalar(bias, dtype)


def call(loss, a, b, a_ids, b_ids, log_scale, bias, positives):
    extra = {"bias": bias} if loss in (sigmoid, slow_sigmoid) else {}
    return loss(a, b, a_ids, b_ids, log_scale=log_scale, positives=positives, **extra)


def value_and_gradients(loss, inputs, a_ids, b_ids, positives):
    value = call(loss, *inputs[:2], a_ids, b_ids, *inputs[2:], positives)
    if not value.requires_grad:  # nothing had a positive
        return value, [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return value.detach(), [
        torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)
    ]


def relative(x, y):
    return float((x.double() - y.double()).norm() / y.double().norm())


IDS = {
    "no ids": (None, None),
    "distinct": (range(9), range(9)),
    "one group": ([7] * 9, [7] * 9),
    "captions": ([0, 0, 1, 1, 2, 3, 3, 3, 4], [0, 0, 1, 1, 2, 3, 3, 3, 4]),
    "rows without positives": ([0, 1, 5, 5, 8, 8, 2, 3, 4], [0, 1, 6, 7, 0, 1, 2, 3, 4]),
    "no positives": ([0, 1, 2, 3, 4, 5, 6, 7, 8], [10, 11, 12, 13, 14, 15, 16, 17, 18]),
    "negative and large": (
        [-1, -1, 2**40, 2**40, 3, 4, 5, 6, 7],
        [-1, 2**40, -1, 0, 3, 4, 5, 6, 7],
    ),
}


def ids_for(name, n, m):
    return tuple(
        None if ids is None else torch.tensor(list(ids)[:rows])
        for ids, rows in zip(IDS[name], (n, m), strict=True)
    )


# Value and gradients


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 5, 4), (3, 6, 2), (6, 2, 5), (9, 9, 8)], ids=str)
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize(
    ("loss", "slow"), [(infonce, slow_infonce), (sigmoid, slow_sigmoid)], ids=["infonce", "sigmoid"]
)
def test_value_and_gradients_are_those_of_the_loops(loss, slow, positives, ids, shape):
    n, m, d = shape
    a_ids, b_ids = ids_for(ids, n, m)
    inputs = leaves(unit(n, d), unit(m, d, seed=1))
    value, gradients = value_and_gradients(loss, inputs, a_ids, b_ids, positives)
    true_value, true_gradients = value_and_gradients(slow, inputs, a_ids, b_ids, positives)
    torch.testing.assert_close(value, true_value, rtol=1e-12, atol=1e-14)
    for gradient, true in zip(gradients, true_gradients, strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("ids", ["no ids", "captions", "rows without positives", "one group"])
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_gradients_are_finite_differences(loss, positives, ids):
    a_ids, b_ids = ids_for(ids, 4, 6)

    def of(a, b, log_scale, bias):
        return call(loss, a, b, a_ids, b_ids, log_scale, bias, positives)

    assert torch.autograd.gradcheck(of, leaves(unit(4, 3), unit(6, 3, seed=1)))


def test_ids_of_b_default_to_those_of_a():
    a, b, ids = unit(6, 4), unit(6, 4, seed=1), torch.tensor([0, 0, 1, 2, 2, 2])
    s = scalar(2.0)
    assert infonce(a, b, ids, log_scale=s) == infonce(a, b, ids, ids, log_scale=s)
    assert infonce(a, b, ids, log_scale=s) != infonce(a, b, log_scale=s)


@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("positives", ["multi", "mask"])
@pytest.mark.parametrize("ids", [(None, range(4)), (range(4), None), (range(4), range(3))], ids=str)
def test_ids_that_do_not_fit_are_refused(loss, positives, ids):
    a_ids, b_ids = (None if x is None else torch.tensor(list(x)) for x in ids)
    inputs = leaves(unit(4, 3), unit(5, 3))
    with pytest.raises(ValueError, match=r"^a_ids and b_ids have|^b_ids without a_ids$"):
        call(loss, *inputs[:2], a_ids, b_ids, *inputs[2:], positives)


# Properties


@st.composite
def batches(draw, square=False):
    n = draw(st.integers(1, 7))
    m = n if square else draw(st.integers(1, 7))
    seed = draw(st.integers(0, 10**6))
    ids = st.integers(0, draw(st.integers(0, 6)))
    a_ids = draw(st.lists(ids, min_size=n, max_size=n))
    b_ids = a_ids if square else draw(st.lists(ids, min_size=m, max_size=m))
    d = draw(st.integers(1, 5))
    return (
        unit(n, d, seed=seed),
        unit(m, d, seed=seed + 1),
        torch.tensor(a_ids),
        torch.tensor(b_ids),
    )


log_scales = st.floats(0.0, math.log(100))


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES))
def test_losses_equal_the_loops_on_any_batch(batch, log_scale, positives):
    a, b, a_ids, b_ids = batch
    for loss, slow in ((infonce, slow_infonce), (sigmoid, slow_sigmoid)):
        arguments = (a, b, a_ids, b_ids, scalar(log_scale), scalar(-3.0), positives)
        torch.testing.assert_close(
            call(loss, *arguments), call(slow, *arguments), rtol=1e-9, atol=1e-12
        )


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES))
def test_losses_are_symmetric(batch, log_scale, positives):
    a, b, a_ids, b_ids = batch
    rest = (scalar(log_scale), scalar(-3.0), positives)
    for loss in (infonce, sigmoid):
        there = call(loss, a, b, a_ids, b_ids, *rest)
        back = call(loss, b, a, b_ids, a_ids, *rest)
        torch.testing.assert_close(there, back, rtol=1e-12, atol=1e-14)


@quick
@given(batches(square=True), log_scales, st.sampled_from(POSITIVES), st.randoms())
def test_order_of_pairs_does_not_matter(batch, log_scale, positives, random):
    a, b, ids, _ = batch
    order = torch.tensor(random.sample(range(len(a)), len(a)))
    for loss in (infonce, sigmoid):
        inputs = leaves(a, b, log_scale)
        shuffled = leaves(a[order], b[order], log_scale)
        value, gradients = value_and_gradients(loss, inputs, ids, ids, positives)
        other, others = value_and_gradients(loss, shuffled, ids[order], ids[order], positives)
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-14)
        for i, gradient in enumerate(gradients):
            expected = gradient[order] if i < 2 else gradient
            torch.testing.assert_close(others[i], expected, rtol=1e-10, atol=1e-13)


@quick
@given(batches(), log_scales, st.randoms())
def test_with_multi_only_ids_matter_and_not_places(batch, log_scale, random):
    a, b, a_ids, b_ids = batch
    order = torch.tensor(random.sample(range(len(b)), len(b)))
    s = scalar(log_scale)
    there = infonce(a, b, a_ids, b_ids, log_scale=s)
    torch.testing.assert_close(there, infonce(a, b[order], a_ids, b_ids[order], log_scale=s))


@quick
@given(batches(square=True), log_scales)
def test_without_equal_ids_all_settings_are_the_loss_of_clip(batch, log_scale):
    a, b, _, _ = batch
    labels = torch.arange(len(a))
    logits = math.exp(log_scale) * a @ b.T
    clip = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    for positives in POSITIVES:
        for ids in (None, labels + 5):
            loss = infonce(a, b, ids, log_scale=scalar(log_scale), positives=positives)
            torch.testing.assert_close(loss, clip, rtol=1e-10, atol=1e-13)


@quick
@given(st.lists(st.integers(-3, 6), min_size=1, max_size=12))
def test_collisions_count_rows_that_share_a_group(ids):
    slow = sum(any(x == y for j, y in enumerate(ids) if j != i) for i, x in enumerate(ids))
    assert collisions(torch.tensor(ids)).item() == slow


@quick
@given(batches())
def test_accuracy_is_that_of_the_loops(batch):
    a, b, a_ids, b_ids = batch
    for ids in ((a_ids, b_ids), (None, None)):
        same = slow_same(*ids)
        logits = (a @ b.T).tolist()
        shares = []
        for n, m, at in (
            (len(a), len(b), lambda i, j: (i, j)),
            (len(b), len(a), lambda j, i: (i, j)),
        ):
            right = []
            for i in range(n):
                if any(same(*at(i, j)) for j in range(m)):
                    best = max(range(m), key=lambda j: logits[at(i, j)[0]][at(i, j)[1]])
                    right.append(same(*at(i, best)))
            shares.append(sum(right) / len(right) if right else 0.0)
        assert accuracy(a @ b.T, *ids).item() == pytest.approx(sum(shares) / 2)


# Numerics


def test_perfect_alignment_costs_nothing_and_chance_costs_ln_n():
    a, s = torch.eye(64), scalar(math.log(100), torch.float32)
    assert infonce(a, a, log_scale=s) < 1e-40
    a, b = unit(512, 256, dtype=torch.float32), unit(512, 256, seed=1, dtype=torch.float32)
    assert infonce(a, b, log_scale=scalar(0.0, torch.float32)).item() == pytest.approx(
        math.log(512), abs=0.01
    )


def regimes():
    noise, other = unit(256, 64), unit(256, 64, seed=1)
    cone = torch.zeros(64, dtype=torch.float64)
    cone[0] = 0.6
    return {
        "random": (noise, other),
        "fitted": (noise, normalize(0.8 * noise + 0.6 * other, dim=1)),
        "aligned": (noise, noise.clone()),
        "opposed cones": (normalize(noise + cone, dim=1), normalize(other - cone, dim=1)),
    }


@pytest.mark.parametrize("regime", regimes())
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07, 30.0, 100.0])
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("groups", [256, 32])
def test_fp32_keeps_its_relative_precision(loss, regime, scale, positives, groups):
    a, b = (x.float() for x in regimes()[regime])
    ids = torch.arange(256) % groups
    arguments = {"log_scale": math.log(scale), "bias": -10.0}
    rough = value_and_gradients(
        loss, leaves(a, b, **arguments, dtype=torch.float32), ids, ids, positives
    )
    exact = value_and_gradients(loss, leaves(a, b, **arguments), ids, ids, positives)
    assert rough[0].dtype == torch.float32
    assert relative(rough[0], exact[0]) < 5e-5  # exp makes this of an error of s * 6e-8 in a logit
    for gradient, true in zip(rough[1], exact[1], strict=True):
        assert gradient.isfinite().all()
        if true.norm() > 1e-30:
            assert relative(gradient, true) < 1e-4


@pytest.mark.parametrize("positives", POSITIVES)
def test_tiny_losses_are_exact(positives):
    a, b = (x.float() for x in regimes()["fitted"])
    loss = infonce(a, b, torch.arange(256), log_scale=scalar(math.log(100.0)), positives=positives)
    logits = (
        torch.tensor(math.log(100.0), dtype=torch.float32).exp() * a.double() @ b.double().T
    ).tolist()
    terms = []
    for i in range(256):
        row = math.fsum(math.exp(logits[i][j] - logits[i][i]) for j in range(256) if j != i)
        column = math.fsum(math.exp(logits[j][i] - logits[i][i]) for j in range(256) if j != i)
        terms.append((math.log1p(row) + math.log1p(column)) / 2)
    true = math.fsum(terms) / 256
    assert true < 1e-7  # log_softmax in fp32 returns a multiple of 6e-8 for a row
    assert loss.item() == pytest.approx(true, rel=1e-4)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
def test_no_step_of_the_backward_pass_is_nan(loss, positives, ids):
    with torch.autograd.detect_anomaly():
        value_and_gradients(loss, leaves(unit(5, 3), unit(7, 3)), *ids_for(ids, 5, 7), positives)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [infonce, sigmoid])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss, positives, dtype):
    rounded = [unit(32, 16, seed=seed).to(dtype) for seed in (0, 1)]
    ids = torch.arange(32) // 2
    half = [x.requires_grad_() for x in rounded]
    full = [x.detach().float() for x in rounded]
    rest = (scalar(2.0, torch.float32), scalar(-3.0, torch.float32), positives)
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(loss, *half, ids, ids, *rest)
        cast_full = call(loss, *full, ids, ids, *rest)
    plain = call(loss, *full, ids, ids, *rest)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)
    torch.testing.assert_close(cast_full, plain, rtol=1e-6, atol=0)
    cast.backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for x in half)


class Calls(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("config", MODULES)
def test_a_step_takes_one_product_and_never_waits_for_the_device(config, positives):
    module, ids = config(positives=positives).build(), torch.arange(8) // 2
    a, b = (unit(8, 4, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    with Calls() as calls:
        loss, _ = module(a, b, ids, ids)
    assert sum(name in {"mm", "addmm", "bmm", "matmul"} for name in calls.names) == 1
    with calls:
        loss.backward()
        module.clamp_()
    assert not {"_local_scalar_dense", "nonzero", "_unique2", "is_nonzero"} & {*calls.names}


# Modules


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("with_ids", [True, False])
def test_modules_compute_the_functions(config, positives, with_ids):
    module = config(positives=positives).build()
    a, b = unit(6, 4, dtype=torch.float32), unit(6, 4, seed=1, dtype=torch.float32)
    ids = torch.tensor([0, 0, 1, 2, 2, 2]) if with_ids else None
    loss, figures = module(a, b, ids, ids)
    function = infonce if config is InfoNCE else sigmoid
    bias = getattr(module, "bias", None)
    assert loss == call(function, a, b, ids, ids, module.log_scale, bias, positives)
    assert figures["collisions"] == (5 if with_ids else 0)
    assert figures["accuracy"] == accuracy(a @ b.T, ids, ids)
    assert figures["log_scale"] == module.log_scale
    assert all(f.dim() == 0 and not f.requires_grad for f in figures.values())
    assert set(figures) - {"accuracy", "collisions"} == {*module.state_dict()}


@pytest.mark.parametrize("config", MODULES)
def test_figures_stay_what_they_were_when_parameters_move(config):
    module = config().build()
    _, figures = module(unit(3, 2), unit(3, 2, seed=1))
    before = {name: float(figure) for name, figure in figures.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert before == {name: float(figure) for name, figure in figures.items()}


@pytest.mark.parametrize("config", MODULES)
def test_logits_are_fp32_under_autocast_and_have_the_bias(config):
    module = config().build()
    a, b = (unit(4, 8, seed=s).bfloat16() for s in (0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = module.logits(a, b)
    expected = similarity(a.float(), b.float(), log_scale=module.log_scale)
    torch.testing.assert_close(logits, expected + (-10.0 if config is Sigmoid else 0.0))


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize(("moved", "kept"), [(9.0, math.log(50)), (-2.0, 0.0), (1.5, 1.5)])
def test_clamp_keeps_the_scale_between_1_and_its_bound(config, moved, kept):
    module = config(max_scale=50).build()
    with torch.no_grad():
        module.log_scale.fill_(moved)
    module.clamp_()
    assert module.log_scale.item() == pytest.approx(kept)
    assert module.log_scale.requires_grad


def test_parameters_start_where_the_papers_start():
    infonce_loss, sigmoid_loss = InfoNCE().build(), Sigmoid().build()
    assert infonce_loss.log_scale.item() == pytest.approx(math.log(1 / 0.07))
    assert sigmoid_loss.log_scale.item() == pytest.approx(math.log(10))
    assert sigmoid_loss.bias.item() == -10
    assert {*dict(infonce_loss.named_parameters())} == {*infonce_loss.state_dict()} == {"log_scale"}
    assert {*dict(sigmoid_loss.named_parameters())} == {"log_scale", "bias"}
    assert {p.dtype for m in (infonce_loss, sigmoid_loss) for p in m.parameters()} == {
        torch.float32
    }


def test_a_fixed_temperature_is_saved_but_not_trained():
    module = InfoNCE(temperature=0.05, learn_temperature=False).build()
    assert not list(module.parameters())
    other = InfoNCE(learn_temperature=False).build()
    other.load_state_dict(module.state_dict())
    assert other.log_scale.item() == pytest.approx(math.log(20))
    module.clamp_()
    assert torch.equal(other.log_scale, module.log_scale)


@pytest.mark.parametrize("config", MODULES)
def test_training_separates_the_pairs(config):
    module = config().build()
    a, b = (unit(16, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    optimiser = torch.optim.Adam([a, b, *module.parameters()], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        loss, figures = module(normalize(a, dim=1), normalize(b, dim=1))
        loss.backward()
        optimiser.step()
        module.clamp_()
    assert figures["accuracy"] == 1
    assert loss < 0.2


# Specs


@pytest.mark.parametrize(
    "loss",
    [
        InfoNCE(),
        InfoNCE(temperature=0.02, learn_temperature=False, max_scale=50, positives="mask"),
        Sigmoid(),
        Sigmoid(temperature=0.5, bias=-2, max_scale=1000, positives="ignore"),
    ],
)
def test_specs_survive_a_round_trip(loss, tmp_path):
    spec = Holder(loss=loss)
    assert Holder.model_validate(spec.model_dump()) == spec
    assert Holder.model_validate_json(spec.model_dump_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text(files.dump(spec), encoding="utf-8")
    assert files.load(Holder, path) == spec


def test_losses_have_names():
    assert losses["infonce"] is InfoNCE
    assert losses["sigmoid"] is Sigmoid


@pytest.mark.parametrize("name", ["infonce", "sigmoid"])
@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ("temperature: 2", "(0.01) and 1"),
        ("temperature: 0.005", "(0.01) and 1"),
        ("max_scale: 5", "(0.2) and 1"),
    ],
)
def test_a_temperature_out_of_bounds_is_one_line(name, fields, bounds, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(f"loss:\n  type: {name}\n  {fields}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        files.load(Holder, path)
    assert str(caught.value).startswith(f"{path}:1: loss: temperature ")
    assert str(caught.value).endswith(f" is not between 1/max_scale {bounds}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("config", MODULES)
@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": math.nan}, {"max_scale": math.inf}, {"positives": "all"}],
)
def test_values_without_meaning_are_refused(config, fields):
    with pytest.raises(ValidationError, match="1 validation error"):
        config(**fields)


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_the_bounds_themselves_are_allowed(temperature):
    module = InfoNCE(temperature=temperature).build()
    before = module.log_scale.detach().clone()
    module.clamp_()
    torch.testing.assert_close(module.log_scale.detach(), before)


def test_the_menu_imports_no_torch():
    code = "import sys, contrastive.losses as m; m.InfoNCE(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Which execution


class Somewhere:
    """What ``choose`` looks at of embeddings, on a device that need not be there."""

    def __init__(self, n, width, dtype, *, is_cuda):
        self.shape, self.dtype, self.is_cuda = (n, width), dtype, is_cuda

    def __len__(self):
        return self.shape[0]


@pytest.mark.parametrize(
    ("n", "width", "dtype", "products", "on_gpu", "on_cpu"),
    [
        (1023, 512, torch.bfloat16, "fp32", "eager", "eager"),
        (1024, 512, torch.bfloat16, "fp32", "fused", "chunked"),
        (1024, 512, torch.float32, "fp32", "chunked", "chunked"),
        (1024, 512, torch.float32, "bf16", "fused", "chunked"),
        (1024, 512, torch.float64, "bf16", "chunked", "chunked"),
        (1024, 4097, torch.float16, "fp32", "chunked", "chunked"),
    ],
)
def test_auto_goes_by_size_device_and_products(
    n, width, dtype, products, on_gpu, on_cpu, monkeypatch
):
    monkeypatch.setattr(execution, "_has_triton", lambda: True)
    for is_cuda, expected in ((True, on_gpu), (False, on_cpu)):
        x = Somewhere(n, width, dtype, is_cuda=is_cuda)
        assert execution.choose("auto", x, x, products=products) == expected
    monkeypatch.setattr(execution, "_has_triton", lambda: False)
    x = Somewhere(n, width, dtype, is_cuda=True)
    assert execution.choose("auto", x, x, products=products) != "fused"
    assert execution.choose("fused", x, x) == "fused"  # who asks for it is told what is missing


def test_a_model_says_which_execution_it_takes():
    few, many = (torch.zeros(n, 4) for n in (8, 1024))
    for config in MODULES:
        assert config().build().execution(few, few) == "eager"
        assert config().build().execution(many, many) == "chunked"
        assert config(execution="chunked").build().execution(few, few) == "chunked"
