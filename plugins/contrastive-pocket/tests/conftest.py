import pytest
import torch
from PIL import Image

from contrastive.interface import encoders

NAMES = ["efficientnet-lite0", "minilm"]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def built():
    return {name: encoders[name]().build().eval() for name in NAMES}


@pytest.fixture(params=NAMES)
def module(request, built):
    return built[request.param]


@pytest.fixture
def samples():
    gradient = Image.linear_gradient("L")
    circle = Image.radial_gradient("L")
    image = [
        Image.merge("RGB", (gradient, circle, gradient.rotate(90))),
        Image.merge("RGB", (circle, circle, gradient)).resize((300, 180)),
        circle.resize((40, 90)),
    ]
    text = ["a cat", "", "three kittens asleep on an unmistakably handwoven rug"]
    return {"image": image, "text": text}


@pytest.fixture
def embed():
    @torch.inference_mode()
    def run(module, samples):
        return module(**module.preprocess(samples))

    return run
