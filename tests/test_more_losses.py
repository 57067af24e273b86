"""The other losses against slow and obvious references: loops written from the papers, in float64.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import shutil
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import distributed as dist
from torch.nn.functional import cross_entropy, normalize

from contrastive import ModelSpec, RunSpec, build_model, load_model
from contrastive.config import yaml_files as files
from contrastive.config.base import Config
from contrastive.distributed.global_batch import BatchGroup
from contrastive.errors import SpecError, TrainingError
from contrastive.features.cache import FeatureCache
from contrastive.losses import (
    DCL,
    Distillation,
    HardNegative,
    InfoNCE,
    Loss,
    Matryoshka,
    Queue,
    Sigmoid,
    SupCon,
    losses,
)
from contrastive.losses import row_softmax as anchors
from contrastive.losses.dcl import dcl
from contrastive.losses.distillation import distillation
from contrastive.losses.functional import infonce, similarity
from contrastive.losses.hard_negative import hard_negative
from contrastive.losses.supcon import supcon
from contrastive.reporting.run_log import read_log
from contrastive.training.train import train
from tests.toys import toy_dict

torch.set_num_threads(1)

POSITIVES = ["multi", "mask", "ignore"]
DIRECTIONS = ["both", "a_to_b", "b_to_a"]
CANDIDATES = ["other", "both"]
IDS = {
    "no ids": (None, None),
    "distinct": ([0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 2, 3, 4, 5, 6, 7, 8]),
    "one group": ([7] * 9, [7] * 9),
    "captions": ([0, 0, 1, 1, 2, 3, 3, 3, 4], [0, 0, 1, 1, 2, 3, 3, 3, 4]),
    "no partners": ([0, 1, 5, 5, 8, 8, 2, 3, 4], [0, 1, 6, 7, 0, 1, 2, 3, 4]),
    "no positives": ([0, 1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16, 17]),
}
SHAPES = [(1, 1, 3), (5, 5, 4), (3, 6, 2), (6, 2, 5), (9, 9, 8)]
quick = settings(deadline=None, max_examples=30)


class Holder(Config):
    loss: Loss


def unit(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def scalar(value, dtype=torch.float64):
    return torch.tensor(value, dtype=dtype, requires_grad=True)


def ids_for(name, n, m):
    return tuple(
        None if ids is None else torch.tensor(ids[:rows])
        for ids, rows in zip(IDS[name], (n, m), strict=True)
    )


def leaves(n, m, d, log_scale=1.5):
    a, b = unit(n, d).requires_grad_(), unit(m, d, seed=1).requires_grad_()
    return a, b, scalar(log_scale)


def gradients(value, inputs):
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(value, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def assert_same(value, true, inputs):
    torch.testing.assert_close(value, torch.as_tensor(true).to(value), rtol=1e-11, atol=1e-12)
    for found, expected in zip(gradients(value, inputs), gradients(true, inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


# The references


def slow_anchors(a, b, a_ids, b_ids, s, positives, candidates):
    """Yield the logits of the positives and of the negatives of each row of a."""
    a_ids = range(len(a)) if a_ids is None else a_ids.tolist()
    b_ids = range(len(b)) if b_ids is None else b_ids.tolist()
    for i in range(len(a)):
        chosen, pushed = [], []
        for j in range(len(b)):
            x, equal = s * (a[i] * b[j]).sum(), a_ids[i] == b_ids[j]
            if positives == "multi":
                is_positive, is_negative = equal, not equal
            elif positives == "mask":
                is_positive, is_negative = i == j, i != j and not equal
            else:
                is_positive, is_negative = i == j, i != j
            chosen += [x] if is_positive else []
            pushed += [x] if is_negative else []
        for j in range(len(a) if candidates == "both" else 0):
            if i != j and (positives == "ignore" or a_ids[i] != a_ids[j]):
                pushed.append(s * (a[i] * a[j]).sum())
        yield chosen, pushed


def slow_sides(a, b, a_ids, b_ids, direction):
    b_ids = a_ids if b_ids is None else b_ids
    there, back = (a, b, a_ids, b_ids), (b, a, b_ids, a_ids)
    return {"both": [there, back], "a_to_b": [there], "b_to_a": [back]}[direction]


def slow_mean(terms):
    return sum(terms) / len(terms) if terms else torch.zeros((), dtype=torch.float64)


def slow_dcl(
    a,
    b,
    a_ids=None,
    b_ids=None,
    *,
    log_scale,
    positives="multi",
    direction="both",
    candidates="other",
    sigma=None,
):
    s, losses_of_sides = log_scale.exp(), []
    for side in slow_sides(a, b, a_ids, b_ids, direction):
        rows = [
            (sum(chosen) / len(chosen), pushed)
            for chosen, pushed in slow_anchors(*side, s, positives, candidates)
            if chosen and pushed
        ]
        vmf = [torch.exp(target / s / sigma) if sigma else torch.ones(()) for target, _ in rows]
        losses_of_sides.append(
            slow_mean(
                [
                    torch.log(sum(torch.exp(x) for x in pushed))
                    - (2 - v / (sum(vmf) / len(vmf))) * target
                    for v, (target, pushed) in zip(vmf, rows, strict=True)
                ]
            )
        )
    return slow_mean(losses_of_sides)


def slow_hard_negative(
    a,
    b,
    a_ids=None,
    b_ids=None,
    *,
    log_scale,
    beta,
    tau_plus=0.0,
    positives="multi",
    direction="both",
    candidates="other",
):
    def expected(xs):
        weights = [torch.exp(beta * x) for x in xs]
        return sum(w * torch.exp(x) for w, x in zip(weights, xs, strict=True)) / sum(weights)

    s, losses_of_sides = log_scale.exp(), []
    for side in slow_sides(a, b, a_ids, b_ids, direction):
        terms = []
        for chosen, pushed in slow_anchors(*side, s, positives, candidates):
            if not chosen:
                continue
            negative = torch.zeros((), dtype=torch.float64)
            if pushed:
                n = len(pushed)
                negative = n / (1 - tau_plus) * (expected(pushed) - tau_plus * expected(chosen))
                negative = torch.maximum(negative, n * torch.exp(-s))
            total = sum(torch.exp(x) for x in chosen) + negative
            terms.append(torch.log(total) - sum(chosen) / len(chosen))
        losses_of_sides.append(slow_mean(terms))
    return slow_mean(losses_of_sides)


def slow_supcon(a, b, a_ids=None, b_ids=None, *, log_scale):
    a_ids = list(range(len(a))) if a_ids is None else a_ids.tolist()
    b_ids = list(range(len(b))) if b_ids is None else b_ids.tolist()
    z, labels, terms = [*a, *b], a_ids + b_ids, []
    for i in range(len(z)):
        logits = {j: log_scale.exp() * (z[i] * z[j]).sum() for j in range(len(z)) if j != i}
        chosen = [p for p in logits if labels[p] == labels[i]]
        if chosen:
            total = sum(torch.exp(x) for x in logits.values())
            terms.append(
                -sum(torch.log(torch.exp(logits[p]) / total) for p in chosen) / len(chosen)
            )
    return slow_mean(terms)


def slow_distillation(a, b, teacher_a, teacher_b, *, log_scale, teacher_log_scale):
    x = [[log_scale.exp() * (p * q).sum() for q in b] for p in a]
    y = [[teacher_log_scale.exp() * (p * q).sum() for q in teacher_b] for p in teacher_a]

    def kl(student, teacher):
        p, q = (
            [torch.exp(v) / sum(torch.exp(w) for w in row) for v in row]
            for row in (teacher, student)
        )
        return sum(pi * torch.log(pi / qi) for pi, qi in zip(p, q, strict=True))

    rows = [kl(xs, ys) for xs, ys in zip(x, y, strict=True)]
    columns = [
        kl(xs, ys) for xs, ys in zip(zip(*x, strict=True), zip(*y, strict=True), strict=True)
    ]
    return (slow_mean(rows) + slow_mean(columns)) / 2


FUNCTIONS = {
    "dcl": (dcl, slow_dcl),
    "dcl, weighted": (partial(dcl, sigma=0.5), partial(slow_dcl, sigma=0.5)),
    "hard": (partial(hard_negative, beta=0.7), partial(slow_hard_negative, beta=0.7)),
    "hard, debiased": (
        partial(hard_negative, beta=0.7, tau_plus=0.1),
        partial(slow_hard_negative, beta=0.7, tau_plus=0.1),
    ),
    "debiased at its bound": (
        partial(hard_negative, beta=0.0, tau_plus=0.6),
        partial(slow_hard_negative, beta=0.0, tau_plus=0.6),
    ),
}


# Losses of rows that choose


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_and_gradients_are_those_of_the_loops(name, ids, shape):
    fast, slow = FUNCTIONS[name]
    inputs = leaves(*shape)
    batch = (*inputs[:2], *ids_for(ids, *shape[:2]))
    for positives, candidates in itertools.product(POSITIVES, CANDIDATES):
        how = {"log_scale": inputs[2], "positives": positives, "candidates": candidates}
        assert_same(fast(*batch, **how), slow(*batch, **how), inputs)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_direction_is_one_side_of_the_loops(name, direction):
    fast, slow = FUNCTIONS[name]
    inputs = leaves(5, 7, 4)
    batch = (*inputs[:2], *ids_for("captions", 5, 7))
    how = {"log_scale": inputs[2], "direction": direction}
    assert_same(fast(*batch, **how), slow(*batch, **how), inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ids", IDS)
def test_supcon_is_that_of_the_loops(ids, shape):
    inputs = leaves(*shape)
    batch = (*inputs[:2], *ids_for(ids, *shape[:2]))
    how = {"log_scale": inputs[2]}
    assert_same(supcon(*batch, **how), slow_supcon(*batch, **how), inputs)


@pytest.mark.parametrize("ids", ["no ids", "captions", "no partners", "one group"])
@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
def test_gradients_are_finite_differences(name, ids):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    a_ids, b_ids = ids_for(ids, 4, 6)
    for how in [{}] if name == "supcon" else [{}, {"candidates": "both", "positives": "mask"}]:

        def of(a, b, log_scale, how=how):
            return function(a, b, a_ids, b_ids, log_scale=log_scale, **how)

        assert torch.autograd.gradcheck(of, leaves(4, 6, 3))


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
@pytest.mark.parametrize("rows", [1, 4])
def test_chunks_give_the_same(name, ids, rows, monkeypatch):
    monkeypatch.setattr(anchors, "CHUNK_BYTES", rows * 4 * 16)
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    inputs = leaves(9, 7, 5)
    batch = (*inputs[:2], *ids_for(ids, 9, 7))
    for how in [{}] if name == "supcon" else [{}, {"candidates": "both"}]:
        chunked, eager = (
            function(*batch, log_scale=inputs[2], execution=execution, **how)
            for execution in ("chunked", "eager")
        )
        assert_same(chunked, eager, inputs)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("log_scale", [0.0, math.log(100)])
@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
def test_no_step_of_the_backward_pass_is_nan(name, ids, log_scale):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    for seed in (0, 1):  # with seed 0, partners are the same
        a, b = unit(5, 3, dtype=torch.float32), unit(7, 3, seed=seed, dtype=torch.float32)
        inputs = a.requires_grad_(), b.requires_grad_(), scalar(log_scale, torch.float32)
        with torch.autograd.detect_anomaly():
            loss = function(*inputs[:2], *ids_for(ids, 5, 7), log_scale=inputs[2])
            assert loss.isfinite()
            assert all(g.isfinite().all() for g in gradients(loss, inputs))


@pytest.mark.parametrize("name", [*FUNCTIONS, "supcon"])
def test_autocast_changes_nothing(name):
    function = supcon if name == "supcon" else FUNCTIONS[name][0]
    half = [unit(16, 8, seed=seed).bfloat16() for seed in (0, 1)]
    ids, log_scale = torch.arange(16) // 2, scalar(2.0, torch.float32)
    plain = function(*(x.float() for x in half), ids, log_scale=log_scale)
    with torch.autocast("cpu", torch.bfloat16):
        cast = function(*half, ids, log_scale=log_scale)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=1e-6, atol=0)


@st.composite
def batches(draw):
    n, d = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 10**6))
    ids = draw(st.lists(st.integers(0, draw(st.integers(0, 6))), min_size=n, max_size=n))
    return unit(n, d, seed=seed), unit(n, d, seed=seed + 1), torch.tensor(ids)


log_scales = st.floats(0.0, math.log(100)).map(scalar)


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES), st.randoms())
def test_order_and_sides_do_not_matter(batch, log_scale, positives, random):
    a, b, ids = batch
    order = torch.tensor(random.sample(range(len(a)), len(a)))
    for name in [*FUNCTIONS, "supcon"]:
        function = supcon if name == "supcon" else FUNCTIONS[name][0]
        how = {"log_scale": log_scale} | ({} if name == "supcon" else {"positives": positives})
        loss = function(a, b, ids, **how)
        shuffled = function(a[order], b[order], ids[order], **how)
        torch.testing.assert_close(shuffled, loss, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(function(b, a, ids, **how), loss, rtol=1e-9, atol=1e-12)


@quick
@given(batches(), log_scales, st.sampled_from(POSITIVES), st.sampled_from(DIRECTIONS))
def test_without_hardness_and_debiasing_it_is_infonce(batch, log_scale, positives, direction):
    a, b, ids = batch
    how = {"log_scale": log_scale, "positives": positives, "direction": direction}
    plain = hard_negative(a, b, ids, beta=0.0, tau_plus=0.0, **how)
    torch.testing.assert_close(plain, infonce(a, b, ids, **how), rtol=1e-9, atol=1e-12)


@quick
@given(batches(), log_scales)
def test_dcl_is_infonce_without_the_positive_in_the_denominator(batch, log_scale):
    a, b, _ = batch
    if len(a) > 1:
        x = similarity(a, b, log_scale=log_scale)
        total = sum(
            y.logsumexp(1) - y.fill_diagonal_(-torch.inf).logsumexp(1)
            for y in (x.detach().clone(), x.detach().T.clone())
        )
        expected = infonce(a, b, log_scale=log_scale) - total.mean() / 2
        torch.testing.assert_close(dcl(a, b, log_scale=log_scale), expected, rtol=1e-9, atol=1e-9)


@quick
@given(batches(), log_scales)
def test_supcon_of_distinct_ids_is_nt_xent(batch, log_scale):
    a, b, _ = batch
    n = len(a)
    z = torch.cat([a, b])
    logits = (log_scale.exp() * z @ z.T).fill_diagonal_(-torch.inf)
    labels = torch.arange(2 * n).roll(n)
    nt_xent = cross_entropy(logits, labels)
    for ids in (None, torch.arange(n) + 5):
        loss = supcon(a, b, ids, log_scale=log_scale)
        torch.testing.assert_close(loss, nt_xent, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau_plus", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_views_of_one_modality_give_the_loss_of_the_paper_on_hard_negatives(beta, tau_plus):
    a, b, t = unit(8, 4), unit(8, 4, seed=1), 0.5
    z, n = torch.cat([a, b]), 8
    pos = torch.exp((a * b).sum(1) / t).repeat(2)
    neg = torch.exp(z @ z.T / t)[~torch.eye(n, dtype=torch.bool).repeat(2, 2)].view(2 * n, -1)
    weights = neg**beta
    reweighted = (weights * neg).sum(1) / weights.mean(1)
    count = 2 * n - 2
    total = ((reweighted - tau_plus * count * pos) / (1 - tau_plus)).clamp(count * math.exp(-1 / t))
    expected = -torch.log(pos / (pos + total)).mean()
    how = {"beta": beta, "tau_plus": tau_plus, "candidates": "both"}
    torch.testing.assert_close(hard_negative(a, b, log_scale=-scalar(t).log(), **how), expected)


def test_hard_negatives_get_more_of_the_gradient():
    logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.9, 0.4], [0.6, -0.8], [-1.0, 0.0]])
    shares = []
    for beta in (0.0, 2.0):
        b = logits[1].clone().requires_grad_()
        loss = hard_negative(logits[0], b, log_scale=scalar(1.0), beta=beta, direction="a_to_b")
        (grad,) = torch.autograd.grad(loss, b)
        shares.append(grad[1, 0] / grad[1:, 0].sum())
    assert shares[1] > shares[0]


@pytest.mark.parametrize("function", [dcl, partial(hard_negative, beta=0.5), supcon])
def test_ids_that_do_not_fit_are_refused(function):
    with pytest.raises(ValueError, match=r"^a_ids and b_ids have"):
        function(unit(4, 3), unit(5, 3), torch.arange(4), log_scale=scalar(1.0))


# Modules


CONFIGS = {
    "dcl": DCL(),
    "dcl-weighted": DCL(sigma=0.5, candidates="both", positives="mask", learn_temperature=True),
    "hard-negative": HardNegative(beta=0.5, tau_plus=0.01),
    "hard-negative-one-way": HardNegative(direction="b_to_a", negatives="local", max_scale=50),
    "supcon": SupCon(temperature=0.2, execution="chunked"),
    "matryoshka": Matryoshka(loss=InfoNCE(), widths=(4, 8), weights=(0.5, 2)),
    "distillation": Distillation(loss=Sigmoid(), weight=0.7, teacher_temperature=0.05),
    "queue": Queue(loss=InfoNCE(positives="mask"), size=20),
    "queue-local": Queue(loss=InfoNCE(negatives="local"), size=20),
    "queue-one-way": Queue(loss=DCL(direction="a_to_b"), size=7),
    "queue-of-matryoshka": Queue(loss=Matryoshka(loss=HardNegative(), widths=(4, 8)), size=20),
    "matryoshka-of-queue": Matryoshka(loss=Queue(loss=Sigmoid(), size=20), widths=(8, 4)),
    "all": Distillation(
        loss=Queue(loss=Matryoshka(loss=Sigmoid(), widths=(4, 8)), size=9), weight=0.3
    ),
}
config_names = pytest.mark.parametrize("name", CONFIGS)


def call(module, a, b, ids=None, **rest):
    """Call a loss; one with a teacher gets the first dimensions as such."""
    if isinstance(getattr(module, "config", None), Distillation):
        rest |= {"teacher_a": a[:, :3].detach(), "teacher_b": b[:, :3].detach()}
    return module(a, b, ids, ids, **rest)


@config_names
def test_specs_survive_a_round_trip(name, tmp_path):
    spec = Holder(loss=CONFIGS[name])
    assert Holder.model_validate(spec.model_dump()) == spec
    assert Holder.model_validate_json(spec.model_dump_json()) == spec
    path = tmp_path / "spec.yaml"
    path.write_text(files.dump(spec), encoding="utf-8")
    assert files.load(Holder, path) == spec


def test_losses_have_names():
    names = {
        "dcl": DCL,
        "hard-negative": HardNegative,
        "supcon": SupCon,
        "matryoshka": Matryoshka,
        "distillation": Distillation,
        "queue": Queue,
    }
    assert {name: losses[name] for name in names} == names


@config_names
def test_modules_keep_the_contract(name):
    module = CONFIGS[name].build()
    a, b = (unit(6, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    for _ in range(3):
        loss, figures = call(module, a, b, ids)
        loss.backward()
    assert loss.dim() == 0
    assert loss.dtype == torch.float32
    assert a.grad.isfinite().all()
    assert all(f.dim() == 0 and not f.requires_grad for f in figures.values())
    assert figures["collisions"] == 2
    assert figures["log_scale"] == module.log_scale
    assert module.execution(a, b) in {"eager", "chunked"}
    torch.testing.assert_close(
        module.logits(a, b), similarity(a, b, log_scale=module.log_scale, bias=figures.get("bias"))
    )
    log_scales_of = [key for key in module.state_dict() if key.endswith("log_scale")]
    assert len(log_scales_of) == 1
    assert len([*module.parameters()]) == len({id(p) for p in module.parameters()})
    before = {name: float(figure) for name, figure in figures.items()}
    with torch.no_grad():
        module.log_scale.fill_(9.0)
    assert before == {name: float(figure) for name, figure in figures.items()}
    module.clamp_()
    assert module.log_scale.item() == pytest.approx(
        math.log(50 if "one-way" in name and "hard" in name else 100)
    )


@config_names
def test_autocast_does_not_change_the_modules(name):
    half = [unit(6, 8, seed=s).bfloat16() for s in (0, 1)]
    module = CONFIGS[name].build()
    other = copy.deepcopy(module)
    for _ in range(2):
        plain, _ = call(module, *(x.float() for x in half), torch.arange(6))
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = call(other, *half, torch.arange(6))
    torch.testing.assert_close(cast, plain, rtol=1e-5, atol=1e-6)


@config_names
def test_training_separates_the_pairs(name):
    module = CONFIGS[name].build()
    a, b = (unit(16, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (0, 1))
    optimiser = torch.optim.Adam([a, b, *module.parameters()], lr=0.1)
    teacher = unit(16, 8, seed=2, dtype=torch.float32)
    rest = (
        {"teacher_a": teacher, "teacher_b": teacher}
        if isinstance(CONFIGS[name], Distillation)
        else {}
    )
    for _ in range(60):
        optimiser.zero_grad()
        x, y = normalize(a, dim=1), normalize(b, dim=1)
        loss, _ = module(x, y, torch.arange(16), **rest)
        loss.backward()
        optimiser.step()
        module.clamp_()
    assert torch.equal((x @ y.T).argmax(1), torch.arange(16))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ("{type: hard-negative, beta: -1}", "beta"),
        ("{type: hard-negative, tau_plus: 1}", "tau_plus"),
        ("{type: dcl, sigma: 0}", "sigma"),
        ("{type: dcl, execution: fused}", "execution"),
        ("{type: matryoshka, loss: {type: infonce}, widths: []}", "widths"),
        ("{type: matryoshka, loss: {type: infonce}, widths: [8, 8]}", "name one twice"),
        (
            "{type: matryoshka, loss: {type: infonce}, widths: [8, 4], weights: [1]}",
            "1 weights for 2 widths; give one for each",
        ),
        (
            "{type: matryoshka, loss: {type: distillation, loss: {type: infonce}}, widths: [4]}",
            "matryoshka cannot hold distillation: put distillation around matryoshka",
        ),
        (
            "{type: matryoshka, loss: {type: queue, size: 4, loss: {type: matryoshka, widths: [2], "
            "loss: {type: infonce}}}, widths: [4]}",
            "matryoshka cannot hold matryoshka: one matryoshka is enough",
        ),
        (
            "{type: queue, size: 4, loss: {type: queue, size: 4, loss: {type: infonce}}}",
            "queue cannot hold queue: one queue is enough",
        ),
        (
            "{type: queue, size: 4, loss: {type: matryoshka, widths: [4], loss: {type: supcon}}}",
            "queue cannot hold supcon: it has no sides; take infonce",
        ),
        ("{type: queue, loss: {type: infonce}, size: -1}", "size"),
    ],
)
def test_mistakes_are_one_line(fields, line, tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(f"loss: {fields}\n", encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        files.load(Holder, path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


# Matryoshka


def test_matryoshka_of_the_whole_width_is_the_loss_within():
    a, b, ids = unit(6, 8), unit(6, 8, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    module, inner = Matryoshka(loss=Sigmoid(), widths=(8,)).build(), Sigmoid().build()
    assert module(a, b, ids)[0] == inner(a, b, ids)[0]


def test_matryoshka_is_the_weighted_sum_of_the_widths():
    module = Matryoshka(loss=InfoNCE(), widths=(2, 5, 8), weights=(3, 1, 0.5)).build().double()
    a, b = unit(6, 8).requires_grad_(), unit(6, 8, seed=1).requires_grad_()
    loss, figures = module(a, b)
    expected = 0
    for weight, width in ((3, 2), (1, 5), (0.5, 8)):
        short = [x[:, :width] for x in (a, b)]
        if width < 8:
            short = [x / x.square().sum(1, keepdim=True).sqrt() for x in short]
        of_width = infonce(*short, log_scale=module.log_scale)
        expected = expected + weight * of_width
        torch.testing.assert_close(figures[f"loss_{width}"], of_width.detach())
    assert_same(loss, expected, (a, b, module.log_scale))


def test_a_width_beyond_the_embeddings_is_one_line():
    module = Matryoshka(loss=InfoNCE(), widths=(4, 16)).build()
    with pytest.raises(SpecError) as caught:
        module(unit(3, 8), unit(3, 8))
    assert str(caught.value) == ("matryoshka: width 16 of embeddings that are 8 wide; lower it")


# Distillation


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distillation_is_that_of_the_loops(shape):
    n, m, _ = shape
    inputs = leaves(*shape)
    teacher = unit(n, 3, seed=2), unit(m, 3, seed=3)
    how = {"log_scale": inputs[2], "teacher_log_scale": torch.tensor(2.0, dtype=torch.float64)}
    value, true = (f(*inputs[:2], *teacher, **how) for f in (distillation, slow_distillation))
    assert_same(value, true, inputs)
    assert torch.autograd.gradcheck(
        lambda a, b, s: distillation(a, b, *teacher, **how | {"log_scale": s}), inputs
    )


def test_a_student_that_agrees_with_its_teacher_is_left_alone():
    inputs = leaves(6, 5, 4)
    a, b, s = inputs
    loss = distillation(a, b, a, b, log_scale=s, teacher_log_scale=s)
    assert loss.item() == pytest.approx(0, abs=1e-14)
    assert all(g.abs().max() < 1e-14 for g in gradients(loss, inputs))


def test_the_teacher_gets_no_gradient():
    a, b, s = leaves(6, 5, 4)
    teacher = unit(6, 3).requires_grad_(), unit(5, 3).requires_grad_()
    loss = distillation(a, b, *teacher, log_scale=s, teacher_log_scale=scalar(1.0))
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None, None)


def test_the_weight_is_the_share_of_the_teacher():
    a, b, ids = unit(6, 4), unit(6, 4, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    teacher = {"teacher_a": unit(6, 3, seed=2), "teacher_b": unit(6, 3, seed=3)}
    inner, _ = InfoNCE().build()(a, b, ids)
    for weight in (0.0, 0.3, 1.0):
        module = Distillation(loss=InfoNCE(), weight=weight, teacher_temperature=0.1).build()
        loss, figures = module(a, b, ids, **teacher)
        kl = distillation(
            a,
            b,
            *teacher.values(),
            log_scale=module.log_scale,
            teacher_log_scale=scalar(10.0).log(),
        )
        torch.testing.assert_close(loss, (1 - weight) * inner + weight * kl, rtol=1e-6, atol=0)
        torch.testing.assert_close(figures["distillation"], kl.detach(), rtol=1e-6, atol=0)


def test_without_a_teacher_the_line_says_what_to_give():
    module = Distillation(loss=InfoNCE()).build()
    with pytest.raises(TrainingError) as caught:
        module(unit(3, 4), unit(3, 4))
    assert str(caught.value) == (
        "distillation needs the teacher's embeddings of each batch: call the loss with teacher_a= "
        "and teacher_b=, in a training loop of your own"
    )
    with pytest.raises(ValueError, match=r"have \(2, 3\) rows for \(3, 3\) embeddings"):
        module(unit(3, 4), unit(3, 4), teacher_a=unit(2, 4), teacher_b=unit(3, 4))


# Queue


def slow_queue_infonce(a, b, a_ids, b_ids, past, *, log_scale, positives):
    """Rows choose among the batch and the past; written as the paper's loss of one row."""
    terms = []
    for side in (0, 1):
        anchors_, ids = ((a, a_ids), (b, b_ids))[side]
        others = [*((b, a)[side]), *[row[1 - side] for row in past]]
        other_ids = [*((b_ids, a_ids)[side]), *[row[2] for row in past]]
        of_side = []
        for i in range(len(anchors_)):
            x = [log_scale.exp() * (anchors_[i] * other).sum() for other in others]
            equal = [other_id == ids[i] for other_id in other_ids]
            if positives == "multi":
                chosen, kept = [j for j, e in enumerate(equal) if e], range(len(x))
            else:
                chosen = [i]
                kept = [j for j, e in enumerate(equal) if j == i or not e or positives == "ignore"]
            total = torch.log(sum(torch.exp(x[j]) for j in kept))
            of_side.append(total - sum(x[j] for j in chosen) / len(chosen))
        terms.append(slow_mean(of_side))
    return slow_mean(terms)


