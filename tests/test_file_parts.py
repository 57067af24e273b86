"""Parts of a file, such as rows of a table or members of a tar, are read once over many starts."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from contrastive.data import content_index
from contrastive.data.column_kinds import Coded, StoredImages
from contrastive.data.columns import Values
from contrastive.data.content_hash import keys_of, sample_key, sample_keys, short_key, short_keys
from contrastive.data.content_index import ContentIndex, PartsOfFile
from contrastive.data.images import StoredImage
from contrastive.data.row_order import permutation
from contrastive.errors import BadSample
from contrastive.evaluation.leakage import copies_in

SIZE = 4  # bytes of a part


@dataclass(frozen=True)
class Piece(StoredImage):
    """Some bytes of a file."""

    path: str
    number: int
    version: str = ""

    def read(self):
        READS.append(self.number)
        if self.number < 0:
            msg = f"{self.path}: piece {self.number} is broken"
            raise BadSample(msg)
        with Path(self.path).open("rb") as file:
            file.seek(SIZE * self.number)
            return file.read(SIZE)

    @property
    def file_part(self):
        return PartsOfFile(self.path, "pieces", np.array([self.number]), self.version)


READS = []


@dataclass(eq=False)
class Pieces(StoredImages):
    """The rows are the pieces of two files in turn."""

    paths: tuple
    version: str = ""

    def __len__(self):
        return 400

    def at(self, rows_N):
        return [Piece(self.paths[i % 2], i // 2, self.version) for i in rows_N.tolist()]

    def parts(self, rows_N):
        for number, path in enumerate(self.paths):
            which = (rows_N % 2 == number).nonzero()[0]
            yield which, PartsOfFile(path, "pieces", rows_N[which] // 2, self.version)


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """Return what forgets what is in memory, as a new process would."""
    monkeypatch.setenv("CONTRASTIVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content_index, "RESOLUTION", -(10**12))

    def restart():
        content_index.content_index().write()
        content_index._index_in.cache_clear()
        READS.clear()

    restart()
    return restart


@pytest.fixture
def paths(tmp_path):
    paths = tmp_path / "a.bin", tmp_path / "b.bin"
    for number, path in enumerate(paths):
        path.write_bytes(np.arange(number, 400, 4, dtype=np.uint32).tobytes())
    return tuple(map(str, paths))


def alone(column, rows):
    return [content_index.file_hash(piece.read()) for piece in column.at(rows)]


@pytest.mark.parametrize("version", ["", "etag"])
@pytest.mark.parametrize("unwritten", [1, 7, 1000])
def test_parts_have_the_keys_that_their_bytes_have_and_are_read_once(
    paths, restarted, monkeypatch, version, unwritten
):
    monkeypatch.setattr(content_index, "UNWRITTEN", unwritten)
    column = Pieces(paths, version)
    rows = np.array([5, 4, 4, 90, 0, 7, 5])
    expected = alone(column, rows)
    READS.clear()
    assert sample_keys(Values(column, rows), "image") == expected
    more = np.array([*range(40), *rows])
    expected_more = alone(column, more)
    restarted()
    assert sample_keys(Values(column, more), "image") == expected_more
    assert 45 not in READS, "of row 90, which is noted"
    assert len(READS) == 40 - 4
    restarted()
    coded = Coded(column, np.array([3, 2, 3]))
    assert sample_keys(Values(column, more), "image") == expected_more
    assert sample_keys(column.at(more), "image") == expected_more
    assert sample_keys(Values(coded, np.array([2, 1, 0])), "image") == alone(
        column, np.array([3, 2, 3])
    )
    READS.clear()
    assert sample_key(column.at(rows)[0], "image") == expected[0]
    assert short_keys(Values(column, rows), "image").tolist() == [
        short_key(piece, "image") for piece in column.at(rows)
    ]
    assert READS == []


@pytest.mark.parametrize("version", ["", "etag"])
def test_parts_of_a_file_that_has_changed_are_read_again(paths, restarted, version):
    rows = np.arange(20)
    sample_keys(Values(Pieces(paths, version), rows), "image")
    with Path(paths[0]).open("r+b") as file:
        file.write(b"changed")
    restarted()
    column = Pieces(paths, version and "another etag")
    expected = alone(column, rows)
    READS.clear()
    assert sample_keys(Values(column, rows), "image") == expected
    assert len(READS) == (20 if version else 10)


def test_a_file_as_new_as_its_notes_is_not_trusted(paths, restarted, monkeypatch):
    monkeypatch.setattr(content_index, "RESOLUTION", 10**18)
    values = Values(Pieces(paths), np.arange(4))
    sample_keys(values, "image")
    restarted()
    sample_keys(values, "image")
    assert len(READS) == 4


def test_parts_that_cannot_be_read_are_told_and_the_others_have_keys(paths, restarted, tmp_path):
    column = Pieces((paths[0], str(tmp_path / "gone")))
    bad = []
    found = keys_of(Values(column, np.array([0, 1, -2, 2])), "image")
    found.report(lambda i, problem: bad.append((i, problem)))
    assert bad == [
        (1, f"{tmp_path / 'gone'}: cannot be read: No such file or directory"),
        (2, f"{paths[0]}: piece -1 is broken"),
    ]
    assert found.good().tolist() == [True, False, False, True]
    with pytest.raises(BadSample, match="broken"):
        sample_key(Piece(paths[0], -1), "image")


def test_one_look_at_a_file_and_one_query_for_each_are_enough(paths, restarted, monkeypatch):
    values = Values(Pieces(paths), np.arange(100))
    sample_keys(values, "image")
    restarted()
    looked, real = [], content_index.version_of
    monkeypatch.setattr(content_index, "version_of", lambda p: looked.append(p) or real(p))
    queries, each = [], ContentIndex._each
    monkeypatch.setattr(ContentIndex, "_each", lambda *a: queries.append(a) or each(*a))
    sample_keys(values, "image")
    assert looked == [*paths]
    assert len(queries) == 2
    assert READS == []


def test_little_is_held_of_the_files_that_were_looked_up(tmp_path, restarted, monkeypatch):
    monkeypatch.setattr(content_index, "KEPT", 3)
    monkeypatch.setattr(content_index, "UNWRITTEN", 2)
    files = [tmp_path / f"{i}.bin" for i in range(8)]
    for path in files:
        path.write_bytes(path.name.encode())
    index = ContentIndex(tmp_path / "index")
    keys = [index.hash_of(path) for path in files]
    for path in files:
        index.note_problem(index.hash_of(path), path.name)
    assert max(len(index.files), len(index.problems), len(index.new_files)) <= 3
    monkeypatch.setattr(content_index, "read_bounded", lambda *_: pytest.fail("read again"))
    assert [index.hash_of(path) for path in files] == keys
    assert [index.problem_of(key) for key in keys] == [path.name for path in files]


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_an_epoch_has_the_order_that_it_had_with_numbers_of_64_bits(size):
    for epoch in range(3):
        found = permutation(5, epoch, size)
        assert found.dtype == np.int32
        assert (found == np.random.default_rng((5, epoch)).permutation(size)).all()


def test_copies_are_those_of_a_slow_look():
    draw = np.random.default_rng(0)
    for _ in range(20):
        keys, ids = draw.integers(0, 6, 12), draw.integers(0, 2, 12)
        rows = [{"id": int(i), "source": f"row {n}"} for n, i in enumerate(ids)]
        first = {int(key): n for n, key in reversed([*enumerate(keys)])}
        copies = [n for n, key in enumerate(keys) if key and ids[first[int(key)]] != ids[n]]
        lines = copies_in(rows, {"image": keys})
        assert bool(lines) == bool(copies)
        if copies:
            pair = f"row {first[int(keys[copies[0]])]} and row {copies[0]} are equal"
            assert lines[0].startswith(f"{len(copies)} of 12 image rows are copies")
            assert pair in lines[0]
