"""One or several raw samples, in every form that Python users have them, are embedded as a list."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from contrastive import ContrastiveModel, answer, build_model, caption, classify, compare, rerank
from contrastive.data.images import open_image
from contrastive.data.sample_lists import sample_list
from contrastive.errors import BadSample, SpecError, is_missing
from contrastive.features.cache import FeatureCache
from tests.toys import write_noise

TEXTS = ["a dog", "a cat on a mat", "two birds"]


@pytest.fixture(scope="module")
def model():
    """A network of random weights on images, a bag of words on texts."""
    torch.manual_seed(0)
    towers = {
        "image": {
            "encoder": {"type": "resnet", "width": 8, "image_size": 32},
            "head": {"type": "linear"},
            "frozen": "encoder",
        },
        "text": {"encoder": {"type": "cbow", "width": 16}, "head": {"type": "linear"}},
    }
    return build_model({"embed_dim": 16, "towers": towers, "loss": {"type": "infonce"}}).eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three images as files."""
    return write_noise(tmp_path_factory.mktemp("photos"))


def texts_as():
    pandas, polars = (pytest.importorskip(name) for name in ("pandas", "polars"))
    datasets = pytest.importorskip("datasets")
    frame = pandas.DataFrame({"text": list(reversed(TEXTS))})[::-1]  # its index runs backwards
    return {
        "tuple": tuple(TEXTS),
        "generator": (text for text in TEXTS),
        "keys": dict.fromkeys(TEXTS).keys(),
        "array": np.array(TEXTS),
        "array of objects": np.array(TEXTS, dtype=object),
        "Series": frame["text"],
        "Categorical": frame["text"].astype("category"),
        "arrow strings": frame["text"].convert_dtypes(),
        "Index": pandas.Index(TEXTS),
        "polars": polars.Series(TEXTS),
        "arrow": pytest.importorskip("pyarrow").chunked_array([TEXTS]),
        "hub": datasets.Dataset.from_dict({"text": TEXTS})["text"],
    }


def test_texts_of_every_form_are_those_of_the_list(model):
    expected = model.embed("text", TEXTS)
    for form, texts in texts_as().items():
        assert torch.equal(model.embed("text", texts), expected), form


@pytest.mark.parametrize("one", ["a dog", np.str_("a dog"), np.array("a dog")])
def test_a_bare_text_is_one_sample(model, one):
    assert torch.equal(model.embed("text", one), model.embed("text", ["a dog"]))


def test_a_bare_image_is_one_sample(model, photos):
    path = photos[0]
    expected = model.embed("image", [path])
    image = Image.open(path)
    pixels = np.asarray(image)
    forms = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "BytesIO": io.BytesIO(path.read_bytes()),
        "PIL": image,
        "hub, bytes": {"bytes": path.read_bytes(), "path": None},
        "hub, path": {"bytes": None, "path": str(path)},
        "HWC uint8": pixels,
        "HWC int64": pixels.astype(np.int64),
        "HWC float": pixels / 255,
        "CHW array": pixels.transpose(2, 0, 1),
        "CHW tensor": torch.from_numpy(pixels.transpose(2, 0, 1).copy()),
        "CHW float tensor": torch.from_numpy(pixels.transpose(2, 0, 1).copy()) / 255,
        "HWC tensor": torch.from_numpy(pixels.copy()),
        "RGBA": np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], 2),
    }
    for form, sample in forms.items():
        assert torch.equal(model.embed("image", sample), expected), form
        if form != "BytesIO":  # which would have to be read twice
            assert torch.equal(model.embed("image", [sample]), expected), form
    with path.open("rb") as file:
        assert torch.equal(model.embed("image", file), expected)


def test_images_of_every_form_are_those_of_the_list(model, photos):
    expected = model.embed("image", photos)
    pixels = np.stack([np.asarray(Image.open(path)) for path in photos])
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for images in (tuple(photos), (p for p in photos), np.array(photos), pixels, batch):
        assert torch.equal(model.embed("image", images), expected)


def test_grey_arrays_are_grey_images(model):
    grey = np.random.default_rng(0).integers(0, 256, (40, 48), dtype=np.uint8)
    expected = model.embed("image", [Image.fromarray(grey)])
    for form in (grey, grey[..., None], grey[None], torch.from_numpy(grey)[None], grey / 255):
        assert torch.equal(model.embed("image", form), expected)


@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    channels=st.sampled_from([1, 3, 4]),
    first=st.booleans(),
    as_tensor=st.booleans(),
    as_float=st.booleans(),
)
@settings(deadline=None, max_examples=50)
def test_arrays_are_the_image_that_pil_makes_of_their_pixels(
    size, channels, first, as_tensor, as_float
):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    expected = open_image(Image.fromarray(pixels[..., 0] if channels == 1 else pixels))
    array = pixels / np.float32(255) if as_float else pixels
    array = array.transpose(2, 0, 1) if first else array
    found = open_image(torch.from_numpy(array.copy()) if as_tensor else array)
    assert found.mode == "RGB"
    assert found.tobytes() == expected.tobytes()


