"""Pooling against a loop over the tokens."""

import pytest
import torch

from contrastive.encoders.pooling import first_token, last_token, masked_mean

pytestmark = pytest.mark.usefixtures("one_seed")


@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_agrees_with_a_loop_over_the_tokens(side):
    lengths, longest = [1, 4, 3, 6], 6
    hidden, mask = torch.randn(4, longest, 5), torch.zeros(4, longest, dtype=torch.long)
    expected = {"mean": [], "first": [], "last": []}
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else longest - length
        tokens = [hidden[row, start + i] for i in range(length)]
        mask[row, start : start + length] = 1
        expected["mean"].append(sum(token.double() for token in tokens).div(length).float())
        expected["first"].append(tokens[0])
        expected["last"].append(tokens[-1])
    hidden[mask == 0] = float("nan")
    torch.testing.assert_close(masked_mean(hidden, mask), torch.stack(expected["mean"]))
    assert torch.equal(first_token(hidden, mask), torch.stack(expected["first"]))
    assert torch.equal(last_token(hidden, mask), torch.stack(expected["last"]))
