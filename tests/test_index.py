"""An index finds what a loop over all vectors finds, embeds nothing twice, refuses damage."""

from __future__ import annotations

import json
import random
import re
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from contrastive import (
    ContrastiveModel,
    Index,
    add_to_index,
    build_index,
    build_model,
    remove_from_index,
    search,
    update_index,
)
from contrastive.errors import ContrastiveError, DataError, SpecError
from contrastive.indexes import writer
from contrastive.indexes.index_file import About, DataOf, ModelOf
from contrastive.indexes.segments import Row, listed_file
from contrastive.indexes.writer import Place, writing
from contrastive.inference import embed
from tests.miniature import Picture
from tests.toys import tiny_model


def rows_of(texts, labels=None):
    labels = labels or ["even" if i % 2 == 0 else "odd" for i in range(len(texts))]
    return [
        {"text": text, "id": i, "source": f"row {i}", "label": label}
        for i, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]


TEXTS = rows_of([f"a {i}" for i in range(12)])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(tiny_model("infonce"))


@pytest.fixture
def embedded(monkeypatch):
    """Return a list that gets the samples which a model embeds."""
    seen = []
    embed = ContrastiveModel.embed

    def noted(self, modality, samples, **about):
        seen.extend(samples)
        return embed(self, modality, samples, **about)

    monkeypatch.setattr(ContrastiveModel, "embed", noted)
    return seen


def stored(folder, pieces, numbers=()):
    """Write vectors as an index of texts, a segment for each piece; ``numbers`` are deleted."""
    new = About(
        model=ModelOf(sha256="0" * 64),
        dim=pieces[0].shape[1] if pieces else 4,
        data=[DataOf(name="data")],
        segments=[],
    )
    start = 0
    with writing(folder, new=new) as writer:
        for piece in pieces:
            made = [
                Row(bytes(32), 0, i, f"row {i}", f"text {i}", {"third": i % 3, "even": i % 2 == 0})
                for i in range(start, start + len(piece))
            ]
            writer.add("text", made, piece)
            start += len(piece)
        writer.commit()
        places = [Place(n, i) for n, piece in enumerate(pieces) for i in range(len(piece))]
        writer.delete([places[number] for number in numbers])
        writer.commit()
    return Index(folder)


CONDITIONS = {
    "third=1": lambda i: i % 3 == 1,
    "third>=1": lambda i: i % 3 >= 1,
    "third!=2": lambda i: i % 3 != 2,
    "even=true": lambda i: i % 2 == 0,
    "sample=text 1*": lambda i: str(i).startswith("1"),
    "id<5": lambda i: i < 5,
}


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_an_index_finds_what_a_loop_over_all_vectors_finds(data):
    """With equal vectors, conditions and deleted rows, in segments of any size."""
    draw = data.draw
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    distinct = normalize(torch.randn(draw(st.integers(1, 12)), 4, generator=generator), dim=1)
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    which = torch.randint(len(distinct), (sum(sizes),), generator=generator)
    vectors = distinct[which]  # many stand several times
    numbers = draw(st.sets(st.integers(0, sum(sizes) - 1), max_size=sum(sizes) - 1))
    where = draw(st.lists(st.sampled_from([*CONDITIONS]), max_size=2))
    k = draw(st.integers(1, 30))
    queries = normalize(torch.randn(200, 4, generator=generator), dim=1)
    queries[::7] = vectors[torch.randint(len(vectors), (29,), generator=generator)]
    with tempfile.TemporaryDirectory() as place:
        index = stored(Path(place), vectors.split(sizes), numbers)
        assert len(index) == sum(sizes) - len(numbers)
        left = [
            i
            for i in range(sum(sizes))
            if i not in numbers and all(CONDITIONS[name](i) for name in where)
        ]
        scores = (queries.double()[:, None] * vectors[left].double()[None]).sum(2)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        found = index.search(queries, "text", k=k, where=where)
    for query, hits in enumerate(found):
        assert [hit.row.id for hit in hits] == [left[i] for i in order[query].tolist()]
        expected = scores[query, order[query]].float().tolist()
        assert [hit.similarity for hit in hits] == expected