def slow_queue_sigmoid(a, b, a_ids, b_ids, past, *, log_scale, bias, positives):
    rows = [(x, int(i), k, True) for k, (x, i) in enumerate(zip(a, a_ids, strict=True))]
    columns = [(y, int(j), k, True) for k, (y, j) in enumerate(zip(b, b_ids, strict=True))]
    rows += [(x, i, None, False) for x, _, i in past]
    columns += [(y, i, None, False) for _, y, i in past]
    total = 0
    for (x, i, k, new), (y, j, at, also_new) in itertools.product(rows, columns):
        partner = k is not None and k == at
        if not (new or also_new) or (positives == "mask" and i == j and not partner):
            continue
        sign = 1 if (i == j if positives == "multi" else partner) else -1
        total = total + torch.log(1 + torch.exp(-sign * (log_scale.exp() * (x * y).sum() + bias)))
    return total / len(a)


def stream(steps=5, n=4, d=6, groups=9):
    """Yield batches whose ids come again."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        ids = torch.randint(groups, (n,), generator=generator)
        a, b = unit(n, d, seed=10 + step), unit(n, d, seed=50 + step)
        yield a.requires_grad_(), b.requires_grad_(), ids


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("loss", [InfoNCE, Sigmoid])
def test_the_queue_is_that_of_the_loops(loss, positives):
    module = Queue(loss=loss(positives=positives), size=10).build().double()
    past = []
    for a, b, ids in stream():
        value, figures = module(a, b, ids)
        assert figures["queue"] == len(past)
        how = {"log_scale": module.log_scale, "positives": positives}
        if loss is Sigmoid:
            how["bias"] = module.inner.bias
        slow = slow_queue_infonce if loss is InfoNCE else slow_queue_sigmoid
        true = slow(a, b, ids, ids, past, **how)
        assert_same(value, true, (a, b, *module.parameters()))
        new = list(zip(a.detach(), b.detach(), ids.tolist(), strict=True))
        past = (new + past)[:10]
        assert torch.equal(module.a_past, torch.stack([x for x, _, _ in past]))
        assert module.b_past_ids.tolist() == [i for _, _, i in past]


@pytest.mark.parametrize(
    "within", [InfoNCE(), Sigmoid(), HardNegative(beta=1), DCL(candidates="both")], ids=repr
)
def test_without_past_the_queue_is_the_loss_within(within):
    a, b, ids = unit(6, 8), unit(6, 8, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    expected, _ = within.build()(a, b, ids)
    for size in (0, 5):
        module = Queue(loss=within, size=size).build()
        torch.testing.assert_close(module(a, b, ids)[0], expected)
    module(a, b, ids)
    assert len(module.a_past) == 5
    torch.testing.assert_close(module.eval()(a, b, ids)[0], expected)
    assert len(module.a_past) == 5


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
def test_the_queue_keeps_a_direction(direction):
    module = Queue(loss=InfoNCE(direction=direction), size=4).build().double()
    (a, b, ids), (c, d, later) = stream(steps=2)
    module(a, b, ids)
    value, _ = module(c, d, later)
    s = module.log_scale
    x = (c, torch.cat([d, b])) if direction == "a_to_b" else (d, torch.cat([c, a]))
    true = infonce(*x, later, torch.cat([later, ids]), log_scale=s, direction="a_to_b")
    torch.testing.assert_close(value, true)


def test_a_queue_and_widths_make_the_same_loss_in_either_order():
    outer = Queue(loss=Matryoshka(loss=Sigmoid(), widths=(2, 6)), size=10).build()
    inner = Matryoshka(loss=Queue(loss=Sigmoid(), size=10), widths=(2, 6)).build()
    for a, b, ids in stream():
        results = outer(a, b, ids), inner(a, b, ids)
        assert results[0][0] == results[1][0]
    loss, figures = results[0]
    torch.testing.assert_close(figures["loss_2"] + figures["loss_6"], loss.detach())
    alone = Queue(loss=Sigmoid(), size=10).build()
    for a, b, ids in stream():
        short, _ = alone(normalize(a[:, :2], dim=1), normalize(b[:, :2], dim=1), ids)
    torch.testing.assert_close(figures["loss_2"], short.detach())


def test_rows_without_ids_are_negatives_of_all():
    module = Queue(loss=InfoNCE(), size=8).build().double()
    (a, b, _), (c, d, ids) = stream(steps=2)
    module(a, b)
    value, _ = module(c, d, ids)
    far = torch.arange(4) + 100
    s = module.log_scale
    true = (
        infonce(c, torch.cat([d, b]), ids, torch.cat([ids, far]), log_scale=s, direction="a_to_b")
        + infonce(d, torch.cat([c, a]), ids, torch.cat([ids, far]), log_scale=s, direction="a_to_b")
    ) / 2
    torch.testing.assert_close(value, true)
    without, _ = copy.deepcopy(module)(c, d)
    assert without.isfinite()


def test_the_queue_is_saved_and_comes_back():
    module, other = (Queue(loss=Sigmoid(), size=10).build() for _ in range(2))
    batches_ = list(stream(steps=4))
    for a, b, ids in batches_[:3]:
        module(a, b, ids)
    other.load_state_dict(module.state_dict())
    copied = copy.deepcopy(module)
    a, b, ids = batches_[3]
    assert module(a, b, ids)[0] == other(a, b, ids)[0] == copied(a, b, ids)[0]
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in module.state_dict().items())


def test_past_ids_are_kept_whole_if_later_ones_are_narrow():
    module = Queue(loss=InfoNCE(), size=8).build().double()
    (a, b, ids), (c, d, later) = stream(steps=2, groups=2)
    far = ids + 2**32
    module(a, b, far)
    value, _ = module(c, d, later.int())
    s = module.log_scale
    true = (
        infonce(
            c, torch.cat([d, b]), later, torch.cat([later, far]), log_scale=s, direction="a_to_b"
        )
        + infonce(
            d, torch.cat([c, a]), later, torch.cat([later, far]), log_scale=s, direction="a_to_b"
        )
    ) / 2
    torch.testing.assert_close(value, true)


def test_the_queue_takes_pairs_of_one_width():
    module = Queue(loss=InfoNCE(), size=10).build()
    with pytest.raises(ValueError, match="4 rows of a and 5 of b"):
        module(unit(4, 3), unit(5, 3))
    module(unit(4, 3), unit(4, 3))
    with pytest.raises(SpecError, match="its embeddings are 3 wide, the batch's 2"):
        module(unit(4, 2), unit(4, 2))


# Several processes


SPLIT = [5, 3]
LOCAL = {"hard-negative-one-way", "queue-local"}


def outcomes(module, rows):
    """Return what some steps of the stream give with some rows of each batch."""
    found = []
    for a, b, ids in stream(n=8, d=8):
        own = [x.detach()[rows].requires_grad_() for x in (a, b)]
        loss, figures = call(module, *own, ids[rows])
        found.append((loss.detach(), gradients(loss, (*own, *module.parameters())), figures))
    state = {name: x.detach().clone() for name, x in module.state_dict().items()}
    return found, state


def in_a_process(rank, path, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=len(SPLIT))
    rows = slice(sum(SPLIT[:rank]), sum(SPLIT[: rank + 1]))
    assert BatchGroup.current() is not None
    found = {name: outcomes(config.build(), rows) for name, config in CONFIGS.items()}
    torch.save(found, results / f"{rank}.pt")
    dist.destroy_process_group()


def test_processes_compute_the_loss_of_the_whole_batch_and_have_one_queue(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=in_a_process, args=(rank, tmp_path / "meeting", tmp_path))
        for rank in range(len(SPLIT))
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    files_of = [tmp_path / f"{rank}.pt" for rank in range(len(SPLIT))]
    found = [torch.load(path) for path in files_of]  # noqa: TID251
    for name, config in CONFIGS.items():
        whole, state = outcomes(config.build(), slice(None))
        results = [of_process[name] for of_process in found]
        for _, other in results:
            for key, x in state.items():
                torch.testing.assert_close(other[key], x)
        if name in LOCAL:
            assert results[0][0][0][0] != results[1][0][0][0]
            continue
        for step, (loss, grads, _) in enumerate(whole):
            steps = [of_process[step] for of_process, _ in results]
            for other, _, _ in steps:
                torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-6)
            for at, grad in enumerate(grads):
                shares = [other[at] for _, other, _ in steps]
                mean = torch.cat(shares) / len(SPLIT) if at < 2 else torch.stack(shares).mean(0)
                torch.testing.assert_close(mean, grad, rtol=1e-4, atol=1e-6)


# Models


def run_spec(folder, loss, **training):
    spec = toy_dict(folder / "data", **training)
    spec["model"]["loss"] = Holder(loss=loss).model_dump(mode="json")["loss"]
    return RunSpec.model_validate(spec)


TRAINED = {
    "dcl": DCL(learn_temperature=True, sigma=0.5),
    "hard-negative": HardNegative(beta=0.5, tau_plus=0.001),
    "supcon": SupCon(),
    "matryoshka": Matryoshka(loss=InfoNCE(), widths=(8, 32)),
    "queue": Queue(loss=Matryoshka(loss=Sigmoid(), widths=(8, 32)), size=40),
}


@pytest.mark.parametrize("name", TRAINED)
def test_a_model_trains_with_each_and_loads_its_parameters(name, tmp_path):
    spec = run_spec(tmp_path, TRAINED[name], epochs=4)
    model = train(spec, tmp_path / "run", cache=FeatureCache(tmp_path / "cache"))
    log = [line for line in read_log(tmp_path / "run" / "log.jsonl") if "loss" in line]
    assert all(math.isfinite(line["loss"]) for line in log)
    if name == "queue":
        assert [line["queue"] for line in log[:4]] == [0, 16, 32, 40]
    else:
        assert log[-1]["loss"] < log[0]["loss"]
    loaded = load_model(tmp_path / "run")
    assert loaded.spec == model.spec
    state, found = model.loss.state_dict(), loaded.loss.state_dict()
    assert state.keys() == found.keys()
    assert all(torch.equal(state[key], found[key]) for key in state)
    assert loaded.scale != pytest.approx(TRAINED[name].build().log_scale.exp().item(), rel=1e-6)


def test_a_run_with_a_queue_goes_on_as_if_it_had_not_stopped(tmp_path):
    spec = run_spec(tmp_path, Queue(loss=InfoNCE(), size=40), epochs=4)
    cache = FeatureCache(tmp_path / "cache")
    whole = train(spec, tmp_path / "run", cache=cache)
    steps = sorted((tmp_path / "run" / "checkpoints").iterdir())
    shutil.rmtree(steps[-1])
    shutil.rmtree(tmp_path / "run" / "model")
    again = train(spec, tmp_path / "run", resume=True, cache=cache)
    state, found = whole.state_dict(), again.state_dict()
    assert all(torch.equal(state[key], found[key]) for key in state)


def test_a_model_learns_from_a_teacher_in_a_loop_of_ones_own(tmp_path):
    spec = run_spec(tmp_path, Distillation(loss=InfoNCE(), weight=1.0))
    torch.manual_seed(0)
    model = build_model(spec)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    texts = [f"a picture of {what}" for what in ("a dog", "a cat", "two men", "a red bus")]
    tower = model.tower("text")
    teacher = unit(4, 12, dtype=torch.float32)
    found = []
    for _ in range(30):
        text = tower(**tower.encoder.preprocess(texts))
        loss, figures = model.loss(text, text, teacher_a=teacher, teacher_b=teacher)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.loss.clamp_()
        found.append(figures["distillation"].item())
    assert found[-1] < found[0]
    model.save(tmp_path / "saved")
    assert torch.equal(load_model(tmp_path / "saved").loss.log_scale, model.loss.log_scale)


def test_values_without_meaning_are_refused():
    with pytest.raises(ValidationError, match="1 validation error"):
        HardNegative(beta=math.nan)


# A loss and the model around it


def model_with(loss, *, embed_dim=8):
    towers = {
        "image": {"encoder": {"type": "resnet", "width": 8}, "head": {"type": "linear"}},
        "text": {"encoder": {"type": "cbow"}, "head": {"type": "linear"}},
    }
    return {"embed_dim": embed_dim, "towers": towers, "loss": loss}


def test_widths_beyond_the_embeddings_are_refused_with_the_spec():
    loss = {"type": "matryoshka", "loss": {"type": "infonce"}, "widths": [4, 16]}
    with pytest.raises(ValidationError, match="width 16 of matryoshka is more than embed_dim 8"):
        ModelSpec.model_validate(model_with(loss))
    nested = {"type": "queue", "size": 4, "loss": loss}
    with pytest.raises(ValidationError, match="width 16 of matryoshka"):
        ModelSpec.model_validate(model_with(nested))
    ModelSpec.model_validate(model_with(nested, embed_dim=16))


def test_a_queue_is_told_how_many_pairs_of_modalities_there_are():
    queue = Queue(size=4, loss=InfoNCE())
    queue.check(embed_dim=8, pairs=1)
    with pytest.raises(ValueError, match="queue is for one pair of modalities, and there are 3"):
        queue.check(embed_dim=8, pairs=3)
    with pytest.raises(ValueError, match="queue is for one pair"):
        Matryoshka(loss=queue, widths=(4,)).check(embed_dim=8, pairs=3)


def test_a_run_has_no_teacher(tmp_path):
    loss = {"type": "distillation", "loss": {"type": "infonce"}}
    spec = toy_dict(tmp_path / "data")
    spec["model"]["loss"] = loss
    with pytest.raises(TrainingError, match="distillation needs a teacher's embeddings"):
        train(RunSpec.model_validate(spec), tmp_path / "run")
    assert not (tmp_path / "run").exists()