def test_an_array_and_its_image_share_a_row_of_the_cache(model, photos, tmp_path):
    cache = FeatureCache(tmp_path)
    image = Image.open(photos[0])
    for form in (image, np.asarray(image), torch.from_numpy(np.array(image))):
        model.embed("image", form, cache=cache)
    (keys,) = tmp_path.glob("features/*/keys.bin")
    assert keys.stat().st_size == 36
    model.embed("image", {"bytes": photos[0].read_bytes()}, cache=cache)  # as a file's content
    model.embed("image", photos[0], cache=cache)
    assert keys.stat().st_size == 72


def refused():
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    polars = pytest.importorskip("polars")
    frame = pandas.DataFrame({"text": TEXTS})
    return [
        ("image", frame, r"a DataFrame has no column 'image'; there are: 'text'; give the values"),
        ("text", polars.LazyFrame({"text": TEXTS}), "a LazyFrame holds no text samples"),
        ("image", datasets.Dataset.from_dict({"text": TEXTS}), "a Dataset has no column 'image'"),
        ("text", DataLoader(TEXTS), "a DataLoader holds no text samples; it has batches"),
        ("text", set(TEXTS), "a set holds no text samples; it has no order"),
        ("text", 7, "an int holds no text samples; give a str, or a list of them"),
        ("text", None, "a NoneType holds no text samples"),
        ("text", torch.arange(5), "a Tensor of numbers holds no text samples; give strings"),
        ("text", np.array([TEXTS, TEXTS]), r"an array of shape \(2, 3\) holds no text samples"),
        ("text", ["a dog", None], "a sample of text cannot be a NoneType|NoneType"),
        ("text", [["a dog"], ["a cat"]], "list"),
        ("image", None, "a NoneType holds no image samples; give one, or a list"),
        ("image", np.zeros((5, 6, 7), np.uint8), r"an array of shape \(5, 6, 7\) is no image"),
        ("image", np.zeros((2, 5, 6, 7), np.uint8), r"an array of shape \(5, 6, 7\) is no image"),
        ("image", np.full((5, 6, 3), 200.0), "float64 values from 200.0 to 200.0 are no image"),
        ("image", torch.randn(3, 8, 8), "are no image; give integers from 0 to 255, or floats"),
        ("image", np.full((5, 6, 3), np.nan), "values from nan to nan are no image"),
        ("image", np.zeros((5, 6, 3), complex), "complex128 values"),
        ("image", np.full((5, 6, 3), 300), "values from 300 to 300 are no image"),
        ("image", np.zeros((0, 6, 3), np.uint8), "is no image"),
        ("image", {"caption": "a dog"}, "a mapping with caption; an image has bytes or path"),
        (
            "image",
            "https://example.org/a.png",
            "addresses are fetched in a column of a table",
        ),
        ("image", [None], "NoneType"),
        ("image", "", "'': no such file"),
        ("image", "a\nb.png", "'a.nb.png': no such file"),
        (
            "text",
            pytest.importorskip("pyarrow").table({"t": TEXTS}),
            "a Table has no column 'text'",
        ),
    ]


def test_what_holds_no_samples_is_refused_in_one_line(model):
    for modality, given_, said in refused():
        with pytest.raises(BadSample, match=said) as error:
            model.embed(modality, given_)
        assert "\n" not in str(error.value)


def test_a_sample_that_is_none_is_told_with_its_place(model, photos):
    image = "sample 1 of 2: image: an int is no image; give a path, a file's bytes, a PIL image or"
    for modality, fine, odd, said in (
        ("text", "a dog", None, "sample 1 of 2: a NoneType is no text; give a str"),
        ("text", "a dog", math.nan, r"sample 1 of 2: nan \(a missing value\) is no text"),
        ("text", "a dog", b"a cat", "sample 1 of 2: a bytes is no text; give a str"),
        ("image", photos[0], 7, image),
    ):
        with pytest.raises(BadSample, match=said):
            model.embed(modality, [fine, odd])
    told: list[tuple[int, str]] = []
    model.embed("text", ["a dog", 7], on_bad=lambda *problem: told.append(problem))
    assert told == [(1, "an int is no text; give a str")]


def test_open_files_are_read_or_refused_in_one_line(model, photos, tmp_path):
    expected = model.embed("image", photos)
    cache = FeatureCache(tmp_path)
    for at_hand in (None, cache, cache):
        files = [path.open("rb") for path in photos]
        assert torch.equal(model.embed("image", files, cache=at_hand), expected)
        for file in files:
            file.close()
        with pytest.raises(BadSample, match=r"0\.png: cannot be read \(.*closed"):
            model.embed("image", files, cache=at_hand)
    for path in (photos[0], tmp_path / "a.txt"):
        path.exists() or path.write_text("not an image")
        with path.open(encoding="utf-8") as text:
            for given in (text, [text]):
                with pytest.raises(BadSample, match="open it with mode 'rb'"):
                    model.embed("image", given)


