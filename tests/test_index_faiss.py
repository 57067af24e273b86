"""Structures of faiss: what they find, and what of a stranger's file is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from contrastive import Index, build_index, build_model, remove_from_index, search, update_index
from contrastive.errors import DataError, MissingExtra
from contrastive.indexes.faiss_hnsw import FaissHnsw
from contrastive.indexes.faiss_ivf import FaissIvf
from contrastive.indexes.segments import Row, listed_file
from contrastive.indexes.structures import refresh
from contrastive.indexes.writer import Place, writing
from tests.test_index import damage, rows_of, stored
from tests.toys import tiny_model

pytest.importorskip("faiss")

KINDS = {"hnsw": FaissHnsw(), "ivf": FaissIvf()}
EFFORTS = {"hnsw": 64, "ivf": 64}
ROWS, WIDTH = 3000, 12  # no multiple of 8, so that lists have places to spare


def vectors(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    made = torch.randn(ROWS, WIDTH, generator=generator)
    if kind == "clustered":
        centres = torch.randn(7, WIDTH, generator=generator)
        made = centres[torch.randint(7, (ROWS,), generator=generator)] + 0.2 * made
    return normalize(made, dim=1)


def pieces_of(rows_MD: torch.Tensor) -> list[torch.Tensor]:
    return [*rows_MD.split([1300, 1, 1699])]


@pytest.fixture(scope="module")
def built() -> dict[str, dict[str, torch.Tensor]]:
    return {name: kind.build(pieces_of(vectors("clustered"))) for name, kind in KINDS.items()}


@pytest.mark.parametrize("data", ["random", "clustered"])
@pytest.mark.parametrize("name", KINDS)
def test_a_structure_finds_what_exact_search_finds(name: str, data: str) -> None:
    rows_MD, kind = vectors(data), KINDS[name]
    opened = kind.open(kind.build(pieces_of(rows_MD)), pieces_of(rows_MD))
    queries_QD = normalize(rows_MD[::60] + 0.05, dim=1)
    numbers_M = torch.arange(ROWS)
    for allowed_M in (None, numbers_M != 40, numbers_M % 7 > 0):
        scores_QM = queries_QD @ rows_MD.T
        if allowed_M is not None:
            scores_QM[:, ~allowed_M] = -1
        scores, numbers = opened.candidates(queries_QD, 10, allowed_M, EFFORTS[name])
        found = [
            {number for number, score in zip(*pair, strict=True) if score > -torch.inf}
            for pair in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]
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


@pytest.mark.parametrize("name", KINDS)
def test_threads_are_those_of_torch_and_find_the_same(name: str, built: dict) -> None:
    import faiss

    pieces, before = pieces_of(vectors("clustered")), faiss.omp_get_max_threads()
    opened = KINDS[name].open(built[name], pieces)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(opened.candidates(pieces[0][:40], 5, None, 16)[1])
    finally:
        torch.set_num_threads(threads)
    assert found[0].equal(found[1])
    assert faiss.omp_get_max_threads() == before


BACKENDS = {"faiss": FaissHnsw, "faiss-ivf": FaissIvf}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Structures of few rows, which are searched although that takes longer."""
    for kind in BACKENDS.values():
        monkeypatch.setattr(kind, "fewest_rows", 1)
        monkeypatch.setattr(kind, "pays", lambda *_: True)


def exact_hits(rows_MD: torch.Tensor, queries_QD: torch.Tensor) -> list[set[int]]:
    return [{*some} for some in (queries_QD @ rows_MD.T).topk(10).indices.tolist()]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_come_are_found_and_rows_that_go_are_not(backend: str, tmp_path) -> None:
    rows_MD = vectors("clustered")
    stored(tmp_path, pieces_of(rows_MD))
    with writing(tmp_path) as writer:
        writer.search_by(backend, None)
        writer.commit()
        refresh(writer)
    queries_QD = normalize(rows_MD[7:300:11] + 0.03, dim=1)

    def found() -> list[list[int]]:
        hits = Index(tmp_path).search(queries_QD, "text", k=10)
        for query_D, some in zip(queries_QD, hits, strict=True):
            for hit in some[:3]:
                exact = (query_D.double() * whole_MD[hit.row.id].double()).sum().float()
                assert hit.similarity == exact
        return [[hit.row.id for hit in some] for some in hits]

    def share(some: list[list[int]], expected: list[set[int]]) -> float:
        pairs = zip(some, expected, strict=True)
        return sum(len({*one} & best) for one, best in pairs) / (10 * len(expected))

    whole_MD = rows_MD
    first = found()
    assert Index(tmp_path).about.recall["text"].share >= 0.97
    assert share(first, exact_hits(rows_MD, queries_QD)) >= 0.95
    gone = {ids[0] for ids in first}
    new = [Row(bytes([i] * 32), 0, ROWS + i, f"new {i}", f"new {i}", {}) for i in range(4)]
    whole_MD = torch.cat([rows_MD, queries_QD[:4]])
    starts = [0, 1300, 1301, ROWS]
    for refreshed in (False, True):
        with writing(tmp_path) as writer:
            if refreshed:
                refresh(writer)
            else:
                pieces = [sum(number >= one for one in starts) - 1 for number in gone]
                places = zip(pieces, gone, strict=True)
                writer.delete([Place(piece, number - starts[piece]) for piece, number in places])
                writer.add("text", new, queries_QD[:4])
                writer.commit()
        again = found()
        assert not gone & {number for ids in again for number in ids}
        assert [ids[0] for ids in again[:4]] == [ROWS + i for i in range(4)]
        left_MD = whole_MD.clone()
        left_MD[[*gone]] = 0
        assert share(again, exact_hits(left_MD, queries_QD)) >= 0.95
    covered = [one.covers for one in Index(tmp_path).about.structures]
    assert sorted(number for covers in covered for number in covers) == [0, 1, 2, 4]


