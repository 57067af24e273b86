"""Recall at 1, 5 and 10 in both directions, five captions for each image: ours and evaluators.

All are given the embeddings. The reference is a product with float64 scores in blocks, which counts
how many targets score higher than the best right one.
"""

from __future__ import annotations

import os
from importlib import import_module

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.evaluation.retrieval import recall

WIDTH, EACH, KS, BLOCK = 512, 5, (1, 5, 10), 256
IMAGES = [int(n) for n in os.environ.get("BENCHMARK_IMAGES", "1000").split(",")]
MATRIX = 5000  # images above which a matrix of all scores has no place in memory


@pytest.fixture(scope="module", params=IMAGES)
def embeddings(request):
    """Return images, captions near them, and the image of each caption."""
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(request.param, WIDTH, generator=generator), dim=1)
    of_text = torch.arange(len(images)).repeat_interleave(EACH)
    noise = torch.randn(len(of_text), WIDTH, generator=generator) * 0.25
    return images, normalize(images[of_text] + noise, dim=1), of_text


def ours(images, texts, of_text):
    ids = torch.arange(len(images))
    sides = [recall(texts, images, of_text, ids), recall(images, texts, ids, of_text)]
    return [[side.recall[k].value for k in KS] for side in sides]


def clip_benchmark(images, texts, _):
    metrics = import_module(PEERS["clip_benchmark"])
    model = Given(images, texts)
    batches = [
        (
            torch.arange(start, stop),
            [[str(EACH * i + j) for j in range(EACH)] for i in range(start, stop)],
        )
        for start in range(0, len(images), 64)
        for stop in [min(start + 64, len(images))]
    ]
    as_numbers = lambda names: torch.tensor([int(name) for name in names])  # noqa: E731
    found = metrics.evaluate(model, batches, as_numbers, "cpu", amp=False, recall_k_list=list(KS))
    directions = ("image", "text")
    return [[found[f"{name}_retrieval_recall@{k}"] for k in KS] for name in directions]


class Given:
    """A model whose embeddings are known."""

    def __init__(self, images, texts):
        self.encode_image = images.__getitem__
        self.encode_text = texts.__getitem__


def ranx(images, texts, of_text):
    library = import_module(PEERS["ranx"])
    wanted = [f"hit_rate@{k}" for k in KS]
    sides = []
    right = (
        [[int(i)] for i in of_text],
        [[*range(EACH * i, EACH * i + EACH)] for i in range(len(images))],
    )
    for queries, targets, answers in zip((texts, images), (images, texts), right, strict=True):
        best = (queries @ targets.T).topk(max(KS))
        qrels = {str(q): {str(t): 1 for t in ts} for q, ts in enumerate(answers)}
        run = {
            str(q): dict(zip(map(str, names), scores, strict=True))
            for q, (names, scores) in enumerate(
                zip(best.indices.tolist(), best.values.tolist(), strict=True)
            )
        }
        found = library.evaluate(library.Qrels(qrels), library.Run(run), wanted)
        sides.append([float(found[name]) for name in wanted])
    return sides


def blocked_float64(images, texts, of_text):
    image_of = torch.arange(len(images))
    sides = []
    for queries, targets, ids, of in (
        (texts, images, of_text, image_of),
        (images, texts, image_of, of_text),
    ):
        ranks = []
        for start in range(0, len(queries), BLOCK):
            scores = queries[start : start + BLOCK].double() @ targets.double().T
            right = ids[start : start + BLOCK, None] == of[None]
            best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
            ranks.append(((scores >= best) & ~right).sum(1))
        rank = torch.cat(ranks)
        sides.append([(rank < k).double().mean().item() for k in KS])
    return sides


ARMS = {
    "ours": ours,
    "clip_benchmark": clip_benchmark,
    "ranx": ranx,
    "blocked float64": blocked_float64,
}
PEERS = {"clip_benchmark": "clip_benchmark.metrics.zeroshot_retrieval", "ranx": "ranx"}
_expected = {}


@pytest.mark.parametrize("arm", ARMS)
def test_recall(benchmark, embeddings, arm):
    images, texts, _ = embeddings
    benchmark.group = f"recall, {len(images):,} x {len(texts):,}"
    if len(images) > MATRIX and arm in ("clip_benchmark", "ranx"):
        pytest.skip("it stores the scores of all pairs, or has them stored")
    if arm in PEERS:  # before it is timed: without a time, there is no report
        pytest.importorskip(PEERS[arm], reason=f"{arm.replace('_', '-')} is not installed")
    found = benchmark.pedantic(ARMS[arm], embeddings, rounds=3 if len(images) <= MATRIX else 1)
    expected = _expected.setdefault(len(images), found)
    assert torch.tensor(found) == pytest.approx(torch.tensor(expected), abs=1e-6)