def test_an_empty_index_and_one_of_a_single_vector(tmp_path):
    one = stored(tmp_path / "one", [normalize(torch.ones(1, 4), dim=1)])
    (found,) = one.search(normalize(torch.ones(1, 4), dim=1), "text")
    assert [(hit.row.source, round(hit.similarity, 5)) for hit in found] == [("row 0", 1.0)]
    assert one.search(torch.empty(0, 4), "text") == []
    assert one.search(normalize(torch.ones(1, 4), dim=1), "text", where=["third=2"]) == [[]]
    remove_from_index(tmp_path / "one", ["row 0"])
    for empty in (Index(tmp_path / "one"), stored(tmp_path / "empty", [])):
        assert (len(empty), empty.modalities) == (0, [])
        with pytest.raises(DataError, match="has no rows of 'text'; it is empty"):
            empty.search(torch.ones(1, 4) / 2, "text")


def test_a_second_build_embeds_nothing(model, tmp_path, embedded):
    first = build_index(model, TEXTS, tmp_path / "index")
    assert (first.added, first.removed, first.encoded, len(embedded)) == (12, 0, 12, 12)
    state = (tmp_path / "index" / "index.json").read_bytes()
    again = build_index(model, TEXTS, tmp_path / "index")
    assert (again.added, again.removed, again.encoded, len(embedded)) == (0, 0, 0, 12)
    assert (tmp_path / "index" / "index.json").read_bytes() == state
    assert again.index.damages() == []


def test_an_update_embeds_what_is_new_and_drops_what_is_gone(model, tmp_path, embedded):
    build_index(model, TEXTS, tmp_path / "index")
    embedded.clear()
    changed = [*TEXTS[2:], *rows_of(["new"])]
    changed[0] = changed[0] | {"label": "other"}
    found = update_index(model, changed, tmp_path / "index")
    assert embedded == ["new"], "a row with another label has the same content"
    assert (found.added, found.removed, found.changed) == (1, 2, 1)
    assert len(found.index) == 11
    fresh = build_index(model, changed, tmp_path / "fresh").index
    query = model.embed("text", ["a 7"])
    both = [index.search(query, "text", k=20)[0] for index in (found.index, fresh)]
    assert len({str([(hit.similarity, hit.row.key) for hit in hits]) for hits in both}) == 1
    renamed = [row | {"source": f"other {row['source']}"} for row in changed]
    assert update_index(model, renamed, tmp_path / "index").encoded == 0


def test_what_is_removed_is_not_found_and_comes_back_without_being_embedded(
    model, tmp_path, embedded
):
    build_index(model, TEXTS, tmp_path / "index")
    assert remove_from_index(tmp_path / "index", ["a 3", "row 4"]).removed == 2
    found = remove_from_index(tmp_path / "index", where=["label=even", "id>6"])
    assert found.removed == 2
    assert {hit.row.id for hit in found.index.search(model.embed("text", ["a"]), "text", k=99)[0]}
    assert len(found.index) == 8
    with pytest.raises(DataError, match="has no a 3; give a path, a text or a source it has"):
        remove_from_index(tmp_path / "index", ["a 3"])
    with pytest.raises(SpecError, match="say which rows go"):
        remove_from_index(tmp_path / "index")
    embedded.clear()
    assert update_index(model, TEXTS, tmp_path / "index").added == 4
    assert embedded == []


def test_other_data_are_added_once(model, tmp_path, embedded):
    build_index(model, TEXTS[:2], tmp_path / "index")
    embedded.clear()
    more = rows_of(["a 1", "b", "b", "b"])
    assert add_to_index(model, more, tmp_path / "index", data="more").added == 4
    assert embedded == ["b"], "one content of three groups"
    with pytest.raises(DataError, match="has more already; contrastive index update"):
        add_to_index(model, more, tmp_path / "index", data="more")
    with pytest.raises(DataError, match="is an index of data, more; to add other, contrastive"):
        build_index(model, more, tmp_path / "index", data="other")
    found = update_index(model, more[1:], tmp_path / "index", data="more")
    assert (found.removed, len(found.index)) == (1, 5)
    with pytest.raises(DataError, match="say which of its data these are: data, more"):
        update_index(model, more, tmp_path / "index")