@pytest.mark.usefixtures("small")
def test_rows_that_go_leave_a_graph_of_many_segments(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("contrastive.indexes.writer.LISTED", 3)
    rows_MD = vectors("clustered")[:200]
    stored(tmp_path, [*rows_MD.split(100)])
    for backend in ("exact", "faiss"):
        with writing(tmp_path) as writer:
            writer.search_by(backend, None)
            writer.commit()
            refresh(writer)
            before = writer.about
            writer.delete([Place(1, 2 * row + (backend == "faiss")) for row in range(9)])
            writer.commit()
            kept = [one in before.segments for one in writer.about.segments]
            assert len(writer.about.segments) == 2
            assert (writer.about.structures, sum(kept)) == (before.structures, 1)
            assert len(writer.about.segments[1].deleted) == (9 if backend == "faiss" else 0)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


TEXTS = rows_of([f"a {i}" for i in range(40)])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_structure_that_cannot_be_used_is_told_and_made_again(
    backend: str, model, tmp_path, capsys
) -> None:
    folder = tmp_path / "index"
    build_index(model, TEXTS, folder, backend="exact")
    expected = [hit.found for hit in search(model, "a 3", index=folder, find="text", k=20)]
    build_index(model, TEXTS, folder, backend=backend)

    def place():
        return folder / Index(folder).about.structures[0].file_name

    tensors, content = load_file(place()), place().read_bytes()

    def crafted():
        name = {"faiss": "links", "faiss-ivf": "sizes"}[backend]
        save_file(changed(tensors, name, 0, 1 << 20), place())
        listed = listed_file(place()).model_dump()
        damage(lambda about: about["structures"][0].update(file=listed))(folder)

    for change, said in [
        (lambda: place().unlink(), "is gone"),
        (lambda: place().write_bytes(content[: len(content) // 2]), "damaged"),
        (crafted, "damaged ("),
    ]:
        change()
        capsys.readouterr()
        hits = search(model, "a 3", index=folder, find="text", k=20)
        assert [hit.found for hit in hits] == expected
        (told,) = capsys.readouterr().err.splitlines()
        assert said in told
        assert "searched without it; contrastive index update makes it again" in told
        assert update_index(model, TEXTS, folder).encoded == 0
        capsys.readouterr()
        hits = search(model, "a 3", index=folder, find="text", k=20)
        assert [hit.found for hit in hits] == expected
        assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("small")
def test_a_build_that_is_ended_goes_on(model, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(FaissHnsw, "build", ended)
        with pytest.raises(KeyboardInterrupt):
            build_index(model, TEXTS, tmp_path, backend="faiss")
    assert Index(tmp_path).about.structures == []
    expected = [hit.found for hit in search(model, "a 3", index=tmp_path, find="text")]
    built = build_index(model, TEXTS, tmp_path)
    assert (built.encoded, len(built.index.about.structures)) == (0, 1)
    assert [hit.found for hit in search(model, "a 3", index=tmp_path, find="text")] == expected


@pytest.mark.usefixtures("small")
def test_what_is_missed_is_told_where_rows_are_missed(
    model, tmp_path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(model, TEXTS, tmp_path, backend="faiss-ivf")
    damage(lambda about: about["recall"]["text"].update(share=0.9))(tmp_path)
    for pays, said in ((True, "finds 90% of the ten nearest text rows"), (False, "")):
        monkeypatch.setattr(FaissIvf, "pays", lambda *_, pays=pays: pays)
        capsys.readouterr()
        search(model, "a 3", index=tmp_path, find="text")
        told = capsys.readouterr().err
        assert said in told
        assert bool(told) is bool(said)


@pytest.mark.usefixtures("small")
def test_an_index_without_faiss_is_searched_row_by_row(
    model, tmp_path, capsys, command, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    build_index(model, TEXTS, folder, backend="faiss")
    assert "candidates: faiss, in 1 files" in command("index", "info", folder).out
    expected = [hit.found for hit in search(model, "a 3", index=folder, find="text")]
    monkeypatch.setitem(sys.modules, "faiss", None)
    remedy = r'faiss is not installed; run: pip install "contrastive-kit\[faiss\]"'
    with pytest.raises(MissingExtra, match=remedy):
        build_index(model, TEXTS, tmp_path / "new", backend="faiss-ivf")
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
    assert [hit.found for hit in search(model, "a 3", index=folder, find="text")] == expected
    assert "until then, every row is compared" in capsys.readouterr().err
    update_index(model, [*TEXTS, *rows_of(["new"])], folder)
    assert "until then, rows that are new" in capsys.readouterr().err
    remove_from_index(folder, ["a 7"])
    monkeypatch.undo()
    hits = search(model, "new", index=folder, find="text", k=50)
    assert hits[0].found == "new"
    assert {hit.found for hit in hits} == {"new", *(f"a {i}" for i in range(40) if i != 7)}
