"""Tar files that are damaged at random: never a traceback, and nothing is left out in silence."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contrastive.data.images import open_image
from contrastive.datasets import WebDataset
from contrastive.errors import BadSample, ContrastiveError
from tests.shards import png, samples, tar

WHOLE = tar(samples(range(4)))
IMAGES = {f"number {i}": png(i) for i in range(4)}
BLOCKS = len(WHOLE) // 512
PLACES = st.integers(0, len(WHOLE) - 1)
ANYWHERE = st.one_of(PLACES, st.integers(0, BLOCKS - 1).map(lambda i: 512 * i))
IN_HEADERS = st.integers(0, 23).flatmap(
    lambda i: st.sampled_from((0, 8, 100, 124, 130, 135, 148, 156, 257, 345)).map(
        lambda at: 512 * i + at
    )
)


def cut(content, place, _):
    return content[:place]


def put(content, place, new):
    return content[:place] + new + content[place + len(new) :]


def insert(content, place, new):
    return content[:place] + new + content[place:]


def delete(content, place, new):
    return content[:place] + content[place + len(new) :]


def forge(content, place, new):
    """Change a header, and let its checksum be right."""
    start = place // 512 * 512
    header = bytearray(put(content, place, new)[start : start + 512].ljust(512, b"\0"))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header) % 8**6:06o}\0 ".encode()
    return put(content, start, bytes(header))


CHANGES = st.tuples(
    st.sampled_from((cut, put, insert, delete, forge, forge)),
    st.one_of(ANYWHERE, IN_HEADERS),
    st.one_of(
        st.binary(min_size=1, max_size=40),
        st.integers(1, 511).map(bytes),
        st.integers(0, 4096).map(lambda n: f"{n:011o}".encode()),
        st.sampled_from((b"S", b"x", b"g", b"L", b"1", b"\x80" + bytes(11), b"\xff" * 12)),
    ),
)


def check(folder, changes):
    content = WHOLE
    for change, place, new in changes:
        content = change(content, place, new)
    path = folder / "mutated.tar"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    told: list[str] = []
    whole = 0
    try:
        rows = WebDataset(shards=path, max_bad=1).build("train+val+test")
        told += rows.bad_rows.lines
        for row in rows:
            try:
                open_image(row["image"])
            except BadSample as error:
                told.append(str(error))
            else:
                whole += row["image"].read() == IMAGES.get(row["text"])
    except ContrastiveError as error:
        told.append(str(error))
    assert all(line.isprintable() for line in told), told
    assert all("mutated.tar" in line for line in told), told
    return whole, told


@pytest.mark.parametrize(
    "examples", [30, pytest.param(1000, marks=[pytest.mark.nightly, pytest.mark.slow])]
)
def test_damage_is_told_in_one_line_with_the_name(tmp_path, examples):
    found = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples == 30,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(CHANGES, min_size=1, max_size=3))
    def mutate(changes):
        whole, told = check(tmp_path, changes)
        kinds = {change for change, *_ in changes}
        if not kinds & {put, forge}:  # which may change a text, or a key, to another one
            assert whole == 4 or told
        found.append(bool(told))

    mutate()
    assert sum(found) > examples / 2
