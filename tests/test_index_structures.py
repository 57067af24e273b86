"""Structures of an index find candidates: scores stay exact, and what is missed is measured."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from contrastive import Index, build_index, build_model, remove_from_index, search, update_index
from contrastive.errors import DataError, SpecError
from contrastive.indexes.index_file import Small
from contrastive.indexes.segments import listed_file
from contrastive.indexes.small_vectors import SmallVectors
from contrastive.indexes.structures import refresh
from contrastive.indexes.vector_form import Form
from contrastive.indexes.writer import writing
from tests.test_index import damage, rows_of, stored
from tests.toys import tiny_model

FORMS = [
    Small(dim=64, quantize="int8"),
    Small(dim=64, quantize="binary"),
    Small(dim=48, quantize=None),
    Small(dim=40, quantize="int8"),
    Small(dim=40, quantize="binary"),
]
TEXTS = rows_of([f"a {i}" for i in range(12)])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


def clustered(count, generator, wide=64):
    """Return vectors around few directions, of which the first numbers say most."""
    centers = torch.randn(20, wide, generator=generator)
    near = centers[torch.randint(20, (count,), generator=generator)]
    near = near + 0.3 * torch.randn(count, wide, generator=generator)
    return normalize(near * torch.linspace(2, 0.2, wide), dim=1)


def searched_by(folder, small, backend="exact"):
    with writing(Path(folder)) as writer:
        writer.search_by(backend, small)
        writer.commit()
        refresh(writer)
    return Index(folder)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_is_found_is_scored_exactly_and_most_of_it_is_found(data):
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    sizes = draw(st.lists(st.integers(1, 400), min_size=1, max_size=4))
    vectors = clustered(sum(sizes), generator)
    gone = draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=sum(sizes) // 3))
    where = draw(st.sampled_from([[], ["third=1"], ["even=true"], ["id<5"]]))
    k = draw(st.integers(1, 20))
    queries = clustered(15, generator)
    with tempfile.TemporaryDirectory() as place:
        stored(Path(place), vectors.split(sizes), gone)
        expected = Index(place).search(queries, "text", k=k, where=where)
        index = searched_by(place, draw(st.sampled_from(FORMS)))
        assert index.about.structures
        assert index.about.recall["text"].share >= 0.97
        for query, hits, found in zip(
            queries, expected, index.search(queries, "text", k=k, where=where), strict=True
        ):
            ids = [hit.row.id for hit in found]
            assert len({*ids}) == len(ids) == len(hits)
            assert not gone & {*ids}
            exact = (query.double() * vectors[ids].double()).sum(1).float()
            assert [hit.similarity for hit in found] == exact.tolist()
            assert exact.equal(exact.sort(descending=True).values)


def test_candidates_are_those_of_the_stored_form(tmp_path):
    """Searched by the form that ``embed`` stores, restored."""
    generator = torch.Generator().manual_seed(0)
    vectors, queries = clustered(300, generator), clustered(20, generator)
    for about in FORMS:
        form = Form(about.dim, about.quantize)
        kind = SmallVectors(form)
        opened = kind.open(kind.build(vectors.split(100)), vectors.split(100))
        scores, numbers = opened.candidates(queries, 5, None, 2)
        cut = normalize(queries[:, : about.dim], dim=1)
        if about.quantize:
            cut = form.restored(form.stored(cut))
        slow = cut.double() @ form.restored(form.stored(vectors)).double().T
        best = slow.topk(10).values
        assert slow.gather(1, numbers) == pytest.approx(best, abs=0.02)
        assert scores == pytest.approx(best, abs=0.02)
        if about.quantize == "binary":
            assert scores == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_rows_that_come_and_go(number, model, tmp_path):
    form = FORMS[number]
    dim = 8 if form.quantize == "binary" else form.dim // 8
    folder = tmp_path / "index"
    built = build_index(model, TEXTS, folder, dim=dim, quantize=form.quantize or None)
    small = built.index.about.small
    assert (small is None) == (dim == 8 and form.quantize is None)
    changed = update_index(model, [*TEXTS[3:], *rows_of(["new"])], folder)
    assert changed.index.about.small == small
    remove_from_index(folder, ["a 5"])
    found = search(model, "new", index=folder, find="text", k=30)
    assert found[0].found == "new"
    assert {hit.found for hit in found} == {"new", *(f"a {i}" for i in range(3, 12) if i != 5)}
    again = build_index(model, [*TEXTS[3:], *rows_of(["new"])], folder)
    assert (again.encoded, again.index.about.small) == (0, small)
    exact = build_index(model, TEXTS[3:], folder, backend="exact").index
    assert (exact.about.small, exact.about.structures, exact.about.recall) == (None, [], {})
    build_index(model, TEXTS[3:], folder)  # sweeps
    assert not [*folder.glob("*.small.*")]


def test_a_structure_that_cannot_be_used_is_told_and_made_again(model, tmp_path, capsys):
    folder = tmp_path / "index"
    built = build_index(model, TEXTS, folder, quantize="int8")

    def place():
        return folder / Index(folder).about.structures[0].file_name

    tensors, content = load_file(place()), place().read_bytes()
    expected = [hit.found for hit in search(model, "a 3", index=folder, find="text", k=20)]

    def others(**changed):
        save_file(tensors | changed, place())
        listed = listed_file(place()).model_dump()
        damage(lambda about: about["structures"][0].update(file=listed))(folder)

    for change, said in [
        (lambda: place().unlink(), "is gone"),
        (lambda: place().write_bytes(content[:50]), "damaged"),
        (lambda: others(scale=torch.ones(3)), "no tensor 'scale'"),
        (lambda: others(embeddings=tensors["embeddings"].float()), "no tensor 'embeddings'"),
    ]:
        change()
        capsys.readouterr()
        found = [hit.found for hit in search(model, "a 3", index=folder, find="text", k=20)]
        assert found == expected
        told = capsys.readouterr().err
        assert said in told, told
        assert "contrastive index update makes it again" in told
        assert build_index(model, TEXTS, folder).encoded == 0
        capsys.readouterr()
        search(model, "a 3", index=folder, find="text", k=20)
        assert said not in capsys.readouterr().err
        assert load_file(place())["embeddings"].equal(tensors["embeddings"])
    # a byte that changed is found by --verify, and by the next change
    content = bytearray(place().read_bytes())
    content[-1] ^= 1
    place().write_bytes(content)
    (line,) = Index(folder).damages()
    assert str(place()) in line
    build_index(model, TEXTS, folder)
    assert Index(folder).damages() == []
    assert built.index.about.recall["text"].queries == 12


def test_structures_that_do_not_fit_are_refused(model, tmp_path):
    build_index(model, TEXTS, tmp_path / "index", quantize="int8")
    text = (tmp_path / "index" / "index.json").read_text()
    for change in (
        {"covers": [0, 0]},
        {"covers": [7]},
        {"covers": []},
        {"number": 0},
        {"number": 99},
        {"modality": "image"},
        {"kind": "../x"},
    ):
        damage(lambda about, change=change: about["structures"][0].update(change))(
            tmp_path / "index"
        )
        with pytest.raises(DataError, match=r"index\.json: "):
            Index(tmp_path / "index")
        (tmp_path / "index" / "index.json").write_text(text)


def test_what_is_asked_for_has_to_be_there(model, tmp_path):
    for about, said in [
        ({"backend": "magic"}, "backend is 'magic'"),
        ({"quantize": "int4"}, "quantize is 'int4'"),
        ({"dim": 9}, "dim: 9 is more than the 8"),
        ({"dim": 0}, "dim is 0"),
        ({"dim": 7, "quantize": "binary"}, "give dim=8"),
    ]:
        with pytest.raises(SpecError, match=said):
            build_index(model, TEXTS, tmp_path / "index", **about)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("small", [*FORMS, Small(dim=1, quantize=None)], ids=str)
def test_recall_is_that_of_other_queries(small, tmp_path):
    """The queries are of other clusters, as those of another modality are."""
    generator = torch.Generator().manual_seed(0)
    vectors, queries = clustered(3000, generator), clustered(75, generator)
    stored(tmp_path, vectors.split(1000))
    best = [{hit.row.id for hit in hits} for hits in Index(tmp_path).search(queries, "text")]
    index = searched_by(tmp_path, small)
    found = [hits for some in queries.split(15) for hits in index.search(some, "text")]
    share = sum(
        len(ids & {hit.row.id for hit in hits}) for ids, hits in zip(best, found, strict=True)
    ) / (10 * len(best))
    assert share >= 0.95
    assert index.about.recall["text"].share >= 0.97


def test_a_search_that_misses_much_says_so(model, tmp_path, command):
    model.save(tmp_path / "saved")
    folder = tmp_path / "index"
    build_index(model, TEXTS, folder, quantize="int8")
    shown = command("index", "info", str(folder)).out
    assert "recall@10 of text: 1.000, of 12 text rows as queries, effort 4" in shown
    assert "candidates: 8 numbers, int8, in 1 files" in shown
    damage(lambda about: about["recall"]["text"].update(share=0.9))(folder)
    asked = ("search", "5", "--index", str(folder), "-m", str(tmp_path / "saved"))
    told = command(*asked)
    assert "finds 90% of the ten nearest text rows" in told.err, told
    assert "finds 90% of" in command("search", "a 5", "--index", str(folder), "--like").err
    assert build_index(model, TEXTS, folder, backend="exact").encoded == 0
    assert "nearest" not in command(*asked).err
