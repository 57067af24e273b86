"""The store of features on disk: whatever is added, cut off or deleted, no row is wrong."""

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contrastive.features import key_index, parts, store
from contrastive.features.encoder_rows import distinct_keys
from contrastive.features.inventory import encoder_folders
from contrastive.features.key_index import run_names
from contrastive.features.parts import split_locations
from contrastive.features.pruning import removed
from contrastive.features.store import Store
from contrastive.features.table import table_of
from contrastive.features.verification import verify_cache

ABOUT = {"out_dim": 2, "format": 3}
KEYS = 24


def keys_of(numbers):
    """Return keys of which some begin alike, and no bit of one makes another."""
    keys = np.zeros((len(numbers), 32), np.uint8)
    keys[:, 0] = np.array(numbers, np.uint8) // 3 + 1
    for key, number in zip(keys, numbers, strict=True):
        key[8:] = [*hashlib.sha256(bytes([number])).digest()[8:]]
    return keys


def rows_of(numbers):
    return np.array([[number, -number] for number in numbers], np.float32).reshape(-1, 2)


def read(here, numbers):
    """Return the row of each number, None if it is not there."""
    found = here.find(keys_of(numbers))
    places = zip(found.tolist(), *(x.tolist() for x in split_locations(found)), strict=True)
    return [None if at < 0 else here.features(p)[row].tolist() for at, p, row in places]


def make_small(patch):
    """Have parts of three rows or more, an index of each three, merged up to ten."""
    patch.setattr(parts, "PART_BYTES", 3 * 8)
    patch.setattr(key_index, "TAIL", 2)
    patch.setattr(key_index, "MOST_MERGED", 10)


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


