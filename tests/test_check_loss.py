"""The suite for losses: what is right passes, what is wrong is caught and called by its name.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
import sys
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from contrastive.losses import execution, functional
from contrastive.losses.backends import logit_chunks
from contrastive.testing import Tolerance, check_loss, loss_cases
from contrastive.testing.batches import IDS, REGIMES
from contrastive.testing.call_variants import CALL_VARIANTS, nan_filled_memory
from contrastive.testing.losses import covering_array

torch.set_num_threads(1)

KINDS = ["infonce", "sigmoid"]
nightly = pytest.mark.nightly  # by day, each setting in some case
TYPES = [  # by day
    (torch.float64, "chunked", "sigmoid"),
    (torch.bfloat16, "eager", "infonce"),
    (torch.bfloat16, "chunked", "sigmoid"),
    (torch.float16, "eager", "infonce"),
]
SMALL = ((1, 1, 24), (1, 6, 33), (7, 5, 33), (20, 31, 24))


def by(how, kind, **settings):
    return partial(getattr(execution, kind), execution=how, **settings)


# What is right passes


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_passes_its_own_suite_in_fp32(kind):
    check_loss(getattr(functional, kind), kind, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("how", "strength"),
    [
        ("eager", 2),
        ("chunked", 2),
        # any three settings together, of which the case before has any two
        pytest.param("chunked", 3, marks=pytest.mark.nightly),
    ],
)
def test_executions_pass(how, strength, kind):
    check_loss(by(how, kind), kind, strength=strength)


@pytest.mark.parametrize("case", loss_cases("infonce", sizes=SMALL), ids=str)
def test_cases_can_be_tests_of_their_own(case):
    case.check(by("chunked", "infonce"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rows", "numbers"),
    [
        ("infonce", 1, 1),
        ("sigmoid", 3, 7),
        ("infonce", 16, 300),
        ("sigmoid", 64, 2**18),
        pytest.param("sigmoid", 1, 1, marks=nightly),
        pytest.param("infonce", 3, 7, marks=nightly),
        pytest.param("sigmoid", 16, 300, marks=nightly),
        pytest.param("infonce", 64, 2**18, marks=nightly),
    ],
)
def test_chunks_and_pieces_of_any_size_pass(kind, rows, numbers, monkeypatch):
    monkeypatch.setattr(logit_chunks, "CHUNK_ROWS", (rows, rows))
    monkeypatch.setattr(logit_chunks, "PIECE_NUMBERS", numbers)
    check_loss(by("chunked", kind), kind, sizes=(*SMALL, (40, 37, 24)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "how", "kind"),
    [
        pytest.param(dtype, how, kind, marks=[] if (dtype, how, kind) in TYPES else [nightly])
        for dtype in (torch.float64, torch.bfloat16, torch.float16)
        for how in ("eager", "chunked")
        for kind in KINDS
    ],
    ids=str,
)
def test_executions_pass_for_other_types(how, kind, dtype):
    check_loss(by(how, kind), kind, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["infonce", pytest.param("sigmoid", marks=nightly)])
def test_products_in_bf16_are_as_good_as_their_logits(kind):
    rough = Tolerance(loss=1e-2, gradient=1e-2, rows=5e-2, log_scale=1e-2, bias=1e-2, logit=4e-3)
    loss = by("chunked", kind, matmul_dtype="bf16")
    regimes, sizes = ("random_s14", "fitted_s14", "fitted_s30"), ((40, 40, 24), (97, 130, 24))
    check_loss(loss, kind, tolerance=rough, regimes=regimes, sizes=sizes)
    with pytest.raises(AssertionError, match=r"gradient of a: error .*, bar 1\.\de-05"):
        check_loss(loss, kind, regimes=regimes, sizes=sizes)


# What is wrong is caught. Each defect is a wrapper of the right loss.


def infonce(*args, **settings):
    return functional.infonce(*args, **settings)


def detached_scale(*args, log_scale, **settings):
    return infonce(*args, log_scale=log_scale.detach(), **settings)


def divided_by_the_scale(*args, log_scale, **settings):
    return infonce(*args, log_scale=-log_scale, **settings)


def doubled_gradient(*args, **settings):
    loss = infonce(*args, **settings)
    return 2 * loss - loss.detach()


def detached_b(a, b, *args, **settings):
    return infonce(a, b.detach(), *args, **settings)


def no_ids(a, b, a_ids, b_ids, **settings):
    return infonce(a, b, **settings)


def ids_in_32_bits(a, b, a_ids, b_ids, **settings):
    ids = (x if x is None else x.int() for x in (a_ids, b_ids))
    return infonce(a, b, *ids, **settings)


def rounded_logits(a, b, a_ids, b_ids, *, log_scale, **settings):
    logits = functional.similarity(a, b, log_scale=log_scale)
    return functional.infonce_from_logits(logits.bfloat16().float(), a_ids, b_ids, **settings)


def rows_alone(*args, **settings):
    settings["direction"] = {"both": "a_to_b"}.get(settings.get("direction", "both"), "b_to_a")
    return infonce(*args, **settings)


def no_smoothing(*args, **settings):
    return infonce(*args, **settings | {"label_smoothing": 0.0})


def naive(a, b, a_ids, b_ids, *, log_scale, positives):
    logits = functional.similarity(a, b, log_scale=log_scale)
    k = min(logits.shape)
    rows, columns = logits[:k], logits.T[:k]
    labels = torch.arange(k)
    return (cross_entropy(rows, labels) + cross_entropy(columns, labels)) / 2


def last_tile_missing(a, b, a_ids, b_ids, **settings):
    n, m = (len(x) if len(x) < 8 else len(x) // 8 * 8 for x in (a, b))
    b_ids = a_ids if b_ids is None else b_ids
    ids = (None, None) if a_ids is None else (a_ids[:n], b_ids[:m])
    return infonce(a[:n], b[:m], *ids, **settings)


def fixed_shift(a, b, a_ids, b_ids, *, log_scale, positives):
    scale = log_scale.exp()
    logits = functional.similarity(a, b, log_scale=log_scale)
    k = min(logits.shape)
    losses = [
        ((x - scale).exp().sum(1).log() + scale)[:k] - x.diagonal() for x in (logits, logits.T)
    ]
    return torch.stack(losses).mean()


class UnwrittenRow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        out = torch.empty_like(grad)
        out[:-1] = grad[:-1]
        return out


def unwritten_row(a, *args, **settings):
    return infonce(UnwrittenRow.apply(a), *args, **settings)


class OuterIgnored(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, outer):
        return torch.ones_like(outer)


def outer_factor_ignored(*args, **settings):
    return OuterIgnored.apply(infonce(*args, **settings))


calls = itertools.count()


def restless(*args, **settings):
    return infonce(*args, **settings) * (1 + 2e-7 * (next(calls) % 2))


def changes_its_input(a, *args, **settings):
    a.data.mul_(1.0001)
    return infonce(a, *args, **settings)


def half_result(*args, **settings):
    return infonce(*args, **settings).bfloat16()


def mean_of_all(*args, **settings):
    return infonce(*args, **settings).expand(3)


def autocast_inside(a, b, a_ids, b_ids, *, log_scale, **settings):
    logits = log_scale.exp() * (a @ b.T)
    return functional.infonce_from_logits(logits.float(), a_ids, b_ids, **settings)


def needs_gradients(a, *args, **settings):
    return infonce(a, *args, **settings) * (1 if a.requires_grad else 2)


def sigmoid_without_bias(*args, bias, **settings):
    return functional.sigmoid(*args, bias=bias * 0, **settings)


def sigmoid_over_all_rows(a, b, *args, **settings):
    return functional.sigmoid(a, b, *args, **settings) * min(len(a), len(b)) / len(a)


SIMPLE = {
    "positives": ("ignore",),
    "directions": ("both",),
    "label_smoothing": (0.0,),
    "sizes": SMALL,
}
FITTED = {"regimes": ("fitted_s30",)}
LONE = {"regimes": ("lone_pair_s300",)}
DEFECTS = [
    (detached_scale, {}, r"gradient of log_scale: error inf.*missing: autograd finds no path"),
    (divided_by_the_scale, {}, r"the loss with logits divided by exp\(log_scale\)"),
    (doubled_gradient, {}, r"gradient of a: error 1, bar .* \(2 times the right one\)"),
    (detached_b, {}, r"gradient of b: error inf, bar 0 \(missing"),
    (no_ids, {}, r"captions-m.*the loss with positives=\"ignore\""),
    (ids_in_32_bits, {}, r"far_ids-m[^\n]*: loss: error"),
    (rounded_logits, {}, r"the loss of logits rounded to bfloat16"),
    (rows_alone, {}, r"-both-.*the loss with direction=\"a_to_b\""),
    (no_smoothing, {}, r"smoothing_0\.1.*the loss without label_smoothing"),
    (naive, SIMPLE | FITTED, r"fitted_s30.*: loss: error .*tiny losses survive as softplus"),
    (last_tile_missing, {}, r"(40|97|130).*: loss: error .* instead of"),
    (fixed_shift, SIMPLE | LONE, r"lone_pair_s300.*: loss: error inf, bar .* \((inf|nan|-inf) "),
    (unwritten_row, {}, r"gradient of a: error inf.*not finite in 1 of \d+ rows, the first of"),
    (restless, {}, r"-again: two runs differ in the loss"),
    (outer_factor_ignored, {}, r"-tripled: tripled: gradient of a: .*0\.3333 times the right one"),
    (changes_its_input, {}, r"the loss changed its argument a in place"),
    (half_result, {}, r"the loss is torch\.bfloat16, not torch\.float32"),
    (mean_of_all, {}, r"the loss has shape \(3,\), not that of a scalar"),
    (autocast_inside, {}, r"-autocast: autocast: loss: error"),
    (needs_gradients, {}, r"-no_grad: no_grad: loss: error 1, bar"),
    (sigmoid_without_bias, {}, r"the loss without bias"),
    (sigmoid_over_all_rows, {}, r"7x5x.*: loss: error"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("defect", "choices", "message"), DEFECTS, ids=[defect.__name__ for defect, *_ in DEFECTS]
)
def test_defects_are_caught_by_name(defect, choices, message):
    kind = "sigmoid" if "sigmoid" in defect.__name__ else "infonce"
    cases, failed = loss_cases(kind, **choices), []
    for case in cases:
        try:
            case.check(defect)
        except AssertionError as error:
            failed.append(str(error))
            if re.search(message, failed[-1]):
                break
    else:
        pytest.fail(f"in no case: {failed[:5]}")
    names = {str(case) for case in cases}
    assert all(line.split(": ")[0] in names and "\n" not in line for line in failed)


@pytest.mark.slow
def test_one_error_lists_some_of_the_failed_cases():
    cases = loss_cases("infonce", **SIMPLE)
    with pytest.raises(AssertionError, match=rf"^{len(cases)} of {len(cases)} cases") as caught:
        check_loss(half_result, "infonce", **SIMPLE)
    first, *rest = str(caught.value).splitlines()[1:]
    assert first == f"{cases[0]}: the loss is torch.bfloat16, not torch.float32"
    assert len(rest) == 4


@pytest.mark.slow
def test_defects_that_only_some_settings_show_are_caught_only_there():
    kept = {"positives": ("ignore",), "directions": ("both",), "label_smoothing": (0.0,)}
    check_loss(no_ids, "infonce", **kept)
    check_loss(no_smoothing, "infonce", label_smoothing=(0.0,))
    check_loss(ids_in_32_bits, "infonce", ids=[name for name in IDS if name != "far_ids"])
    check_loss(naive, "infonce", **SIMPLE, regimes=("random_s14",))
    some = SIMPLE | {"sizes": ((20, 31, 24),)}  # the loss of a single pair is 0, which it is not
    check_loss(fixed_shift, "infonce", **some, regimes=("random_s14",))


def test_an_error_of_the_loss_itself_says_in_which_case():
    def broken(a, *args, **settings):
        return infonce(a.view(-1).view(a.shape), *args, **settings)

    with pytest.raises(RuntimeError, match="view size") as caught:
        check_loss(broken, "infonce")
    assert re.fullmatch(r"in the case infonce-float32-.*-strided", caught.value.__notes__[0])


# The suite itself


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_all_combinations_of_so_many_settings_occur(strength):
    axes = ["abcd", "xyz", "12345", "!?"]
    rows = covering_array(axes, strength)
    for places in itertools.combinations(range(len(axes)), strength):
        wanted = set(itertools.product(*(axes[i] for i in places)))
        assert {tuple(row[i] for i in places) for row in rows} == wanted
    assert len(rows) < {1: 8, 2: 30, 3: 90}[strength]


def test_every_regime_ids_and_manner_has_a_case_and_every_case_a_name():
    for kind in KINDS:
        cases = loss_cases(kind)
        assert {case.regime for case in cases} == {*REGIMES}
        assert {case.ids for case in cases} == {*IDS}
        assert {case.variant for case in cases} == {*CALL_VARIANTS}
        assert len({str(case) for case in cases}) == len(cases) < 100
        assert cases == loss_cases(kind)


def test_cases_are_fewer_where_less_is_supported():
    cases = loss_cases("infonce", rectangular=False, positives=("mask",), directions=("both",))
    assert all(n == m for n, m, _ in (case.size for case in cases))
    assert {case.positives for case in cases} == {"mask"}
    assert {case.direction for case in loss_cases("sigmoid")} == {"both"}


@pytest.mark.parametrize("argument", ["regimes", "ids", "variants"])
def test_unknown_names_are_refused(argument):
    with pytest.raises(ValueError, match=f"^{argument}: 'fited' is none of "):
        loss_cases("infonce", **{argument: ("fited",)})


@pytest.mark.parametrize("argument", ["regimes", "sizes", "positives", "variants"])
def test_a_suite_without_cases_passes_nobody(argument):
    with pytest.raises(ValueError, match=f"^{argument} is empty"):
        check_loss(infonce, "infonce", **{argument: ()})


@pytest.mark.slow
def test_settings_with_a_default_are_passed_only_where_they_differ():
    def minimal(a, b, a_ids=None, b_ids=None, *, log_scale, positives):
        return infonce(a, b, a_ids, b_ids, log_scale=log_scale, positives=positives)

    check_loss(minimal, "infonce", directions=("both",), label_smoothing=(0.0,))


def test_another_seed_gives_other_embeddings():
    found = []

    def watched(a, *args, **settings):
        found.append(a.detach())
        return infonce(a, *args, **settings)

    for seed in (0, 0, 1):
        loss_cases("infonce", sizes=((3, 3, 4),), seed=seed)[0].check(watched)
    first, same, other = found[:: len(found) // 3]
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_regimes_are_what_they_are_called():
    generator = torch.Generator().manual_seed(0)
    batches = {name: regime.embeddings(300, 260, 64, generator) for name, regime in REGIMES.items()}
    for a, b in batches.values():
        torch.testing.assert_close(a.norm(dim=1), torch.ones(300, dtype=torch.float64))
        torch.testing.assert_close(b.norm(dim=1), torch.ones(260, dtype=torch.float64))
    for name, cosine in (("clip_like_s100", 0.33), ("fitted_s14", 0.8), ("fitted_s30", 0.8)):
        a, b = batches[name]
        torch.testing.assert_close(
            (a[:260] * b).sum(1), torch.full((260,), cosine, dtype=torch.float64)
        )
    a, b = batches["opposed_cones_s100"]
    assert float((a @ b.T).mean()) == pytest.approx(-0.26, abs=0.01)
    a, b = batches["lone_pair_s300"]
    assert float((a[:260] * b).sum(1).max()) == pytest.approx(1)


def test_poison_is_gone_afterwards():
    with nan_filled_memory():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="stop"), nan_filled_memory():
        raise RuntimeError("stop")
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
def test_only_the_suite_imports_torch():
    code = "import sys, contrastive; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Beyond the suite: chunks against all logits at once, on whatever batch


@st.composite
def batches(draw):
    n, m, d = (draw(st.integers(1, most)) for most in (9, 9, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    a, b = (torch.randn(x, d, generator=generator, dtype=torch.float64) for x in (n, m))
    raw = draw(st.booleans())
    if not raw:
        a, b = normalize(a, dim=1), normalize(b, dim=1)
    group = st.integers(0, draw(st.integers(0, 6)))
    ids = [torch.tensor(draw(st.lists(group, min_size=x, max_size=x))) for x in (n, m)]
    return (a, b, *draw(st.sampled_from([ids, (None, None)]))), raw


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    batches(),
    st.floats(0.0, math.log(400)),
    st.sampled_from(["multi", "mask", "ignore"]),
    st.sampled_from(["both", "a_to_b", "b_to_a"]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_chunked_is_eager_on_any_batch(batch, log_scale, positives, direction, smoothing):
    (a, b, a_ids, b_ids), raw = batch
    extra = {"infonce": {"direction": direction, "label_smoothing": smoothing}, "sigmoid": {}}
    for kind in KINDS:
        found = {}
        for how in ("eager", "chunked"):
            leaves = [x.clone().requires_grad_() for x in (a, b)]
            scalars = {"log_scale": torch.tensor(log_scale, dtype=torch.float64)}
            if kind == "sigmoid":
                scalars["bias"] = torch.tensor(-5.0, dtype=torch.float64)
            leaves += [x.requires_grad_() for x in scalars.values()]
            rest = {"positives": positives, "normalize": raw} | scalars | extra[kind]
            loss = by(how, kind)(*leaves[:2], a_ids, b_ids, **rest)
            found[how] = loss.detach(), *torch.autograd.grad(loss, leaves)
        for x, y in zip(found["chunked"], found["eager"], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-10 * math.exp(log_scale))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["eager", "chunked"])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("direction", ["both", "a_to_b", "b_to_a"])
def test_a_nan_is_passed_on(kind, how, normalized, direction):
    a, b = (torch.randn(6, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    a[2, 1] = torch.nan
    a.requires_grad_()
    scalars = {"log_scale": torch.tensor(2.0), "bias": torch.tensor(-3.0)}
    if kind == "infonce":
        scalars = {"log_scale": scalars["log_scale"], "direction": direction}
    loss = by(how, kind, normalize=normalized)(a, b, torch.arange(6) // 2, **scalars)
    (gradient,) = torch.autograd.grad(loss, a)
    assert loss.isnan()
    assert gradient[2].isnan().all()
