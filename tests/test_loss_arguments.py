"""What is given wrongly to a loss is refused in one line; what is unusual gives the right loss."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from contrastive.losses import execution, functional
from contrastive.losses.dcl import dcl
from contrastive.losses.distillation import distillation
from contrastive.losses.hard_negative import hard_negative
from contrastive.losses.supcon import supcon
from tests.pair_losses import unit
from tests.row_losses import CONFIGS, call, config_names

N, D = 6, 5
HOW = ["eager", "chunked"]
LOSSES = {
    "infonce": execution.infonce,
    "one side": partial(execution.infonce, direction="a_to_b", label_smoothing=0.1),
    "sigmoid": partial(execution.sigmoid, bias=-3.0),
    "dcl": partial(dcl, candidates="both"),
    "hard-negative": partial(hard_negative, beta=0.5, tau_plus=0.1, candidates="both"),
    "supcon": supcon,
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_way = pytest.mark.parametrize("how", HOW)
IDS = torch.tensor([0, 1, 1, 0, 1, 1])


def sides(dtype=torch.float32):
    return unit(N, D, dtype=dtype), unit(N, D, seed=1, dtype=dtype)


def loss_of(name, how, a, b, a_ids=None, *, log_scale=1.5, **given):
    return LOSSES[name](a, b, a_ids, log_scale=log_scale, execution=how, **given)


def ones(dtype, *shape):
    return torch.ones(shape or (N, D), dtype=dtype)


BAD = {
    "three dimensions": ({"a": ones(torch.float32, 1, N, D)}, r"a has shape \(1, 6, 5\)"),
    "one dimension": ({"b": ones(torch.float32, D)}, r"b has shape \(5,\)"),
    "integers": ({"a": ones(torch.int64)}, "a has .*; give embeddings"),
    "complex": ({"b": ones(torch.complex64)}, "b has .*; give embeddings"),
    "8 bits": ({"a": ones(torch.float32).to(torch.float8_e4m3fn)}, "a has .*; give embeddings"),
    "a list": ({"a": [[1.0] * D] * N}, r"a is a list; give a tensor \[N, D\]"),
    "sparse": ({"b": ones(torch.float32).to_sparse()}, "b is sparse; give a dense tensor"),
    "widths": ({"b": ones(torch.float32, N, D + 1)}, "embeddings differ in width"),
    "no rows": ({"a": ones(torch.float32, 0, D)}, "a loss needs pairs, but a has 0 rows"),
    "other device": ({"b": ones(torch.float32).to("meta")}, "b is on meta, a on cpu"),
    "ids elsewhere": ({"a_ids": IDS.to("meta")}, "a_ids is on meta, a on cpu"),
    "ids of floats": ({"a_ids": IDS.float()}, r"a_ids is of torch.float32; .* a_ids.long\(\)"),
    "complex ids": ({"a_ids": IDS.to(torch.complex64)}, "a_ids is of torch.complex64"),
    "a list of ids": ({"a_ids": IDS.tolist()}, r"a_ids is a list; .* torch.tensor\(a_ids\)"),
    "too few ids": ({"a_ids": IDS[1:]}, "a_ids and b_ids have"),
    "no scale": ({"log_scale": None}, "give one of log_scale and temperature"),
    "a word": ({"log_scale": "x"}, "log_scale is 'x'; give one number"),
    "nan": ({"log_scale": math.nan}, "log_scale is nan; give one number"),
    "two scales": ({"log_scale": torch.ones(2)}, r"log_scale has shape \(2,\)"),
    "complex scale": ({"log_scale": torch.tensor(1j)}, "log_scale has .*complex64; give one real"),
    "products": ({"matmul_dtype": "fp16"}, "matmul_dtype is 'fp16'; give one of auto, fp32, bf16"),
    "group": ({"group": "all"}, r"group is a str; give BatchGroup.current\(\)"),
}


@every_way
@every_loss
@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_one_line(name, how, mistake):
    given, line = BAD[mistake]
    a, b = sides()
    with pytest.raises(ValueError, match=f"^{line}") as caught:
        loss_of(name, how, **{"a": a, "b": b} | given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "line"),
    [
        ("infonce", {"positives": "x"}, "positives is 'x'; give one of multi, mask, ignore"),
        ("infonce", {"direction": "x"}, "direction is 'x'; give one of both, a_to_b, b_to_a"),
        ("infonce", {"exchange": "x"}, "exchange is 'x'; give one of gather, ring"),
        ("infonce", {"label_smoothing": -1}, "label_smoothing is -1; give a number from 0 to 1"),
        ("infonce", {"label_smoothing": math.nan}, "label_smoothing is nan"),
        ("sigmoid", {"bias": torch.ones(2)}, r"bias has shape \(2,\)"),
        ("sigmoid", {"bias": None}, "bias is None; give one number"),
        ("dcl", {"candidates": "x"}, "candidates is 'x'; give one of other, both"),
        ("dcl", {"sigma": 0}, "sigma is 0; give a number above 0"),
        ("hard-negative", {"beta": -1}, "beta is -1; give a number of at least 0"),
        ("hard-negative", {"tau_plus": 1}, "tau_plus is 1; give a number from 0 to less than 1"),
        *((name, {"how": "x"}, "execution is 'x'; give one of auto, eager") for name in LOSSES),
        ("hard-negative", {"how": "fused"}, "hard_negative has no execution fused"),
    ],
)
def test_an_option_that_is_none_is_one_line(name, given, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        loss_of(name, given.pop("how", "chunked"), *sides(), **given)


@pytest.mark.parametrize("loss", [functional.infonce, partial(functional.sigmoid, bias=-3.0)])
def test_the_plain_functions_refuse_the_same(loss):
    a, b = sides()
    for mistake in ("other device", "ids of floats", "8 bits", "nan", "two scales"):
        given, line = BAD[mistake]
        with pytest.raises(ValueError, match=f"^{line}"):
            loss(**{"a": a, "b": b, "log_scale": 1.5} | given)


@pytest.mark.parametrize("mistake", ["three dimensions", "8 bits", "sparse", "widths", "no rows"])
def test_a_teacher_and_its_student_are_checked_alike(mistake):
    given, line = BAD[mistake]
    a, b = sides()
    student = {"a": a, "b": b} | given
    teacher = {f"teacher_{name}": x for name, x in student.items()}
    with pytest.raises(ValueError, match=f"^{line}"):
        distillation(**student, teacher_a=a, teacher_b=b, log_scale=1.5, teacher_log_scale=2.0)
    with pytest.raises(ValueError, match=r"teacher_[ab] (has|is|\d)|teacher_a and teacher_b have"):
        distillation(a=a, b=b, **teacher, log_scale=1.5, teacher_log_scale=2.0)


@config_names
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16])
def test_a_module_takes_ids_of_any_integer_type(name, dtype):
    a, b = unit(N, 8, dtype=torch.float32), unit(N, 8, seed=1, dtype=torch.float32)
    found, right = (call(CONFIGS[name].build(), a, b, x)[0] for x in (IDS.to(dtype), IDS))
    assert torch.equal(found, right)
    with pytest.raises(ValueError, match=r"^a_ids is of torch\.float32; give integers"):
        call(CONFIGS[name].build(), a, b, IDS.float())


@every_way
@every_loss
@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.int8, torch.uint8, torch.int32, torch.uint16, torch.uint32, torch.uint64],
)
def test_ids_are_integers_of_any_type(name, how, dtype):
    a, b = sides()
    found = loss_of(name, how, a, b, IDS.to(dtype))
    torch.testing.assert_close(found, loss_of(name, "eager", a, b, IDS))


@every_way
@every_loss
@pytest.mark.parametrize(
    "log_scale",
    [1.5, torch.tensor([1.5]), torch.tensor(1.5).bfloat16(), torch.tensor(1.5).double()],
    ids=str,
)
def test_a_scale_is_one_number_of_any_type(name, how, log_scale):
    a, b = sides()
    if isinstance(log_scale, torch.Tensor):
        log_scale.requires_grad_()
    loss = loss_of(name, how, a, b, log_scale=log_scale)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_of(name, "eager", a, b))
    if isinstance(log_scale, torch.Tensor):
        loss.backward()
        assert log_scale.grad is not None
        assert log_scale.grad.shape == log_scale.shape


@every_loss
def test_one_side_in_float64_makes_all_sums_so(name):
    a, b = sides()
    found = loss_of(name, "chunked", a.double(), b, IDS)
    right = loss_of(name, "eager", a.double(), b.double(), IDS)
    torch.testing.assert_close(found, right, rtol=1e-12, atol=0)


@every_way
@every_loss
def test_rows_may_be_views_of_any_strides(name, how):
    a, b = sides()
    for x in (a[:1].expand(N, D), a[:, :1].expand(N, D), unit(D, N, dtype=torch.float32).T):
        found = []
        for rows in (x, x.contiguous()):
            leaf = rows.detach().requires_grad_()
            loss = loss_of(name, how, leaf, b, IDS)
            found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
        for mine, right in zip(*found, strict=True):
            torch.testing.assert_close(mine, right)


@every_way
@every_loss
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_row_that_is_not_finite_shows_in_the_loss(name, how, number):
    a, b = sides()
    a[2] = number
    assert loss_of(name, how, a, b).isnan()


@every_way
@every_loss
def test_in_inference_mode_and_of_one_side_alone(name, how):
    a, b = sides()
    right = loss_of(name, how, a, b, IDS)
    with torch.inference_mode():
        torch.testing.assert_close(loss_of(name, how, a.clone(), b, IDS), right)
    for i in range(2):
        leaves = [a.clone(), b.clone()]
        leaves[i].requires_grad_()
        loss_of(name, how, *leaves, IDS).backward()
        assert leaves[i].grad is not None
        assert leaves[1 - i].grad is None


@every_loss
def test_a_second_derivative_is_right_or_refused(name):
    a, b = sides(torch.float64)
    assert torch.autograd.gradgradcheck(lambda a: loss_of(name, "eager", a, b), a.requires_grad_())
    (first,) = torch.autograd.grad(loss_of(name, "chunked", a, b), a, create_graph=True)
    for penalty in (first.square().sum(), first.square().sum() + a.sum()):
        with pytest.raises(RuntimeError, match="no second derivative; take execution eager"):
            torch.autograd.grad(penalty, a, retain_graph=True)


@every_loss
def test_a_transform_of_torch_is_right_or_refused(name):
    a, b = sides()

    def of(how):
        return lambda a: loss_of(name, how, a, b)

    leaf = a.clone().requires_grad_()
    (right,) = torch.autograd.grad(of("eager")(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(of("eager"))(a), right)
    batched = torch.func.vmap(of("eager"))(torch.stack([a, b]))
    torch.testing.assert_close(batched, torch.stack([of("eager")(x) for x in (a, b)]))
    with pytest.raises(ValueError, match=r"torch\.func .* chunked; take execution eager"):
        torch.func.grad(of("chunked"))(a)