@contextmanager
def new_folder():
    """Give a folder for features, where all is small and nothing is flushed."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setattr(os, "fsync", lambda _: None)
        yield Path(place) / "features"


numbers = st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=6, unique=True)
actions = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 1), numbers),
    st.tuples(st.just("find"), st.integers(0, 1), numbers),
    st.tuples(st.just("cut"), st.integers(0, 30), st.floats(0, 1)),
    st.tuples(st.just("flip"), st.integers(0, 30), st.floats(0, 0.999)),
    st.tuples(st.just("prune"), st.just(0), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(actions, max_size=25))
@example(steps=[("append", 0, [0, 1, 3]), ("cut", 0, 0.0), ("cut", 2, 0.0)])
@example(steps=[("append", 0, [0]), ("append", 0, [0]), ("flip", 1, 0.875)])
def test_a_store_is_a_dict_that_damage_makes_forget_and_never_lie(steps):
    with new_folder() as root:
        there, damaged = set(), False
        both = [Store(root, ABOUT) for _ in range(2)]
        for what, which, how in steps:
            if what == "append":
                both[which].append(keys_of(how), rows_of(how))
                there |= {*how}
            elif what == "find":
                for number, row in zip(how, read(both[which], how), strict=True):
                    assert row in (None, [number, -number])
                    assert damaged or (row is not None) == (number in there)
            elif what == "prune":
                [encoder] = encoder_folders(root)
                assert not removed(encoder), "it is in use"
                both.clear()
                assert removed(encoder)
                assert not encoder.folder.exists()
                there, damaged, both = set(), False, [Store(root, ABOUT) for _ in range(2)]
            else:  # the system has crashed, or the disk is bad; nobody has the files mapped
                folder = both[0].folder
                both.clear()
                files = sorted(folder.glob("*.bin"))
                damaged |= bool(files) and spoil(files[which % len(files)], what, how)
                both = [Store(root, ABOUT) for _ in range(2)]
        assert damaged or not verify_cache(root.parent)
        lost = [number for number, row in enumerate(read(both[0], range(KEYS))) if row is None]
        both[1].append(keys_of(lost), rows_of(lost))
        assert read(Store(root, ABOUT), range(KEYS)) == rows_of(range(KEYS)).tolist()
        verify_cache(root.parent, repair=True)
        assert not verify_cache(root.parent)
        assert read(Store(root, ABOUT), range(KEYS)) == rows_of(range(KEYS)).tolist()


def spoil(path, what, how):
    """Cut a file off, or flip a bit of it."""
    data = bytearray(path.read_bytes())
    at = int(how * len(data))
    if what == "cut":
        del data[at:]
    elif data:
        data[at] ^= 1
    path.write_bytes(data)
    return True


@given(
    keys=st.lists(st.sampled_from([0, 1, 2, 255]), min_size=1, max_size=8),
    alike=st.booleans(),
    data=st.data(),
)
def test_samples_are_told_apart_by_whole_keys(keys, alike, data):
    keys_D = np.full((len(keys), 32), 7, np.uint8)
    keys_D[:, 31 if alike else 0] = keys
    whose = st.tuples(st.integers(0, len(keys) - 1), st.booleans())
    samples = data.draw(st.lists(whose, max_size=12))
    which_N = np.array([which for which, _ in samples], np.int64)
    usable_N = np.array([usable for _, usable in samples], np.bool_)
    found = distinct_keys(keys_D, which_N, usable_N)
    given_N = [keys_D[which].tobytes() if usable else None for which, usable in samples]
    expected = sorted({key for key in given_N if key is not None})
    assert [key.tobytes() for key in found.keys_K] == expected
    assert found.first_K.tolist() == [given_N.index(key) for key in expected]
    numbers = {key: number for number, key in enumerate(expected)} | {None: -1}
    assert found.which_N.tolist() == [numbers[key] for key in given_N]


def test_rows_lie_in_parts_of_a_bounded_size_and_a_table_reads_them_all(tmp_path, small):
    here = Store(tmp_path, ABOUT)
    for i in range(0, KEYS, 2):
        here.append(keys_of([i, i + 1]), rows_of([i, i + 1]))
    sizes = {path.name: path.stat().st_size for path in here.folder.glob("features*")}
    assert len(sizes) == KEYS / 4
    assert max(sizes.values()) == 4 * 8
    order = np.random.default_rng(0).permutation(KEYS)
    table = table_of(here.find(keys_of(order)), here.features, 2, here.use)
    assert table[range(KEYS)].tolist() == rows_of(order).tolist()
    assert table[[5, 5, 0]].tolist() == rows_of(order[[5, 5, 0]]).tolist()
    assert table[np.empty(0, np.int64)].shape == (0, 2)
    few = table_of(here.find(keys_of([21, 99, 2])), here.features, 2, here.use)
    assert len(few.parts) == 2, "only what is needed is mapped"
    assert few.good.tolist() == [True, False, True]
    assert few[[2, 0]].tolist() == rows_of([2, 21]).tolist()


def test_few_rows_are_looked_through_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(key_index, "TAIL", 100)
    here, rng = Store(tmp_path, ABOUT), np.random.default_rng(0)
    keys = rng.integers(0, 256, (5_000, 32), np.uint8)
    for some in np.split(keys, 100):
        here.append(some, np.zeros((50, 2), np.float32))
    assert len(run_names(here.folder)) <= 6
    later, read_in = Store(tmp_path, ABOUT), []
    real = parts.Parts.read_records
    monkeypatch.setattr(
        parts.Parts,
        "read_records",
        lambda self, part, a, b: (read_in.append(b - a), real(self, part, a, b))[1],
    )
    assert later.find(keys[:3]).tolist() == [0, 1, 2]
    assert sum(read_in) <= 100
    assert (later.find(keys) == np.arange(5_000)).all()


def test_a_store_of_the_last_release_gets_an_index_and_keeps_its_rows(tmp_path, monkeypatch):
    here = Store(tmp_path, ABOUT)
    here.append(keys_of(range(KEYS)), rows_of(range(KEYS)))
    assert not run_names(here.folder), "few rows need none"
    monkeypatch.setattr(key_index, "TAIL", 10)
    monkeypatch.setattr(parts, "PART_BYTES", 8)
    later = Store(tmp_path, ABOUT)
    assert read(later, range(KEYS)) == rows_of(range(KEYS)).tolist()
    assert len(run_names(here.folder)) == 1
    later.append(keys_of([KEYS]), rows_of([KEYS]))
    assert (here.folder / "features.bin").stat().st_size == KEYS * 8
    assert (here.folder / "features-00001.bin").stat().st_size == 8
    assert read(Store(tmp_path, ABOUT), [KEYS, 0]) == [[KEYS, -KEYS], [0, 0]]


def test_a_store_that_is_deleted_as_it_is_opened_is_made_again(tmp_path, monkeypatch):
    Store(tmp_path, ABOUT).append(keys_of([1]), rows_of([1]))
    real, deleted = store.InUse, []

    def in_use(path, *, wait):
        if not deleted:  # another process prunes, between the two steps of this one
            deleted.append(removed(encoder_folders(tmp_path)[0]))
        return real(path, wait=wait)

    monkeypatch.setattr(store, "InUse", in_use)
    here = Store(tmp_path, ABOUT)
    assert deleted == [True]
    assert read(here, [1]) == [None]
    here.append(keys_of([1]), rows_of([1]))
    assert read(Store(tmp_path, ABOUT), [1]) == [[1, -1]]
    assert [each.outdated for each in encoder_folders(tmp_path)] == [None]


def test_without_the_right_to_write_an_index_rows_are_found(tmp_path, small, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "index")

    monkeypatch.setattr(key_index, "write", refuse)
    here = Store(tmp_path, ABOUT)
    here.append(keys_of(range(KEYS)), rows_of(range(KEYS)))
    assert read(Store(tmp_path, ABOUT), range(KEYS)) == rows_of(range(KEYS)).tolist()


def test_the_disk_is_flushed_once_a_second_and_at_the_end(tmp_path, monkeypatch):
    flushed, clock = [], [0.0]
    monkeypatch.setattr(store.time, "monotonic", lambda: clock[0])
    real = os.fsync
    here = Store(tmp_path, ABOUT)
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append(file), real(file)))
    for i in range(KEYS):
        clock[0] += 0.25
        here.append(keys_of([i]), rows_of([i]))
    files = 3  # features, keys, the folder
    assert len(flushed) == KEYS // 4 * files
    assert here.is_flushed
    clock[0] += 0.25
    here.append(keys_of([KEYS]), rows_of([KEYS]))
    here.flush()
    assert len(flushed) == (KEYS // 4 + 1) * files
    here.flush()
    assert len(flushed) == (KEYS // 4 + 1) * files, "nothing new"
