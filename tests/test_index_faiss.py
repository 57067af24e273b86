"""Structures of faiss: what they find, and what of a stranger's file is refused."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from contrastive.errors import DataError
from contrastive.indexes.faiss_hnsw import FaissHnsw
from contrastive.indexes.faiss_ivf import FaissIvf

pytest.importorskip("faiss")

KINDS = {"hnsw": FaissHnsw(), "ivf": FaissIvf()}
EFFORTS = {"hnsw": 128, "ivf": 64}
ROWS, WIDTH = 700, 12  # no multiple of 8, so that lists have places to spare


def vectors(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    made = torch.randn(ROWS, WIDTH, generator=generator)
    if kind == "clustered":
        centres = torch.randn(7, WIDTH, generator=generator)
        made = centres[torch.randint(7, (ROWS,), generator=generator)] + 0.2 * made
    return normalize(made, dim=1)


def pieces_of(rows_MD: torch.Tensor) -> list[torch.Tensor]:
    return [*rows_MD.split([300, 1, 399])]


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, torch.Tensor]]:
    return {name: kind.build(pieces_of(vectors("clustered"))) for name, kind in KINDS.items()}


@pytest.mark.parametrize("data", ["random", "clustered"])
@pytest.mark.parametrize("name", KINDS)
def test_a_structure_finds_what_exact_search_finds(name: str, data: str) -> None:
    rows_MD, kind = vectors(data), KINDS[name]
    opened = kind.open(kind.build(pieces_of(rows_MD)), pieces_of(rows_MD))
    queries_QD = normalize(rows_MD[::20] + 0.05, dim=1)
    even_M = torch.arange(ROWS) % 2 == 0
    for allowed_M in (None, torch.arange(ROWS) != 40, even_M):
        scores_QM = queries_QD @ rows_MD.T
        if allowed_M is not None:
            scores_QM[:, ~allowed_M] = -1
        scores, numbers = opened.candidates(queries_QD, 10, allowed_M, EFFORTS[name])
        found = [
            {number for number, score in zip(*pair, strict=True) if score > -torch.inf}
            for pair in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]
        if allowed_M is even_M and not any(found):
            continue  # of so few rows, comparing all takes no longer
        if allowed_M is not None:
            assert all(allowed_M[[*some]].all() for some in found)
        expected = scores_QM.topk(10).indices.tolist()
        shares = [len({*some} & {*best}) / 10 for some, best in zip(found, expected, strict=True)]
        assert sum(shares) / len(shares) > 0.97
        there = scores > -torch.inf
        rows = torch.arange(len(numbers))[:, None].expand_as(numbers)[there]
        exact = (queries_QD[rows] * rows_MD[numbers[there]]).sum(1)
        torch.testing.assert_close(scores[there], exact, rtol=0, atol=0.02)


def changed(tensors: dict[str, torch.Tensor], name: str, at: int, value: float) -> dict:
    made = {key: tensor.clone() for key, tensor in tensors.items()}
    made[name].view(-1)[at] = value
    return made


def upper_link(tensors: dict[str, torch.Tensor]) -> int:
    """The place of the first link of the entry on its highest level."""
    entry = int(tensors["entry"])
    before = tensors["levels"][:entry].long()
    return int(((before + 1) * 32).sum() + tensors["levels"][entry] * 32)


HNSW = {
    "a link beyond the rows": lambda t: changed(t, "links", 5, ROWS),
    "a negative link": lambda t: changed(t, "links", 5, -2),
    "a link to a row below its level": lambda t: changed(
        t, "links", upper_link(t), int((t["levels"] == 1).nonzero()[0])
    ),
    "a row of no level": lambda t: changed(t, "levels", 3, 0),
    "a row of another level": lambda t: changed(t, "levels", 3, int(t["levels"][3]) + 1),
    "a row of a level that is none": lambda t: changed(t, "levels", 3, 1 << 30),
    "an entry beyond the rows": lambda t: changed(t, "entry", 0, ROWS),
    "a negative entry": lambda t: changed(t, "entry", 0, -1),
    "an entry below the highest level": lambda t: changed(
        t, "entry", 0, int((t["levels"] == 1).nonzero()[0])
    ),
    "fewer links": lambda t: t | {"links": t["links"][:-1]},
    "links of 64 bits": lambda t: t | {"links": t["links"].long()},
    "fewer vectors": lambda t: t | {"codes": t["codes"][:-1]},
    "narrower vectors": lambda t: t | {"codes": t["codes"][:, :-1]},
    "no vectors": lambda t: {name: one for name, one in t.items() if name != "codes"},
    "a range that is no number": lambda t: changed(t, "ranges", 0, torch.nan),
    "a range without end": lambda t: changed(t, "ranges", WIDTH, 1e30),
}
IVF = {
    "a longer list": lambda t: changed(t, "sizes", 0, int(t["sizes"][0]) + 1),
    "a negative list": lambda t: (
        t
        | {
            "sizes": torch.cat(
                [torch.tensor([-8, ROWS + 8]), torch.zeros(len(t["sizes"]) - 2).long()]
            )
        }
    ),
    "another size of lists": lambda t: t | {"sizes": t["sizes"].roll(1)},
    "no lists": lambda t: t | {"sizes": t["sizes"][:0], "centroids": t["centroids"][:0]},
    "fewer centroids": lambda t: t | {"centroids": t["centroids"][:-1]},
    "fewer bytes": lambda t: t | {"lists": t["lists"][:-1]},
    "a row beyond the rows": lambda t: changed(t, "lists", first_number(t), ROWS),
    "a row twice": lambda t: changed(
        t, "lists", first_number(t), int(t["lists"][first_number(t) + 1])
    ),
    "a centroid that is no number": lambda t: changed(t, "centroids", 0, torch.nan),
    "a range that is no number": lambda t: changed(t, "ranges", 0, torch.nan),
}


def first_number(tensors: dict[str, torch.Tensor]) -> int:
    """The place of the number of the first row of the first list."""
    room = -(-int(tensors["sizes"][0]) // 8) * 8
    return room * WIDTH // 8


@pytest.mark.parametrize(
    ("name", "wrong"), [("hnsw", one) for one in HNSW] + [("ivf", one) for one in IVF]
)
def test_what_leads_out_of_the_arrays_is_refused(name: str, wrong: str, built: dict) -> None:
    pieces = pieces_of(vectors("clustered"))
    KINDS[name].open(built[name], pieces)
    with pytest.raises(DataError):
        KINDS[name].open((HNSW if name == "hnsw" else IVF)[wrong](built[name]), pieces)


@pytest.mark.parametrize("name", KINDS)
def test_any_bytes_that_pass_are_searched_without_harm(name: str, built: dict) -> None:
    generator, passed = torch.Generator().manual_seed(5), 0
    pieces = pieces_of(vectors("clustered"))
    for _ in range(60):
        made = {key: tensor.clone() for key, tensor in built[name].items()}
        keys = sorted(made)
        key = keys[int(torch.randint(len(keys), (), generator=generator))]
        raw = made[key].view(-1).view(torch.uint8)
        at = torch.randint(len(raw), (3,), generator=generator)
        raw[at] = torch.randint(256, (3,), generator=generator).to(torch.uint8)
        try:
            opened = KINDS[name].open(made, pieces)
        except DataError:
            continue
        passed += 1
        _, numbers = opened.candidates(pieces[0][:9], 5, None, EFFORTS[name])
        assert ((numbers >= -1) & (numbers < ROWS)).all()
    assert 5 < passed < 60


@pytest.mark.parametrize("name", KINDS)
def test_queries_that_are_no_numbers_find_nothing(name: str, built: dict) -> None:
    pieces = pieces_of(vectors("clustered"))
    queries_QD = pieces[0][:4].clone()
    queries_QD[0, 3], queries_QD[1, 3], queries_QD[2] = torch.nan, torch.inf, 3e38
    opened = KINDS[name].open(built[name], pieces)
    scores, _ = opened.candidates(queries_QD, 5, None, EFFORTS[name])
    assert (scores > -torch.inf).any(1).tolist() == [False, False, False, True]


def test_lists_are_copied_where_faiss_cannot_map_them(
    built: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    pieces = pieces_of(vectors("clustered"))
    mapped = KINDS["ivf"].open(built["ivf"], pieces)
    monkeypatch.delattr(faiss, "OnDiskInvertedLists")  # as on Windows
    copied = KINDS["ivf"].open(built["ivf"], pieces)
    for one, other in zip(
        *(opened.candidates(pieces[2], 5, None, 16) for opened in (mapped, copied)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
