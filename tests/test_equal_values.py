"""Rows with equal values are found in arrays, and are those that a dict finds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contrastive.data import content_index, equal_values
from contrastive.data.columns import Columns, keys_in
from contrastive.data.equal_values import distinct, value_codes
from contrastive.datasets import WebDataset
from contrastive.doctor.run_facts import shared_facts
from contrastive.evaluation.leakage import content_keys, seen_samples
from contrastive.inference.embed import _data_fingerprint
from contrastive.inference.embed_distinct import distinct_rows
from tests.shards import write_shards

IDS = st.integers(0, 2)
TEXTS = st.sampled_from(["", "a", "b", "é", "\ud800"])


@given(st.lists(st.tuples(IDS, TEXTS), min_size=1, max_size=12), st.booleans(), st.booleans())
def test_rows_are_told_apart_as_a_dict_does(pairs, in_columns, collide):
    rows = [{"id": number, "text": text} for number, text in pairs]
    wanted: dict[tuple[int, str], list[int]] = {}
    for i, pair in enumerate(pairs):
        wanted.setdefault(pair, []).append(i)
    if in_columns:
        values = {"text": [text for _, text in pairs], "id": [number for number, _ in pairs]}
        rows = Columns.of(values)
    with pytest.MonkeyPatch.context() as patched:
        if collide:
            patched.setattr(equal_values, "hash", len, raising=False)
        found = distinct_rows(rows, "text")
    assert found.several() == [*wanted.values()]
    assert found.first_Q.tolist() == [several[0] for several in wanted.values()]


def test_what_has_no_value_is_no_sample():
    rows = [{"id": 0, "label": "a"}, {"id": 1}, {"id": 2, "label": "a"}]
    assert value_codes(rows, "label", str).tolist() == [0, -1, 0]
    assert value_codes(Columns.of({"id": [0, 1]}), "label", str).tolist() == [-1, -1]
    assert distinct(np.array([5, 5, -1]), np.array([0, 1, 0])).which_N.tolist() == [0, 1, 2]


def test_a_key_that_no_row_has_is_not_among_them():
    assert keys_in(Columns.of({"id": [0], "label": [None]})) == ["id"]
    assert keys_in([{"id": 0}, {"id": 1, "text": "a"}]) == ["id", "text"]


@pytest.fixture
def shard_rows(tmp_path, monkeypatch):
    """Return rows of a shard, and the statements by which the index is asked from then on."""
    monkeypatch.setattr(content_index, "RESOLUTION", -(10**12))
    write_shards(tmp_path / "s", 1, 12)
    rows = WebDataset(shards=tmp_path / "s", holdout=0).build("train")
    asked: list[str] = []
    real = content_index.ContentIndex._each

    def counted(self, statement, *values):
        asked.append(statement)
        return real(self, statement, *values)

    monkeypatch.setattr(content_index.ContentIndex, "_each", counted)
    return rows, asked


def test_what_is_embedded_is_looked_up_by_shard_not_by_image(shard_rows):
    rows, asked = shard_rows
    found = {"image": distinct_rows(rows, "image").first_Q}
    in_columns = _data_fingerprint(rows, found)
    assert len(asked) == 1
    read = [{**row, "image": row["image"].read()} for row in rows]
    assert _data_fingerprint(read, found) == in_columns


def test_the_doctor_looks_held_out_images_up_by_shard(shard_rows):
    rows, asked = shard_rows
    seen = seen_samples(content_keys(rows, ["image"]))
    asked.clear()
    facts = shared_facts(rows.select([0, 1]), rows, seen)
    assert len(asked) == 1
    source = rows[0]["source"]
    assert facts == {"groups": 12, "known": 12, "by_sample": 12, "first": source}