def test_search_in_an_index_is_search_in_its_samples(model, tmp_path, capsys):
    for number in range(6):
        Picture(number).draw().save(tmp_path / f"{number}.png")
    rows = [
        {"image": tmp_path / f"{i}.png", "text": f"a {i}", "id": i, "source": f"{i}"}
        for i in range(6)
    ]
    index = build_index(model, rows, tmp_path / "index").index
    assert repr(index).endswith("6 image, 6 text)")
    for query, about in (("a 2", {}), (tmp_path / "2.png", {}), ("a 2", {"find": "text"})):
        among = search(model, query, samples=rows, k=4, **about)
        assert search(model, query, index=index, k=4, **about) == among
        assert search(model, query, index=tmp_path / "index", k=4, **about) == among
    assert search(model, "a 2", index=index, where=["text=b", "id=1"]) == []
    said = f"{tmp_path / 'index'}: no image meets text=b and id=1"
    assert said in capsys.readouterr().err
    (hit,) = search(model, "a 2", index=index, where=["text=a 4"])
    assert hit.sample == tmp_path / "4.png"
    torch.manual_seed(1)
    with pytest.raises(DataError, match="another model made this index"):
        search(build_model(tiny_model("infonce")), "a 2", index=index)
    with pytest.raises(DataError, match="give one of them"):
        search(model, "a 2", index=index, samples=rows)
    with pytest.raises(DataError, match="conditions need an index"):
        search(model, "a 2", samples=rows, where=["id=1"])
    with pytest.raises(SpecError, match="calibrate"):
        search(model, "a 2", index=index, min_precision=0.9)
    with pytest.raises(SpecError, match="has no column labl; it has id, source, sample, text"):
        search(model, "a 2", index=index, where=["labl=1"])


