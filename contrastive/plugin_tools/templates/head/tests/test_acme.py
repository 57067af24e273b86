import torch
from contrastive.interface import heads
from contrastive.testing import check_component

from contrastive_acme import AcmeHead


def test_a_spec_finds_it_by_its_name():
    assert heads["acme"] is AcmeHead


def test_it_keeps_the_promises_of_a_head():
    check_component(AcmeHead())


def test_the_scale_of_the_features_does_not_matter():
    head = AcmeHead().build(6, 4)
    features = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(features), head(100 * features), rtol=1e-3, atol=1e-3)
