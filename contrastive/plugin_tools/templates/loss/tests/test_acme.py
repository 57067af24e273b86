import torch
from contrastive.interface import infonce, losses
from contrastive.testing import check_component
from torch.nn.functional import normalize

from contrastive_acme import AcmeLoss


def batch():
    generator = torch.Generator().manual_seed(0)
    a, b = normalize(torch.randn(2, 5, 8, generator=generator), dim=-1)
    return a, b, torch.tensor([0, 1, 1, 2, 3])


def test_a_spec_finds_it_by_its_name():
    assert losses["acme"] is AcmeLoss


def test_it_keeps_the_promises_of_a_loss():
    check_component(AcmeLoss())


def test_without_a_margin_it_is_infonce():
    a, b, ids = batch()
    module = AcmeLoss(margin=0).build()
    loss, _ = module(a, b, ids)
    expected = infonce(a, b, ids, log_scale=module.log_scale)
    torch.testing.assert_close(loss, expected)


def test_a_margin_makes_the_loss_larger():
    a, b, ids = batch()
    small, _ = AcmeLoss(margin=0.1).build()(a, b, ids)
    large, _ = AcmeLoss(margin=0.3).build()(a, b, ids)
    assert small < large
