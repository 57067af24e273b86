import torch
from contrastive.interface import encoders
from contrastive.testing import check_component

from contrastive_acme import AcmeEncoder


def test_a_spec_finds_it_by_its_name():
    assert encoders["acme"] is AcmeEncoder


def test_it_keeps_the_promises_of_an_encoder():
    check_component(AcmeEncoder())


def test_texts_that_share_most_of_their_letters_are_close():
    module = AcmeEncoder().build().eval()
    features = module(**module.preprocess(["a red circle", "two red circles", "ein Vogel"]))
    near, far = torch.cosine_similarity(features[:1], features[1:])
    assert near > far