def test_preprocess_takes_the_forms_of_embed(model, photos):
    of_text, of_image = (model.tower(m).encoder.preprocess for m in ("text", "image"))
    assert of_text("a dog")["words"].tolist() == of_text(["a dog"])["words"].tolist()
    assert of_text(np.array(TEXTS))["words"].tolist() == of_text(TEXTS)["words"].tolist()
    for one in (photos[0], str(photos[0]), np.asarray(Image.open(photos[0]))):
        assert torch.equal(of_image(one)["image"], of_image([photos[0]])["image"])
    seen = []
    given = ContrastiveModel.from_modules(
        {m: torch.nn.Linear(1, 8) for m in ("text", "sound")},
        {m: lambda x: seen.append(x) or torch.ones(len(x), 1) for m in ("text", "sound")},
        embed_dim=8,
    )
    given.tower("text").encoder.preprocess("a dog")
    given.tower("sound").encoder.preprocess(np.zeros(100))
    assert [len(samples) for samples in seen] == [1, 1]
    for preprocess, said in ((of_text, "text"), (of_image, "image")):
        with pytest.raises(BadSample, match=f"there is no {said} sample; give at least 1"):
            preprocess([])
        with pytest.raises(BadSample, match=f"a NoneType holds no {said} samples"):
            preprocess(None)


def test_arrays_of_other_libraries_are_arrays(model, photos):
    class Array:
        """What is not numpy's, but has its protocols, such as an array of JAX."""

        def __init__(self, values):
            self.values, self.ndim = values, values.ndim

        def __iter__(self):
            return iter(self.values)

        def __array__(self, dtype=None, copy=None):
            return self.values

        def __dlpack__(self):
            return self.values.__dlpack__()

    pixels = np.asarray(Image.open(photos[0]))
    assert torch.equal(model.embed("image", Array(pixels)), model.embed("image", pixels))


def test_an_audio_modality_takes_waveforms():
    wave = np.zeros(100, np.float32)
    assert sample_list(wave, "audio")[0] is wave
    assert len(sample_list(np.zeros((4, 100)), "audio")) == 4
    assert sample_list({"array": wave, "sampling_rate": 8000}, "audio")[0]["array"] is wave
    assert sample_list(Path("a.wav"), "audio") == [Path("a.wav")]


def test_every_use_takes_the_forms(model, photos):
    pandas = pytest.importorskip("pandas")
    names = pandas.Series(["dog", "cat"], index=[1, 0])
    pixels = np.stack([np.asarray(Image.open(path)) for path in photos])
    expected = classify(model, photos, ["dog", "cat"])
    assert torch.equal(classify(model, pixels, names), expected)
    alone = classify(model, photos[:1], ["dog", "cat"])
    assert torch.equal(classify(model, str(photos[0]), np.array(["dog", "cat"])), alone)
    found = caption(model, pixels, pandas.Series(TEXTS, index=[2, 0, 1]))
    assert found == caption(model, photos, TEXTS)
    asked = answer(model, pixels[0], "what is it?", names)
    assert torch.equal(asked, answer(model, photos[:1], "what is it?", ["dog", "cat"]))
    assert rerank(model, "a dog", pixels) == rerank(model, "a dog", photos)
    both = compare({"one": model, "two": model}, pixels, (n for n in names))
    assert torch.equal(both.probabilities["two"], expected)
    logits = model.similarity(model.embed("image", photos).numpy(), model.embed("text", TEXTS))
    assert logits.shape == (3, 3)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("dog", r"class 'dog' is not in a list; give a list, such as \['dog'\]"),
        ("dog, cat", r"class 'dog, cat' is not in a list; give .* such as \['dog', 'cat'\]"),
        ([], "give at least one class, in a list"),
        (None, "give at least one class, in a list"),
        (["dog", 7], "class 7 is an int; give a string"),
        (["dog", " "], "class 1 of 2 is empty; leave it out"),
    ],
)
def test_names_that_are_none_are_refused(model, photos, classes, said):
    with pytest.raises(SpecError, match=said):
        classify(model, photos, classes)


def test_what_stands_for_no_value_is_known_from_any_library():
    pandas = pytest.importorskip("pandas")
    missing = [None, math.nan, np.float32("nan"), np.float64("nan"), pandas.NA, pandas.NaT]
    assert all(map(is_missing, missing))
    assert not any(map(is_missing, [0, 0.0, "", "nan", [], np.zeros(2), math.inf, True]))