def test_many_small_segments_are_joined(model, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SEGMENT_ROWS", 8)
    for n in range(1, 13):
        found = build_index(model, TEXTS[:n], tmp_path / "index")
    assert len(found.index.about.segments) <= writer.SMALL + 1
    hits = found.index.search(model.embed("text", ["a 0"]), "text", k=20)[0]
    assert sorted(hit.row.id for hit in hits) == [*range(12)]
    assert found.index.damages() == []


def test_whoever_reads_keeps_what_was_there_and_one_process_writes(model, tmp_path, monkeypatch):
    before = build_index(model, TEXTS, tmp_path / "index").index
    remove_from_index(tmp_path / "index", where=["id>=1"])
    assert len(before.search(model.embed("text", ["a"]), "text", k=20)[0]) == 12
    monkeypatch.setattr(writer, "WAIT", 0.01)
    with (
        writing(tmp_path / "index"),
        pytest.raises(DataError, match="another process writes this index; wait until it is done"),
        writing(tmp_path / "index"),
    ):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds no index\.json; give another folder"):
        build_index(model, TEXTS, tmp_path / "other")


def damage(change):
    """Return a change of ``index.json`` that is made with its data."""

    def made(folder):
        path = folder / "index.json"
        about = json.loads(path.read_text())
        change(about)
        path.write_text(json.dumps(about))

    return made


def cut(pattern, share):
    def made(folder):
        (path,) = folder.glob(pattern)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return made


def refill(value):
    """Return what fills the vectors with a value, and lists the file as it is then."""

    def made(folder):
        from safetensors.torch import load_file, save_file

        (path,) = folder.glob("*.safetensors")
        tensors = {name: x.clone().fill_(value) for name, x in load_file(path).items()}
        save_file(tensors, path)
        listed = listed_file(path).model_dump()
        damage(lambda about: about["segments"][0].update(vectors=listed))(folder)

    return made


def with_text(text):
    return lambda folder: (folder / "index.json").write_text(text)


DAMAGES = {
    "no file": (lambda folder: (folder / "index.json").unlink(), "holds no index.json"),
    "truncated": (cut("index.json", 0.6), "not a JSON file"),
    "empty": (cut("index.json", 0), "not a JSON file"),
    "foreign": (with_text('{"a": [1, 2]}'), "cannot be read: model: Field required"),
    "list": (with_text("[1]"), "cannot be read: needs a mapping of fields"),
    "huge": (with_text('{"next": 1e400, "dim": ' + "9" * 400 + "}"), "index.json: "),
    "deep": (with_text("[" * 100_000), "not a JSON file"),
    "newer": (damage(lambda x: x.update(format=9)), "a newer release wrote it"),
    "format": (damage(lambda x: x.update(format="a")), "cannot be read: format"),
    "backend": (damage(lambda x: x.update(backend="magic")), "backend"),
    "dim": (damage(lambda x: x.update(dim=9)), "not 12 rows of 9 floats"),
    "rows": (damage(lambda x: x["segments"][0].update(rows=13)), "not 13 rows"),
    "many rows": (damage(lambda x: x["segments"][0].update(rows=10**12)), "less than or equal"),
    "deleted": (damage(lambda x: x["segments"][0].update(deleted=[12])), "no ascending numbers"),
    "twice": (
        damage(lambda x: x["segments"].append(x["segments"][0])),
        "lists text-000000 several",
    ),
    "path": (damage(lambda x: x["segments"][0].update(modality="../x")), "should match pattern"),
    "next": (damage(lambda x: x.update(next=0)), "not below 0"),
    "no data": (damage(lambda x: x.update(data=[])), "names no data"),
    "no vectors": (
        lambda f: next(f.glob("*.safetensors")).unlink(),
        "is listed, but cannot be read",
    ),
    "no table": (lambda f: next(f.glob("*.parquet")).unlink(), "is listed, but cannot be read"),
    "short vectors": (cut("*.safetensors", 0.5), "bytes, "),
    "short table": (cut("*.parquet", 0.5), "bytes, "),
    "NaN": (refill(float("nan")), "vectors that are not of length 1"),
    "infinite": (refill(float("inf")), "vectors that are not of length 1"),
    "long": (refill(1e30), "vectors that are not of length 1"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_index_is_one_line(name, model, tmp_path):
    build_index(model, TEXTS, tmp_path / "index")
    change, said = DAMAGES[name]
    change(tmp_path / "index")
    with pytest.raises(DataError) as error:
        search(model, "a 1", index=tmp_path / "index")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_byte_that_changed_is_found(model, tmp_path):
    index = build_index(model, TEXTS, tmp_path / "index").index
    (path,) = (tmp_path / "index").glob("*.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert index.damages() == [
        f"{path}: is not as it was written; build the index in another folder "
        "(contrastive index build)"
    ]
    with pytest.raises(DataError, match="another checksum than the one that is listed"):
        search(model, "a 1", index=tmp_path / "index")


def mutated(content, draw):
    """Return bytes that somebody's disk, program or ill will has changed."""
    change = draw.choice(["flip", "cut", "insert", "number", "key"])
    at = draw.randrange(len(content))
    if change == "cut":
        return content[:at]
    if change == "insert":
        return content[:at] + draw.randbytes(draw.randrange(1, 9)) + content[at:]
    if change == "number":
        weird = draw.choice([b"-1", b"1e999", b"9" * 30, b"null", b"NaN", b"[]", b'"x"', b"0.5"])
        return re.sub(rb"\b\d+\b", weird, content, count=draw.randrange(1, 9))
    if change == "key":
        return content.replace(draw.choice([b"rows", b"deleted", b"model", b"id", b"key"]), b"x")
    return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]


@pytest.mark.parametrize("listed", [False, True], ids=["as it was listed", "listed anew"])
def test_a_mutated_file_is_one_line_or_an_answer(listed, model, tmp_path):
    """200 cases each; files whose checksum is listed anew are those of ill will."""
    build_index(model, TEXTS, tmp_path / "whole")
    remove_from_index(tmp_path / "whole", ["a 3"])
    draw = random.Random(7)
    query, told = model.embed("text", ["a 1"]), []
    names = ["index.json", "text-000000.safetensors", "text-000000.parquet"]
    for number in range(200):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / names[1 + number % 2 if listed else number % 3]
        path.write_bytes(mutated(path.read_bytes(), draw))
        if listed:
            kind = "vectors" if path.suffix == ".safetensors" else "table"
            new = {kind: listed_file(path).model_dump()}
            damage(lambda about, new=new: about["segments"][0].update(new))(folder)
        try:
            for where in ([], ["label=odd"]):
                hits = Index(folder).search(query, "text", where=where)[0]
                assert all(abs(hit.similarity) <= 1.001 for hit in hits)
            build_index(model, TEXTS, folder)
        except ContrastiveError as error:
            told.append(str(error).partition(str(folder)))
        shutil.rmtree(folder)
    assert len(told) > 50
    assert all(place and "\n" not in before + after for before, place, after in told)


def test_what_an_interrupted_build_has_embedded_is_used_by_the_next(
    model, tmp_path, monkeypatch, embedded
):
    monkeypatch.setattr("contrastive.inference.embed.SHARD_ROWS", 4)
    write_shard = embed.write_shard

    def ended(folder, model, job, **about):
        if job.number == 2:
            raise KeyboardInterrupt
        write_shard(folder, model, job, **about)

    monkeypatch.setattr("contrastive.inference.embed.write_shard", ended)
    with pytest.raises(KeyboardInterrupt):
        build_index(model, TEXTS, tmp_path / "index")
    monkeypatch.setattr("contrastive.inference.embed.write_shard", write_shard)
    assert len(Index(tmp_path / "index")) == 0
    assert len(embedded) == 8
    changed = [*TEXTS[1:], *rows_of(["new"])]  # meanwhile
    found = build_index(model, changed, tmp_path / "index")
    assert sorted(embedded) == sorted(row["text"] for row in (*TEXTS, changed[-1]))
    assert (len(found.index), found.encoded) == (12, 5)
    assert not (tmp_path / "index" / ".encoding").exists()
    fresh = build_index(model, changed, tmp_path / "fresh").index
    query = model.embed("text", ["a 7"])
    both = [index.search(query, "text", k=20)[0] for index in (found.index, fresh)]
    assert [hit.similarity for hit in both[0]] == [hit.similarity for hit in both[1]]


def test_verbs_of_the_command_line_need_no_model_while_it_is_there(
    model, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CONTRASTIVE_MODEL", raising=False)
    model.save("saved")
    for number in range(6):
        place = tmp_path / "photos" / ("odd" if number % 2 else "even")
        place.mkdir(parents=True, exist_ok=True)
        Picture(number).draw().save(place / f"{number}.png")
    built = command("index", "build", "photos", "-o", "found", "-m", "saved", "--json")
    assert json.loads(built.out)["encoded"] == 6
    asked = command("search", "red", "--index", "found", "--where", "label=odd", "--json")
    assert {hit["source"] for hit in json.loads(asked.out)} == {
        "odd/1.png",
        "odd/3.png",
        "odd/5.png",
    }
    assert "model: saved" in asked.err
    (tmp_path / "photos" / "even" / "0.png").unlink()
    Picture(9).draw().save(tmp_path / "photos" / "new.png")
    told = command("index", "update", "found")
    assert "1 added, 1 removed" in told.out, told
    assert "; 1 embedded" in told.out
    assert command("index", "remove", "found", "photos/new.png", "--json").code == 0
    about = json.loads(command("index", "info", "found", "--verify", "--json").out)
    assert (about["rows"], about["damages"]) == ({"image": 5}, [])
    (tmp_path / "saved").rename(tmp_path / "elsewhere")
    assert command("index", "remove", "found", "--where", "id>=0").code == 0
    empty = command("search", "red", "--index", "found", "-m", "elsewhere")
    assert (empty.code, "it is empty" in empty.err) == (2, True)
    assert command("index", "update", "found", "-m", "elsewhere").code == 0
    lost = command("search", "red", "--index", "found")
    assert lost.code == 2
    assert "its model is no longer at" in lost.err
    assert command("search", "red", "--index", "found", "-m", "elsewhere").code == 0
    both = command("search", "red", "--index", "found", "--images", "photos")
    assert (both.code, "not both" in both.err) == (2, True)


def test_data_that_a_foreign_index_names_are_not_imported(model, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile.py").write_text("raise SystemExit('imported')")
    model.save("saved")
    Picture(1).draw().save(tmp_path / "1.png")
    command("index", "build", "type=class-folders,folder=.", "-o", "found", "-m", "saved")
    damage(lambda about: about["data"][0].update(text="type=hostile:Data"))(tmp_path / "found")
    refused = command("index", "update", "found", "-m", "saved")
    assert refused.code == 2
    assert "hostile:Data" in refused.err
