"""Pictures for words: the ranking, the canvas, the views, and what a painted image is worth."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

import contrastive.inference.generation
from contrastive import build_model, classify
from contrastive.encoders import HFDualImage
from contrastive.errors import BadSample, SpecError
from contrastive.inference.fourier_image import FourierImage, colour_axes, falloff
from contrastive.inference.generation import generate, rerank, total_variation
from contrastive.inference.random_crops import pixels_of, random_views
from contrastive.training.train import train
from tests.duals import save_clip, save_siglip2
from tests.miniature import Picture
from tests.toys import toy_spec

pytestmark = pytest.mark.slow

CAPTIONS = ["a red circle", "a blue square", "a green cross"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a run that has learned colours and shapes a little, with a frozen encoder."""
    folder = tmp_path_factory.mktemp("toy")
    train(toy_spec(folder / "flickr30k", epochs=8), folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def model(folder):
    return contrastive.load_model(folder)


@pytest.fixture(scope="module")
def painted(model):
    return generate(model, CAPTIONS[0], size=48, steps=30, views=3)


@pytest.fixture(scope="module")
def pictures():
    return [Picture(7 * number).draw() for number in range(6)]


def cosine(model, picture, text) -> float:
    image, words = model.embed("image", [picture])[0], model.embed("text", [text])[0]
    return float(image @ words)


LINEAR = {"type": "linear"}
RESNET = {"type": "timm", "name": "test_resnet", "pretrained": False}


def tiny(encoder=RESNET):
    towers = {
        "image": {"encoder": encoder},
        "text": {"encoder": {"type": "cbow", "width": 16, "buckets": 64}},
    }
    for tower in towers.values():
        tower["head"] = LINEAR
    return build_model({"embed_dim": 16, "towers": towers, "loss": {"type": "infonce"}})


# --- ranking


def test_candidates_come_in_the_order_of_their_cosines(model, pictures):
    ranked = rerank(model, "a red circle", pictures)
    expected = [cosine(model, picture, "a red circle") for picture in pictures]
    order = sorted(range(len(pictures)), key=lambda i: -expected[i])
    assert [r.index for r in ranked] == order
    assert [r.cosine for r in ranked] == pytest.approx([expected[i] for i in order], abs=1e-5)
    assert {r.probability for r in ranked} == {1.0}, "there is nothing else to go with"


def test_against_others_the_order_is_that_of_the_probability(model, pictures):
    ranked = rerank(model, CAPTIONS[0], pictures, against=CAPTIONS[1:])
    expected = classify(model, pictures, CAPTIONS, templates=["{}"])[:, 0]
    assert [r.index for r in ranked] == expected.argsort(descending=True, stable=True).tolist()
    assert [r.probability for r in ranked] == pytest.approx(expected.sort(descending=True)[0])


def test_templates_surround_the_prompt(model, pictures):
    inside = rerank(model, "red circle", pictures, templates=["a {}"])
    assert inside == rerank(model, "a red circle", pictures)


def test_candidates_that_are_equal_stay_in_order(model, pictures):
    assert [r.index for r in rerank(model, "a cat", [pictures[0]] * 3)] == [0, 1, 2]
    assert rerank(model, "a cat", []) == []


def test_a_candidate_that_cannot_be_read_is_named(model, pictures):
    with pytest.raises(BadSample, match=r"nonesuch\.png: no such file"):
        rerank(model, "a cat", [*pictures, "nonesuch.png"])


# --- the canvas


def waves(spectrum, size):
    """The slow reference: each frequency adds its cosine and sine, in float64."""
    values = torch.zeros(size, size, dtype=torch.float64)
    for ky in range(size):
        for kx in range(size // 2 + 1):
            cycles = math.hypot(min(ky, size - ky), kx)
            both = 1 if kx == 0 or 2 * kx == size else 2  # a real picture's other half
            amplitude = both / max(cycles, 1) ** contrastive.inference.fourier_image.STEEPNESS
            real, imaginary = spectrum[ky, kx].tolist()
            for y in range(size):
                for x in range(size):
                    angle = 2 * math.pi * (ky * y + kx * x) / size
                    wave = real * math.cos(angle) - imaginary * math.sin(angle)
                    values[y, x] += amplitude * wave
    return values


@pytest.mark.parametrize("size", [6, 7])
def test_a_picture_is_the_sum_of_its_waves_in_mixed_colours(size):
    canvas = FourierImage(size, torch.Generator().manual_seed(1))
    with torch.no_grad():
        canvas.spectrum.mul_(30)
        found = canvas()
    planes = [waves(plane, size) for plane in canvas.spectrum]
    axes = colour_axes().double()
    for channel in range(3):
        mixed = sum(axes[axis, channel] * planes[axis] for axis in range(3))
        torch.testing.assert_close(found[channel].double(), 1 / (1 + (-mixed).exp()))
    assert found.std() > 0.05, "all grey would agree with anything"


def test_the_axes_of_colour_are_orthogonal_and_luminance_is_the_longest():
    axes = colour_axes()
    expected = torch.tensor(contrastive.inference.fourier_image.WIDTHS).square().diag()
    torch.testing.assert_close(axes @ axes.T, expected)
    assert axes[0].std() == 0
    assert axes.norm(dim=1).argmax() == 0


def test_a_wave_is_as_strong_in_a_picture_of_any_size():
    torch.testing.assert_close(falloff(16)[:4, :4], falloff(64)[:4, :4])
    assert falloff(16).max() == 1


# --- the views


@pytest.mark.parametrize(
    "encoder",
    [
        RESNET,
        {"type": "timm", "name": "test_vit", "pretrained": False},
        {"type": "resnet", "width": 8, "image_size": 32},
    ],
    ids=lambda encoder: encoder.get("name", encoder["type"]),
)
def test_the_preprocessing_is_found_out_from_what_it_does(encoder):
    module = tiny(encoder).tower("image").encoder
    pixels = pixels_of(module)
    side = pixels.size[0]
    expected = module.preprocess([Image.new("RGB", (side, side), (9, 77, 200))])["image"]
    colour = torch.tensor([9, 77, 200])[None, :, None, None] / 255
    found = pixels.normalise(colour.expand(1, 3, *pixels.size))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_preprocessing_of_another_kind_is_refused_in_one_line(monkeypatch):
    model = tiny()
    encoder = model.tower("image").encoder
    plain = encoder.preprocess
    bent = {
        "more to colours": lambda samples: {"image": plain(samples)["image"] ** 2},
        "gives|makes of images": lambda samples: plain(samples) | {"places": torch.zeros(1, 2)},
    }
    for said, preprocess in bent.items():
        monkeypatch.setattr(encoder, "preprocess", preprocess)
        with pytest.raises(SpecError, match=said) as caught:
            generate(model, "a cat", size=16, steps=1)
        assert "such as timm" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hf-dual", "hf"])
def test_an_encoder_of_transformers_paints_too(kind, tmp_path):
    clip = str(save_clip(tmp_path / "clip"))
    towers = {
        modality: {"encoder": {"type": f"{kind}-{modality}", "name": clip}, "head": LINEAR}
        for modality in ("image", "text")
    }
    torch.manual_seed(0)
    model = build_model({"embed_dim": 8, "towers": towers, "loss": {"type": "infonce"}})
    made = generate(model, "a red circle", size=32, steps=10, views=2)
    assert made.history[-1].cosine > made.history[0].cosine


def test_patches_with_their_places_are_refused(tmp_path):
    folder = save_siglip2(tmp_path / "siglip2")
    with pytest.raises(SpecError, match="it makes of images: pixel_values"):
        pixels_of(HFDualImage(name=str(folder)).build())


def test_no_two_views_are_alike():
    views = random_views(torch.rand(3, 24, 24), 4, (24, 24), torch.Generator().manual_seed(0))
    assert views.shape == (4, 3, 24, 24)
    assert all((views[i] - views[j]).abs().mean() > 0.05 for i in range(4) for j in range(i))


def test_a_view_that_is_neither_cropped_nor_turned_is_the_picture_or_its_mirror(monkeypatch):
    monkeypatch.setattr(contrastive.inference.random_crops, "SMALLEST", 1)
    monkeypatch.setattr(contrastive.inference.random_crops, "TILT", 0)
    picture = torch.rand(3, 24, 24)
    views = random_views(picture, 8, (24, 24), torch.Generator().manual_seed(0))
    off = torch.stack([(views - p).abs().amax((1, 2, 3)) for p in (picture, picture.flip(2))])
    assert off.amin(0).max() < 1e-4
    assert set(off.argmin(0).tolist()) == {0, 1}


@pytest.mark.parametrize("size", [8, 40])
def test_the_gradient_of_the_views_reaches_every_pixel(size):
    picture = torch.rand(3, size, size, requires_grad=True)
    random_views(picture, 8, (16, 12), torch.Generator().manual_seed(0)).sum().backward()
    assert (picture.grad > 0).all()


# --- painting


def test_the_cosine_rises_above_noise_and_above_that_of_other_prompts(model, painted):
    assert painted.before == pytest.approx(painted.history[0].cosine, abs=0.1)
    assert painted.cosine > painted.before + 0.3
    others = [cosine(model, painted.image, text) for text in CAPTIONS[1:]]
    assert painted.cosine > max(others) + 0.2
    noise = Image.effect_noise((48, 48), 60).convert("RGB")
    assert painted.cosine > cosine(model, noise, CAPTIONS[0]) + 0.3


def test_the_cosine_is_that_of_the_picture_as_it_is_saved(model, painted, tmp_path):
    painted.image.save(tmp_path / "out.png")
    assert painted.image.size == (48, 48)
    found = cosine(model, tmp_path / "out.png", CAPTIONS[0])
    assert painted.cosine == pytest.approx(found, abs=1e-5)


def test_a_seed_gives_the_same_picture_and_another_seed_another(model):
    torch.manual_seed(1)
    first = generate(model, "a cat", size=32, steps=3, views=2)
    torch.manual_seed(2)  # the generator of the program is not used
    again, other = (generate(model, "a cat", size=32, steps=3, views=2, seed=s) for s in (0, 1))
    assert again.image.tobytes() == first.image.tobytes()
    assert again.history == first.history
    assert other.image.tobytes() != first.image.tobytes()


def test_negative_prompts_are_kept_away_from(model):
    def gap(**options) -> float:
        made = generate(model, CAPTIONS[0], size=48, steps=15, views=2, **options)
        return made.cosine - cosine(model, made.image, CAPTIONS[1])

    assert gap(negative=[CAPTIONS[1]]) > gap()


def test_the_model_stays_as_it_is():
    model = tiny()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generate(model, "a cat", size=32, steps=2, views=2)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_interrupted_painting_is_the_best_so_far(model, capsys):
    def stop(step):
        if step.number == 4:
            raise KeyboardInterrupt

    made = generate(model, "a cat", size=32, steps=50, views=2, watch=stop)
    whole = generate(model, "a cat", size=32, steps=4, views=2)
    assert made == whole
    assert "interrupted after 4 of 50 steps" in capsys.readouterr().err


def test_an_interruption_before_the_first_step_has_nothing_to_keep(model, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(contrastive.inference.generation, "random_views", stop)
    with pytest.raises(KeyboardInterrupt):
        generate(model, "a cat", size=32, steps=2)


def test_total_variation_is_the_mean_step_between_neighbours():
    assert total_variation(torch.full((3, 4, 4), 0.3)) == 0
    stripes = torch.tensor([0.0, 1.0]).repeat(2).expand(3, 4, 4)
    assert total_variation(stripes) == 1


@pytest.mark.parametrize(
    ("prompt", "options", "said"),
    [
        (" ", {}, "the prompt is empty"),
        ("a cat", {"size": 8}, "size is 8; give a whole number of at least 16"),
        ("a cat", {"steps": 0}, "steps is 0; give a whole number of at least 1"),
        ("a cat", {"views": 0}, "views is 0; give a whole number of at least 1"),
        ("a cat", {"negative": "a dog"}, "not in a list; give a list, such as ['a dog']"),
        ("a cat", {"negative": ["a cat"]}, "'a cat' is given twice"),
    ],
)
def test_what_cannot_be_painted_is_told_in_one_line(prompt, options, said, model):
    with pytest.raises(SpecError) as caught:
        generate(model, prompt, **options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the command


def test_the_command_saves_a_picture_and_says_its_cosine(folder, command, tmp_path):
    out = tmp_path / "out.png"
    line = ("generate", "a cat", "--output", out, "--size", 32, "--steps", 2, "--views", 2)
    ended = command(*line, "--model", folder, "--json")
    assert ended.code == 0, ended.err
    result = json.loads(ended.out)
    assert result["steps"] == 2
    with Image.open(out) as saved:
        assert saved.size == (32, 32)
    assert result["cosine"] == pytest.approx(
        cosine(contrastive.load_model(folder), out, "a cat"), abs=1e-5
    )


@pytest.mark.parametrize(
    ("output", "said"),
    [("out.xyz", "end its name with one of .jpg"), ("no/out.png", "there is no folder")],
)
def test_a_picture_that_could_not_be_saved_is_not_painted(output, said, command, tmp_path):
    ended = command("generate", "a cat", "--output", tmp_path / output)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
