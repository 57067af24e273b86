"""InfoNCE and the sigmoid loss as loops over pairs, in float64, and what they are given.

Shapes: N rows of a, M rows of b, D wide.
"""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from contrastive.losses import InfoNCE, Sigmoid
from contrastive.losses.functional import sigmoid

POSITIVES = ["multi", "mask", "ignore"]
MODULES = [InfoNCE, Sigmoid]


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
