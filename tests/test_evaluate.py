"""Retrieval figures against slow, obvious references."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from contrastive.errors import DataError
from contrastive.evaluation import retrieval
from contrastive.inference.embed_distinct import EmbeddedModality
from contrastive.inference.nearest import top_k


def unit(rows, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator), dim=-1)


def column(embeddings, ids):
    return EmbeddedModality(embeddings, torch.as_tensor(ids), list(range(len(ids))))


def recall(queries, targets):
    """Recall between columns; within one, no query is its own target."""
    return retrieval.recall(
        queries.embeddings_QD, targets.embeddings_QD, queries.ids_Q, targets.ids_Q
    )


def clip_benchmark_recall(texts, images, image_of_text, k):
    """CLIP_benchmark's zeroshot_retrieval, restated with loops: positives by image index."""
    scores = texts @ images.T
    text_to_image = [
        image_of_text[t] in scores[t].topk(k).indices.tolist() for t in range(len(texts))
    ]
    image_to_text = [
        any(image_of_text[t] == i for t in scores[:, i].topk(k).indices.tolist())
        for i in range(len(images))
    ]
    return np.mean(text_to_image), np.mean(image_to_text)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_clip_benchmark(k):
    image_of_text = [i for i in range(60) for _ in range(5)]
    images = unit(60, 16)
    texts = normalize(images[image_of_text] + 2.5 * unit(300, 16, 1), dim=-1)
    expected = clip_benchmark_recall(texts, images, image_of_text, k)
    text, image = column(texts, image_of_text), column(images, range(60))
    assert recall(text, image).recall[k].value == pytest.approx(expected[0], abs=1e-12)
    assert recall(image, text).recall[k].value == pytest.approx(expected[1], abs=1e-12)
    assert 0 < expected[0] < 1


@pytest.mark.slow
def test_a_perfect_model_on_1000_images_with_5_captions_scores_1_both_ways():
    images = unit(1000, 64)
    ids = torch.arange(1000)
    texts = images.repeat_interleave(5, 0)
    text, image = column(texts, ids.repeat_interleave(5)), column(images, ids)
    for direction in (recall(text, image), recall(image, text)):
        assert direction.recall[1].value == 1.0
        assert direction.median_rank == 1
    assert recall(text, image).queries == 5000


def test_collapsed_embeddings_score_nothing():
    same = torch.ones(50, 8) / math.sqrt(8)
    direction = recall(column(same, range(50)), column(same.clone(), range(50)))
    assert direction.recall[10].value == 0
    assert direction.median_rank == 50


@pytest.mark.slow
def test_random_embeddings_score_chance_within_the_interval():
    texts, images = unit(2000, 32), unit(400, 32, 1)
    text, image = column(texts, [i % 400 for i in range(2000)]), column(images, range(400))
    one_right = recall(text, image).recall[10]
    assert one_right.chance == pytest.approx(10 / 400)
    assert one_right.low <= one_right.chance <= one_right.high
    five_right = recall(image, text).recall[10]
    drawn = np.random.default_rng(0)
    hits = [(drawn.choice(2000, 10, replace=False) < 5).any() for _ in range(20_000)]
    assert five_right.chance == pytest.approx(np.mean(hits), abs=0.005)
    assert five_right.low <= five_right.chance <= five_right.high


def test_the_interval_draws_images_not_captions():
    """Five captions that share their fate say as much as one, not five times as much."""
    images = unit(100, 64)
    ids = list(range(100))
    wrong = images.roll(1, 0)
    texts = torch.where(torch.arange(100)[:, None] < 50, images, wrong)
    single = recall(column(texts, ids), column(images, ids)).recall[1]
    fivefold = [i for i in ids for _ in range(5)]
    repeated = recall(column(texts[fivefold], fivefold), column(images, ids)).recall[1]
    assert single.value == repeated.value == 0.5
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low)
    assert 0.15 < single.high - single.low < 0.25  # 2 x 1.96 x sqrt(0.25 / 100)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.lists(st.integers(0, 6), min_size=1, max_size=20),
    st.integers(0, 99),
)
def test_ranks_are_those_of_a_slow_loop(query_ids, target_ids, seed):
    queries, targets = unit(len(query_ids), 3, seed), unit(len(target_ids), 3, seed + 100)
    scores = (queries @ targets.T).tolist()
    ranks = []
    for q, wanted in enumerate(query_ids):
        right = [t for t, found in enumerate(target_ids) if found == wanted]
        if right:
            best = max(scores[q][t] for t in right)
            wrong = [t for t, found in enumerate(target_ids) if found != wanted]
            ranks.append(1 + sum(scores[q][t] >= best for t in wrong))
    if not ranks:
        with pytest.raises(ValueError, match="no query has a right answer"):
            recall(column(queries, query_ids), column(targets, target_ids))
        return
    direction = recall(column(queries, query_ids), column(targets, target_ids))
    assert direction.median_rank == np.median(ranks)
    assert direction.queries == len(ranks)
    for k, figure in direction.recall.items():
        assert figure.value == pytest.approx(np.mean([rank <= k for rank in ranks]))


