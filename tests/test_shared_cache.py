"""Several processes fill one feature cache: each has what is right, and nothing is kept twice."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from contrastive.features import cache as features
from contrastive.features import store
from contrastive.features.cache import FeatureCache
from contrastive.features.parts import RECORD
from contrastive.features.store import Store
from contrastive.nn import device
from tests.test_feature_cache import Linear, Spec

PATIENCE = 60  # seconds
TEXTS = [letter * count for letter in "abcdef" for count in range(1, 5)]
ALL = range(len(TEXTS))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("contrastive.nn.device.CPU_BATCH", 4)
    monkeypatch.setattr("contrastive.features.cache.check_foreign", lambda *_, **__: None)


def keys_in(folder):
    [path] = (folder / "features").glob("*/keys.bin")
    keys = np.fromfile(path, RECORD)["key"].tolist()
    return [key for key in keys if any(key)]


def test_what_another_process_has_added_meanwhile_is_not_added_again(tmp_path):
    one, other = (FeatureCache(tmp_path) for _ in range(2))
    module, real = Linear(), Linear.forward

    def forward(counts):
        del module.forward
        with torch.inference_mode(mode=False):
            other.table(Spec(), Linear(), TEXTS[: len(TEXTS) // 2])
        return real(module, counts)

    module.forward = forward
    found = one.table(Spec(), module, TEXTS)
    torch.testing.assert_close(found[ALL], encoded_alone(tmp_path / "alone"))
    assert len(keys_in(tmp_path)) == len({*keys_in(tmp_path)}) == len(TEXTS)


def test_a_row_that_is_damaged_is_added_again(tmp_path):
    about = {"out_dim": 2}
    keys, rows = np.full((1, 32), 7, np.uint8), np.ones((1, 2), np.float32)
    Store(tmp_path, about).append(keys, rows)
    [path] = tmp_path.glob("*/features.bin")
    path.write_bytes(b"\1" * 8)
    here = Store(tmp_path, about)
    here.append(keys, rows)  # which others have added, but not whole
    assert here.find(keys).tolist() == [1]
    assert here.features(0)[1].tolist() == [1, 1]


def encoded_alone(folder):
    return FeatureCache(folder).table(Spec(), Linear(), TEXTS)[ALL]


def until(path):
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def fill(folder, first):
    """Fill the cache in ``folder``; the first process is killed as it holds the lock."""
    device.CPU_BATCH, features.check_foreign = 4, lambda *_, **__: None
    writes, real = [], store._write_at

    def write(descriptor, *args):
        writes.append(1)
        if first and len(writes) == 4:  # the features of a batch are there, their keys are not
            (folder / "dying").touch()
            until(folder / "coming")
            os.kill(os.getpid(), signal.SIGKILL)
        real(descriptor, *args)

    store._write_at = write
    if not first:
        locked = store.locked

        def waited(path, *, wait):
            (folder / "coming").touch()
            return locked(path, wait=wait)

        until(folder / "dying")
        store.locked = waited
    found = encoded_alone(folder / "cache")
    np.save(folder / "found.npy", found.numpy())


def find_all(folder):
    """Find all rows in the cache, without encoding any."""
    silent = Linear()
    features.check_foreign = lambda *_, **__: None
    FeatureCache(folder).table(Spec(), silent, TEXTS)
    assert silent.preprocess.seen == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_process_that_is_killed_as_it_adds_rows_harms_no_other(tmp_path, forkserver):
    both = [forkserver.Process(target=fill, args=(tmp_path, first)) for first in (True, False)]
    for process in both:
        process.start()
    for process in both:
        process.join(PATIENCE)
    assert [process.exitcode for process in both] == [-signal.SIGKILL, 0]
    expected = encoded_alone(tmp_path / "alone")
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "found.npy")), expected)
    keys = keys_in(tmp_path / "cache")
    assert len(keys) == len({*keys}) == len(TEXTS)
    later = forkserver.Process(target=find_all, args=(tmp_path / "cache",))
    later.start()
    later.join()
    assert later.exitcode == 0
