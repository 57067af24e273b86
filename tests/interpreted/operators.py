"""The operators of the fused losses as torch sees them, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from contrastive.losses import execution
from contrastive.losses.backends.triton import infonce as whole
from contrastive.losses.backends.triton import launch_rows, operators
from contrastive.losses.backends.triton.fused import FusedBackend
from tests.interpreted.judge import KINDS, LOSSES, N, embeddings, found, fused, ids, labels_of

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

HOW = fused().how.numbers
WAYS = [{}, {"columns": 32}, {"cache_bytes": 2**20}]
nightly = pytest.mark.nightly  # by day, each setting in some case


@pytest.fixture
def poison(monkeypatch):
    """Fill new memory with NaN."""
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "way", [WAYS[0], *(pytest.param(way, marks=nightly) for way in WAYS[1:])], ids=str
)
def test_results_repeat_bit_by_bit(way):
    given = "infonce", *embeddings(), "masked", *ids("masked")
    first, second = (found(*given, scale=14.0, sweep=fused(**way)) for _ in range(2))
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("infonce", "masked"),
        ("infonce_in_passes", "groups"),
        ("one_sided", "groups"),
        ("sigmoid", "diagonal"),
        *(
            pytest.param(loss, kind, marks=nightly)
            for loss, kinds in (
                ("infonce", ["diagonal", "groups"]),
                ("infonce_in_passes", ["diagonal", "masked"]),
                ("one_sided", ["diagonal", "masked"]),
                ("sigmoid", ["masked", "groups"]),
            )
            for kind in kinds
        ),
    ],
)
def test_no_number_is_read_before_it_is_written(loss, kind, poison):
    given = loss, *embeddings(), kind, *ids(kind)
    for way in WAYS if (loss, kind) == ("infonce", "masked") else WAYS[:1]:
        for x in found(*given, scale=14.0, sweep=fused(**way), normalize=True):
            assert x.isfinite().all()


def plain(kind):
    a, b = embeddings()
    a_ids, b_ids = ids(kind)
    labels = labels_of(a, b, kind, a_ids, b_ids)
    tensors = [labels.row_count_N, labels.column_count_M, a_ids, b_ids]
    named = {"labels": tensors, "kind": labels.kind, "offset": 0, "how": HOW}
    return (a, b, torch.tensor(14.0)), named


@pytest.mark.parametrize("keep", [True, pytest.param(False, marks=nightly)])
def test_the_sums_are_an_operator(keep):
    given, named = plain("masked")
    opcheck(operators.infonce_sums.operator, given, named | {"keep": keep})


@pytest.mark.parametrize("kept", [True, pytest.param(False, marks=nightly)])
def test_the_gradients_are_an_operator(kept):
    given, named = plain("masked")
    *found, exact, exps, shift = operators.infonce_sums(*given, **named, keep=kept)
    sides = {"row_side": [found[0]] * 3, "column_side": [found[1]] * 3}
    of_sums = {"shift": shift, "exact": exact, "kept": exps if kept else None}
    opcheck(operators.infonce_gradients.operator, given, named | sides | of_sums)


@pytest.mark.parametrize(
    ("kind", "keep"),
    [
        pytest.param("diagonal", True, marks=nightly),
        ("masked", True),
        pytest.param("groups", False, marks=nightly),
    ],
)
def test_infonce_as_a_whole_is_two_operators(kind, keep):
    a, b = (x.half() if kind == "groups" else x for x in embeddings(unit=False))
    log_scale, outer = torch.tensor(2.6), torch.tensor(0.5)
    a_ids, b_ids = ids(kind)
    of_both = [] if a_ids is None else [a_ids, b_ids]
    given = a, b, log_scale, of_both, kind, a.dtype, True, keep, HOW
    opcheck(whole.infonce_forward.operator, given)
    _, *saved = whole.infonce_forward(*given)
    opcheck(whole.infonce_backward.operator, (outer, saved, kind, torch.float32, a.dtype, HOW))


@pytest.mark.parametrize("gradients", [True, pytest.param(False, marks=nightly)])
def test_the_losses_of_one_sweep_are_operators(gradients):
    given, named = plain("masked")
    named |= {"gradients": gradients}
    opcheck(operators.infonce_one_sided.operator, given, named)
    opcheck(operators.sigmoid_sweep.operator, (*given, torch.tensor(-3.0)), named)


def test_unit_and_finish_are_operators():
    x, grad = embeddings(N, N, unit=False)
    opcheck(operators.normalize_rows.operator, (x, torch.float32))
    opcheck(
        operators.finalize_gradient.operator,
        (x, grad, torch.tensor(2.0), x.norm(dim=1), torch.float32),
    )
    opcheck(operators.finalize_gradient.operator, (x, grad, torch.tensor(2.0), None, torch.float32))


# torch's own, in 2.11
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("loss", "kind", "given"),
    [
        pytest.param("infonce", "diagonal", {}, marks=nightly),
        pytest.param("infonce", "masked", {"direction": "b_to_a"}, marks=nightly),
        ("infonce", "groups", {"normalize": True}),
        ("infonce", "groups", {"normalize": True, "label_smoothing": 0.1}),
        ("sigmoid", "groups", {}),
    ],
    ids=str,
)
def test_a_compiled_loss_has_the_same_value_and_gradients(loss, kind, given):
    a_ids, b_ids = ids(kind)

    def compute(a, b, log_scale, bias):
        return getattr(execution, loss)(
            a,
            b,
            a_ids,
            b_ids,
            log_scale=log_scale,
            **({"bias": bias} if loss == "sigmoid" else {}),
            positives=KINDS[kind],
            execution="fused",
            **given,
        )

    results = []
    for way in (compute, torch.compile(compute, backend="aot_eager", fullgraph=True)):
        inputs = [*embeddings(), torch.tensor(2.0), torch.tensor(-3.0)]
        inputs = [x.clone().requires_grad_() for x in inputs]
        value = way(*inputs)
        results.append(
            (value.detach(), *torch.autograd.grad(value, inputs, materialize_grads=True))
        )
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, dtype=torch.float64), "not torch.float64; take execution chunked"),
        (torch.ones(2, 4097), "a width of at most 4096, not 4097"),
    ],
    ids=["type", "width"],
)
def test_what_the_kernels_cannot_do_is_refused(x, message):
    labels = labels_of(x, x, "diagonal", None, None)
    with pytest.raises(ValueError, match=message):
        fused().sums(x, x, torch.tensor(1.0), labels, gradients=True)


def test_the_shift_leaves_room_for_as_many_terms_as_there_are():
    a = torch.ones(2**20, 1)
    shift = launch_rows.shift(a, a, torch.tensor(100.0))
    largest = 100 * 1.4426950408889634 - float(shift)
    assert largest + 20 < 127
    assert float(launch_rows.shift(a[:4], a[:4], torch.tensor(14.0))) == 0


@pytest.mark.parametrize(
    "dtype", [torch.float16, pytest.param(torch.float32, marks=pytest.mark.nightly)]
)
def test_tiles_come_from_the_table(dtype):
    size = 37, 53  # with fewer rows, one number of fp16 is rounded otherwise
    given = *embeddings(*size, dtype=dtype), "masked", *ids("masked", *size)
    for loss in LOSSES[::2]:
        mine, right = (
            found(loss, *given, scale=14.0, sweep=sweep) for sweep in (FusedBackend(), fused())
        )
        for x, y in zip(mine, right, strict=True):
            torch.testing.assert_close(x, y)
