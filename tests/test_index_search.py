"""Composed queries, rows like a row, near duplicates and outliers, as loops find them."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn.functional import normalize

from contrastive import build_index, build_model, search
from contrastive.errors import DataError, SpecError
from contrastive.inference.composed_query import parts_of
from tests.miniature import Picture
from tests.test_index import rows_of, stored
from tests.toys import tiny_model


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t-shirt", [(1, "t-shirt")]),
        ("t-shirt - blue", [(1, "t-shirt"), (-1, "blue")]),
        ('"t-shirt - blue"', [(1, "t-shirt - blue")]),
        ('"red car" + dog.jpg - night', [(1, "red car"), (1, "dog.jpg"), (-1, "night")]),
        ("2*\"red car\" - 0.5 * 'a * b'", [(2, "red car"), (-0.5, "a * b")]),
        ("- night + a big dog", [(-1, "night"), (1, "a big dog")]),
        ("3 dogs", [(1, "3 dogs")]),
        ("a+b", [(1, "a+b")]),
        ("-night + .5 * dog", [(-1, "night"), (0.5, "dog")]),
        ('a + "-b" - "1e3*c"', [(1, "a"), (1, "-b"), (-1, "1e3*c")]),
        ("a photo.jpg - 0*b", [(1, "a photo.jpg"), (0, "b")]),
    ],
)
def test_a_composed_query_is_taken_apart(text, expected):
    assert [(part.weight, part.query) for part in parts_of(text)] == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a query is missing"),
        ("a + ", "a query is missing"),
        ("a + - b", "a query is missing"),
        ("2* + b", "a query is missing"),
        ('"a + b', 'the quote " is not closed'),
        ('"a" b', 'behind "a" comes [+] or - between spaces, or the end'),
        ("a + -b", "-b has two signs; give one, or put -b in quotes"),
        ("a - -0.5*b", "-0.5[*]b has two signs"),
        ("1e3*a", r"1e3 is no weight; give such as 0.5\*, or put 1e3\*a in quotes"),
        ("a - nan * b", "nan is no weight"),
        ("9" * 400 + "*a", "is too large; lower it"),
    ],
)
def test_a_composed_query_that_is_none_says_why(text, said):
    with pytest.raises(SpecError, match=said):
        parts_of(text)


def test_a_composed_query_is_the_sum_of_its_parts(model, tmp_path):
    texts = rows_of([f"a {i}" for i in range(9)])
    Picture(3).draw().save(tmp_path / "3.png")
    index = build_index(model, texts, tmp_path / "index").index
    query = f'2*"a 1" + {tmp_path / "3.png"} - 0.5*a 2'
    image, (one, two) = (
        model.embed("image", [tmp_path / "3.png"], batch_size=1),
        (model.embed("text", [text], batch_size=1) for text in ("a 1", "a 2")),
    )
    total = normalize(2 * one + image - 0.5 * two, dim=1)
    expected = index.search(total, "text", k=4)[0]
    for about in ({"index": index}, {"texts": [row["text"] for row in texts]}):
        hits = search(model, query, compose=True, find="text", k=4, **about)
        assert [hit.found for hit in hits] == [one.row.sample for one in expected]
        assert [hit.similarity for hit in hits] == pytest.approx([x.similarity for x in expected])
    for nothing in ("a 1 - a 1", "0*a 1 - 0*a 2"):
        with pytest.raises(SpecError, match="its parts cancel out; change a weight"):
            search(model, nothing, index=index, compose=True)
    large, same = (
        search(model, text, index=index, compose=True, find="text")
        for text in (f"{10**50}*a 1 + {10**50}*a 2", "a 1 + a 2")
    )
    assert [hit.similarity for hit in large] == pytest.approx([hit.similarity for hit in same])
    with pytest.raises(SpecError, match="takes a text"):
        search(model, "a 1", index=index, compose=True, query_modality="text")
    plain = search(model, "a 1 - a 2", index=index)  # a text like any other
    among = search(model, "a 1 - a 2", texts=[row["text"] for row in texts], find="text")
    assert [hit.similarity for hit in plain] == [hit.similarity for hit in among]


@pytest.mark.parametrize("numbers", [(), (0, 7, 30)])
@pytest.mark.parametrize("where", [(), ["third!=1"]])
def test_near_duplicates_and_outliers_are_those_of_loops(numbers, where, tmp_path, monkeypatch):
    monkeypatch.setattr("contrastive.indexes.neighbours.QUERIES", 7)
    torch.manual_seed(0)
    vectors = normalize(torch.randn(20, 4), dim=1).repeat(3, 1)[:50]
    vectors = normalize(vectors + 0.03 * torch.randn(50, 4), dim=1)
    vectors[40] = vectors[3]
    index = stored(tmp_path / "index", vectors.split([13, 30, 7]), numbers)
    left = [i for i in range(50) if i not in numbers and (not where or i % 3 != 1)]
    scores = vectors.double() @ vectors.double().T
    pairs = [(-scores[i, j].item(), i, j) for i in left for j in left if i < j]
    expected = sorted(pair for pair in pairs if -pair[0] >= 0.99)
    for k in (1, 5, 1000):
        found = index.duplicates("text", least=0.99, k=k, where=where)
        assert [(a.id, b.id) for _, a, b in found] == [(i, j) for _, i, j in expected[:k]]
        assert [score for score, _, _ in found] == pytest.approx([-x for x, _, _ in expected[:k]])
    lonely = []
    for i in left:
        others = sorted((scores[i, j].item() for j in left if j != i), reverse=True)[:10]
        lonely.append((sum(others) / len(others), i))
    found = index.outliers("text", k=6, where=where)
    assert [one.row.id for one in found] == [i for _, i in sorted(lonely)[:6]]


def test_rows_like_a_row_need_no_model(tmp_path, command):
    torch.manual_seed(0)
    vectors = normalize(torch.randn(30, 4), dim=1)
    index = stored(tmp_path / "index", vectors.split([10, 20]), [4])
    scores = (vectors.double() @ vectors[17].double()).tolist()
    order = sorted((i for i in range(30) if i not in (4, 17)), key=lambda i: -scores[i])
    modality, found = index.like("row 17", k=5)
    assert (modality, [one.row.id for one in found]) == ("text", order[:5])
    with pytest.raises(DataError, match="has no row 4; give a path, a text or a source"):
        index.like("row 4")
    place = tmp_path / "index"
    asked = command("search", "text 17", "--like", "--index", place, "-k", "5", "--json")
    assert [hit["source"] for hit in json.loads(asked.out)] == [f"row {i}" for i in order[:5]]
    pairs = command("search", "--duplicates", "0.9", "--index", place, "-k", "2", "--json")
    assert [hit["similarity"] >= 0.9 for hit in json.loads(pairs.out)] == [True, True]
    assert "no pair has a cosine" in command("search", "--duplicates", "1", "--index", place).out
    assert command("search", "--outliers", "--index", place).code == 0
    for wrong in (
        ["--outliers"],
        ["a", "--outliers", "--index", place],
        ["--like", "--index", place],
        ["--outliers", "--index", place, "--min-precision", "0.9"],
    ):
        refused = command("search", *wrong)
        assert (refused.code, "and is given alone" in refused.err) == (2, True)
    assert "Invalid value for QUERY: it is missing" in command("search", "--index", place).err
