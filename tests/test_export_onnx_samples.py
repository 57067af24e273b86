"""What an ONNX export says that a sample goes through is what the encoder does to it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torchvision import transforms
from torchvision.transforms.v2 import functional

from contrastive.encoders import CBOW, HFDualText, HFText, TextTransformer
from contrastive.encoders.hf_image import Process
from contrastive.encoders.image_transform import ImageTransform, centre_crop
from contrastive.errors import SpecError
from contrastive.exporters.onnx.image_steps import image_steps, runtime
from contrastive.exporters.onnx.text_steps import text_steps
from tests import duals
from tests.tiny_encoders import TEXTS

pytestmark = pytest.mark.usefixtures("one_seed", "offline")

SHORTER = {"shortest_edge": 24}
SQUARE = {"height": 24, "width": 24}
WIDE = {"height": 16, "width": 40}
NUMBERS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def of_processor(kind, mode="RGB", **options):
    return ImageTransform(Process(getattr(transformers, kind)(**options), mode), "")


def composed(*steps):
    last = transforms.ToTensor(), transforms.Normalize(**NUMBERS)
    return ImageTransform(transforms.Compose([*steps, *last]), "")


BICUBIC = transforms.InterpolationMode.BICUBIC
PREPROCESSES = {
    "ours": lambda: centre_crop(24),
    "timm, crop": lambda: composed(
        transforms.Resize(27, interpolation=BICUBIC), transforms.CenterCrop(24)
    ),
    "timm, squash": lambda: composed(transforms.Resize((16, 40), interpolation=BICUBIC)),
    "an odd crop, larger than the image": lambda: composed(
        transforms.Resize(21), transforms.CenterCrop((25, 61))
    ),
    "CLIP": lambda: of_processor("CLIPImageProcessor", size=SHORTER, crop_size=SQUARE),
    "an odd crop of CLIP": lambda: of_processor(
        "CLIPImageProcessor", size={"shortest_edge": 25}, crop_size={"height": 20, "width": 22}
    ),
    "CLIP, another side": lambda: of_processor(
        "CLIPImageProcessor", size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ),
    "SigLIP": lambda: of_processor("SiglipImageProcessor", size=SQUARE),
    "ViT": lambda: of_processor("ViTImageProcessor", size=WIDE),
    "ConvNeXt, small": lambda: of_processor("ConvNextImageProcessor", size={"shortest_edge": 64}),
    "ConvNeXt, large": lambda: of_processor("ConvNextImageProcessor", size={"shortest_edge": 384}),
    "without normalising": lambda: of_processor(
        "ViTImageProcessor", size=SQUARE, do_normalize=False
    ),
}


@pytest.mark.parametrize("which", PREPROCESSES)
def test_an_image_goes_through_what_is_said(which):
    encoder = SimpleNamespace(preprocess=PREPROCESSES[which](), modality="image")
    steps = image_steps(encoder, "image")
    noise = np.random.default_rng(3)
    for height, width in ((33, 50), (80, 41), (24, 24), (300, 290), (292, 196), (32, 35)):
        image = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        found = runtime().preparation(steps, ".")([image])
        ((name, expected),) = encoder.preprocess([image]).items()
        np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_resizing_with_weights_of_16_bits_is_torch_s_to_the_bit(kind):
    noise = np.random.default_rng(0)
    for old, new in (((50, 70), (24, 24)), ((19, 23), (40, 64)), ((64, 64), (64, 30))):
        pixels = noise.integers(0, 256, (*old, 3), dtype=np.uint8)
        expected = functional.resize(
            torch.from_numpy(pixels).permute(2, 0, 1),
            list(new),
            interpolation=transforms.InterpolationMode(kind),
            antialias=True,
        )
        found = runtime().sixteen_bits(pixels, new[::-1], kind)
        assert np.array_equal(found, expected.permute(1, 2, 0).numpy())


def test_an_image_processor_that_does_more_is_refused_by_name():
    preprocess = of_processor("MobileViTImageProcessor", size=SHORTER, crop_size=SQUARE)
    encoder = SimpleNamespace(preprocess=preprocess, modality="image")
    with pytest.raises(SpecError, match=r"^towers.image: MobileViT\w+ does more to an image"):
        image_steps(encoder, "image")


def said(encoder, folder):
    """Return the function from texts to inputs that an export says."""
    steps, content = text_steps(encoder, "text", "text.tokenizer.json")
    if content is not None:
        (folder / "text.tokenizer.json").write_text(content, encoding="utf-8")
    return runtime().preparation(steps, folder)


def save_siglip(folder):
    duals.save_siglip(folder)
    return HFDualText(name=str(folder))


def save_clip(folder):
    duals.save_clip(folder)
    return HFDualText(name=str(folder))


ENCODERS = {
    "utf8-bytes": lambda models, folder: TextTransformer(width=8, depth=1, heads=1, max_length=20),
    "hashed-words": lambda models, folder: CBOW(width=4, buckets=50, max_length=5),
    "cut off": lambda models, folder: HFText(name=f"{models}/bert", max_length=6),
    "a prompt": lambda models, folder: HFText(name=f"{models}/bert", prompt="the cat "),
    "padded on the left by itself": lambda models, folder: HFText(name=f"{models}/gpt2"),
    "CLIP": lambda models, folder: save_clip(folder / "clip"),
    "SigLIP, which transformers runs as Python": lambda models, folder: save_siglip(
        folder / "siglip"
    ),
}


@pytest.mark.parametrize("which", ENCODERS)
def test_a_text_goes_through_what_is_said(which, models, tmp_path):
    encoder = ENCODERS[which](models, tmp_path).build()
    prepare = said(encoder, tmp_path)
    several = [*TEXTS, "Dogs & cats, 3 of them: \u00fcber na\u00efve!", "cat dog mat " * 200]
    for texts in ([several[0]], several, several[::-1][:2]):
        expected = encoder.preprocess(texts)
        found = prepare(texts)
        for name, tensor in expected.items():
            assert np.array_equal(found[name], tensor.numpy()), name


def test_a_tokenizer_without_words_for_it_is_refused_by_name(models):
    encoder = HFText(name=f"{models}/bert").build()
    words = encoder.preprocess
    encoder.preprocess = lambda texts: words([text[::-1] for text in texts])
    with pytest.raises(SpecError, match=r"^towers.text: function does more, for which"):
        text_steps(encoder, "text", "text.tokenizer.json")
