"""Matryoshka: the weighted sum of a loss over widths."""

from __future__ import annotations

import pytest
import torch

from contrastive import ModelSpec
from contrastive.errors import SpecError
from contrastive.losses import InfoNCE, Matryoshka, Sigmoid
from contrastive.losses.functional import infonce
from tests.pair_losses import unit
from tests.row_losses import assert_same, model_with


def test_matryoshka_of_the_whole_width_is_the_loss_within():
    a, b, ids = unit(6, 8), unit(6, 8, seed=1), torch.tensor([0, 0, 1, 2, 3, 4])
    module, inner = Matryoshka(loss=Sigmoid(), widths=(8,)).build(), Sigmoid().build()
    assert module(a, b, ids)[0] == inner(a, b, ids)[0]


def test_matryoshka_is_the_weighted_sum_of_the_widths():
    module = Matryoshka(loss=InfoNCE(), widths=(2, 5, 8), weights=(3, 1, 0.5)).build().double()
    a, b = unit(6, 8).requires_grad_(), unit(6, 8, seed=1).requires_grad_()
    loss, figures = module(a, b)
    expected = 0
    for weight, width in ((3, 2), (1, 5), (0.5, 8)):
        short = [x[:, :width] for x in (a, b)]
        if width < 8:
            short = [x / x.square().sum(1, keepdim=True).sqrt() for x in short]
        of_width = infonce(*short, log_scale=module.log_scale)
        expected = expected + weight * of_width
        torch.testing.assert_close(figures[f"loss_{width}"], of_width.detach())
    assert_same(loss, expected, (a, b, module.log_scale))


def test_a_width_beyond_the_embeddings_is_one_line():
    module = Matryoshka(loss=InfoNCE(), widths=(4, 16)).build()
    with pytest.raises(SpecError) as caught:
        module(unit(3, 8), unit(3, 8))
    assert str(caught.value) == ("matryoshka: width 16 of embeddings that are 8 wide; lower it")


def test_widths_beyond_the_embeddings_are_refused_with_the_spec():
    loss = {"type": "matryoshka", "loss": {"type": "infonce"}, "widths": [4, 16]}
    with pytest.raises(SpecError, match="width 16 of matryoshka is more than embed_dim 8"):
        ModelSpec.model_validate(model_with(loss))
    nested = {"type": "queue", "size": 4, "loss": loss}
    with pytest.raises(SpecError, match="width 16 of matryoshka"):
        ModelSpec.model_validate(model_with(nested))
    ModelSpec.model_validate(model_with(nested, embed_dim=16))