def test_chunks_do_not_change_the_figures(monkeypatch):
    queries, targets = column(unit(40, 8), range(40)), column(unit(40, 8, 1), range(40))
    whole = recall(queries, targets)
    monkeypatch.setattr("contrastive.evaluation.retrieval.CHUNK_BYTES", 40 * 4 * 7)
    assert recall(queries, targets) == whole


def assert_stable(queries, distinct, copies, k):
    """Compare ``top_k`` with a stable sort of float64 scores, of items that stand several times."""
    which = torch.arange(copies * len(distinct)) % len(distinct)
    scores, indices = top_k(queries, distinct[which], k)
    exact = (queries.double() @ distinct.double().T)[:, which]
    expected = exact.argsort(dim=1, descending=True, stable=True)[:, :k]
    assert torch.equal(indices, expected)
    assert torch.equal(scores, exact.gather(1, expected).float())


@pytest.mark.parametrize("block", [3, 8, 1000])
@pytest.mark.parametrize("copies", [1, 3, 40])  # so that equal ones stand at the k-th place
def test_top_k_is_a_stable_sort_of_exact_scores(block, copies, monkeypatch):
    monkeypatch.setattr("contrastive.indexes.exact.SCORES_BYTES", 4 * 5 * block)
    monkeypatch.setattr("contrastive.indexes.exact.QUERIES", 5)
    monkeypatch.setattr("contrastive.indexes.exact.PAIRS_BYTES", 8 * 16 * 7)
    assert_stable(unit(12, 16), unit(30, 16, 1), copies, 7)
    assert_stable(unit(12, 16), unit(3, 16, 1), copies, 200)  # more than there are


def test_top_k_of_ten_thousand_queries_with_ties_at_the_last_place():
    assert_stable(unit(10_000, 32), unit(200, 32, 1), 3, 10)


def test_top_k_does_not_depend_on_how_products_are_rounded():
    queries, items = unit(20, 64), unit(2_000, 64, 1)
    items = torch.nn.functional.normalize(items[:1] + 1e-7 * items, dim=1)  # all are about alike
    usual = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            assert_stable(queries, items, 1, 10)
    finally:
        torch.set_float32_matmul_precision(usual)


def test_top_k_of_nothing():
    assert [x.shape for x in top_k(unit(0, 4), unit(3, 4), 2)] == [(0, 2)] * 2
    assert [x.shape for x in top_k(unit(3, 4), unit(0, 4), 2)] == [(3, 0)] * 2


def test_recall_takes_plain_arrays_and_ids():
    texts, images, ids = unit(60, 8), unit(20, 8, 1), [i % 20 for i in range(60)]
    expected = recall(column(texts, ids), column(images, range(20)))
    found = retrieval.recall(texts.numpy(), images.numpy(), ids, range(20))
    assert found == expected
    paired = retrieval.recall(images, unit(20, 8, 2))
    assert paired == recall(column(images, range(20)), column(unit(20, 8, 2), range(20)))
    with pytest.raises(DataError, match="60 rows of embeddings have 59 query_ids"):
        retrieval.recall(texts, images, ids[1:], range(20))
    with pytest.raises(DataError, match="20 rows of embeddings have 60 target_ids"):
        retrieval.recall(texts, images, ids)


def test_chance_is_that_of_a_loop_over_queries():
    from math import comb

    from contrastive.inference.embed_distinct import EmbeddedModality

    generator = torch.Generator().manual_seed(0)
    texts, images = (
        EmbeddedModality(
            torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1),
            torch.randint(0, 7, (n,), generator=generator),
            list(range(n)),
        )
        for n in (40, 23)
    )
    found = recall(texts, images).recall
    for k, estimate in found.items():
        chances = []
        for query in texts.ids_Q.tolist():
            right = images.ids_Q.tolist().count(query)
            if right:
                chances.append(1 - comb(23 - right, k) / comb(23, k) if 23 - right >= k else 1.0)
        assert estimate.chance == pytest.approx(sum(chances) / len(chances), abs=1e-12)
