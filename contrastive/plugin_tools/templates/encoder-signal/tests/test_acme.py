import math

import torch
from contrastive.interface import encoders
from contrastive.testing import check_component

from contrastive_acme import AcmeEncoder

SIGNALS = [[math.sin(t / period) for t in range(50 * period)] for period in (1, 2, 3)]


def test_a_spec_finds_it_by_its_name():
    assert encoders["acme"] is AcmeEncoder


def test_it_keeps_the_promises_of_an_encoder():
    check_component(AcmeEncoder(), samples=SIGNALS)


def test_a_constant_has_the_same_features_at_any_length():
    module = AcmeEncoder().build().eval()
    short, long = module(**module.preprocess([[1.0] * 20, [1.0] * 90]))
    torch.testing.assert_close(short, long)
