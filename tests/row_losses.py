"""The losses of rows as loops written from the papers, in float64, and configs of them all.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st

from contrastive import RunSpec
from contrastive.config.base import Config
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
)
from contrastive.losses.dcl import dcl
from contrastive.losses.hard_negative import hard_negative
from tests.pair_losses import scalar, unit
from tests.toys import toy_dict

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
MIDDLE = pytest.param((5, 5, 4), marks=pytest.mark.slow)
LARGE = pytest.param((9, 9, 8), marks=pytest.mark.nightly)  # loops over more than (5, 5, 4)
SHAPES = [(1, 1, 3), MIDDLE, (3, 6, 2), (6, 2, 5), LARGE]
quick = settings(deadline=None, max_examples=30)


class Holder(Config):
    loss: Loss


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


@st.composite
def batches(draw):
    n, d = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    seed = draw(st.integers(0, 10**6))
    ids = draw(st.lists(st.integers(0, draw(st.integers(0, 6))), min_size=n, max_size=n))
    return unit(n, d, seed=seed), unit(n, d, seed=seed + 1), torch.tensor(ids)


log_scales = st.floats(0.0, math.log(100)).map(scalar)


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


def stream(steps=5, n=4, d=6, groups=9):
    """Yield batches whose ids come again."""
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        ids = torch.randint(groups, (n,), generator=generator)
        a, b = unit(n, d, seed=10 + step), unit(n, d, seed=50 + step)
        yield a.requires_grad_(), b.requires_grad_(), ids


def run_spec(folder, loss, **training):
    spec = toy_dict(folder / "data", **training)
    spec["model"]["loss"] = Holder(loss=loss).model_dump(mode="json")["loss"]
    return RunSpec.model_validate(spec)


def model_with(loss, *, embed_dim=8):
    towers = {
        "image": {"encoder": {"type": "resnet", "width": 8}, "head": {"type": "linear"}},
        "text": {"encoder": {"type": "cbow"}, "head": {"type": "linear"}},
    }
    return {"embed_dim": embed_dim, "towers": towers, "loss": loss}
