"""Malformed inputs from a seed: no traceback, no hang, one line or an answer."""

import pytest

from tests.malformed import SHARES, make_shop, try_cases


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shop")
        patch.setenv("CONTRASTIVE_CACHE", str(folder / "cache"))
        return make_shop(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "cases"), [(0, 30), *(pytest.param(s, 2000, marks=pytest.mark.nightly) for s in (1,))]
)
def test_malformed_inputs_are_one_line(shop, tmp_path, seed, cases):
    found = try_cases(seed, cases, shop, tmp_path / "place")
    assert not found.faults, "\n\n".join(found.faults)
    assert set(found.cases) == set(SHARES)
    assert any(code == 2 for _, code in found.codes), "some are mistakes"
    assert any(code == 0 for _, code in found.codes), "some are none"
