from contrastive.interface import encoders
from contrastive.testing import check_component
from PIL import Image

from contrastive_acme import AcmeEncoder


def test_a_spec_finds_it_by_its_name():
    assert encoders["acme"] is AcmeEncoder


def test_it_keeps_the_promises_of_an_encoder():
    check_component(AcmeEncoder())


def test_the_width_of_the_features_is_that_of_the_config():
    module = AcmeEncoder(width=8).build().eval()
    images = [Image.new("RGB", size, "red") for size in ((40, 30), (20, 90))]
    assert module(**module.preprocess(images)).shape == (2, 8)
