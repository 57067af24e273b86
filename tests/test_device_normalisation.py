"""Images cross processes and buses as bytes; on the device they become what they were."""

from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from contrastive import build_model
from contrastive.data.images import open_image
from contrastive.encoders.device_normalisation import PixelNormalisation, bytes_first
from contrastive.encoders.hf_dual import ProcessImages
from contrastive.encoders.hf_image import Process
from contrastive.encoders.image_transform import ImageTransform, augmentation, centre_crop
from contrastive.reporting.run_log import read_log
from contrastive.spec import TrainingSpec
from contrastive.training import batches, device_copies
from contrastive.training.batches import Batch, TrainingBatches
from contrastive.training.memory import step_memory
from contrastive.training.train import train
from tests.toys import tiny_model, toy_dict, write_noise


def processor(**given):
    from transformers import CLIPImageProcessor

    size, crop = {"shortest_edge": 24}, {"height": 16, "width": 16}
    return CLIPImageProcessor(size=size, crop_size=crop, **given)


def timm_transform():
    from timm.data import create_transform

    return ImageTransform(create_transform((3, 16, 16), is_training=False), "timm")


PREPROCESSES = {
    "ours": lambda: centre_crop(16),
    "crop-flip": lambda: augmentation("crop-flip", 16),
    "simclr, grey": lambda: augmentation("simclr", 16, (0.4,), (0.3,), mode="L"),
    "timm": timm_transform,
    "hf-image": lambda: ImageTransform(Process(processor()), "clip"),
    "hf-dual-image": lambda: ProcessImages(processor(), "clip"),
}
OTHERS = {
    "no normalisation": lambda: ImageTransform(Process(processor(do_normalize=False)), "clip"),
    "another order": lambda: ImageTransform(lambda _: torch.ones(3, 4, 4), "ones"),
    "no transform of ours": lambda: open_image,
}


@pytest.mark.parametrize("name", PREPROCESSES)
def test_bytes_become_the_same_pixels(tmp_path, name):
    preprocess = PREPROCESSES[name]()
    raw, normalise = bytes_first(preprocess)
    paths = write_noise(tmp_path)
    torch.manual_seed(0)
    expected = preprocess(paths)
    torch.manual_seed(0)
    found = raw(paths)
    [(key, pixels)] = expected.items()
    assert found[key].dtype == torch.uint8
    assert 4 * found[key].nbytes == pixels.nbytes
    same = normalise(found)[key]
    assert same.dtype == pixels.dtype
    if name.startswith("hf"):
        torch.testing.assert_close(same, pixels, rtol=1e-6, atol=1e-6)
    else:
        assert torch.equal(same, pixels)


@pytest.mark.parametrize("name", OTHERS)
def test_what_ends_otherwise_stays_as_it_is(name):
    assert bytes_first(OTHERS[name]()) is None


@dataclass(frozen=True)
class Claims:
    """A preprocess that says of itself how it ends, rightly or not."""

    std: float

    def __call__(self, samples):
        return {"x": self.bytes_first()[1](Bytes()(samples))["x"] * 0.5 / self.std}

    def bytes_first(self):
        return Bytes(), PixelNormalisation(255.0, [0.5] * 3, [0.5] * 3)


class Bytes:
    def __call__(self, samples):
        return {"x": torch.stack([pil_to_tensor(image) for image in samples])}


@pytest.mark.parametrize(("std", "right"), [(0.5, True), (0.5001, False)])
def test_a_normalisation_is_tried_before_it_is_used(std, right):
    assert (bytes_first(Claims(std)) is not None) == right


def live(data, **settings):
    spec = toy_dict(data, **{"epochs": 13} | settings)
    encoder = {"type": "resnet", "width": 4, "image_size": 16, "augment": "crop-flip"}
    spec["model"]["towers"]["image"] |= {"encoder": encoder, "frozen": "none"}
    spec["evaluation"] = {"split": None}
    return spec


def losses(run):
    return [line["loss"] for line in read_log(run / "log.jsonl") if "loss" in line]


@pytest.mark.slow
def test_fifty_steps_with_bytes_are_those_without(tmp_path, monkeypatch):
    """On a CPU every bit is the same; a GPU may round the last one otherwise."""
    spec = live(tmp_path / "data")
    train(spec, tmp_path / "pixels")
    monkeypatch.setattr(batches, "takes_bytes", lambda _: True)
    seen, real = set(), TrainingBatches._batch

    def noted(self, *args):
        found = real(self, *args)
        seen.update((m, x.dtype) for m, [v] in found.inputs.items() for x in v.values())
        return found

    monkeypatch.setattr(TrainingBatches, "_batch", noted)
    train(spec, tmp_path / "bytes")
    assert ("image", torch.uint8) in seen
    assert len(losses(tmp_path / "bytes")) == 52
    assert losses(tmp_path / "bytes") == losses(tmp_path / "pixels")
    a, b = (load_file(tmp_path / run / "model/model.safetensors") for run in ("pixels", "bytes"))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_micro_batches_of_bytes_have_the_same_gradients(tmp_path, monkeypatch):
    spec = live(tmp_path / "data", micro_batch=5, batch_norm="eval", epochs=1)
    train(spec, tmp_path / "pixels")
    monkeypatch.setattr(batches, "takes_bytes", lambda _: True)
    train(spec, tmp_path / "bytes")
    assert losses(tmp_path / "bytes") == losses(tmp_path / "pixels")


def test_the_memory_of_a_step_with_bytes_is_estimated(tmp_path):
    model = build_model(tiny_model("infonce"))
    encoder = model.tower("image").encoder
    raw, normalise = bytes_first(encoder.preprocess)
    texts = model.tower("text").encoder.preprocess(["a", "b c", "d"])
    inputs = {"image": [raw(write_noise(tmp_path))], "text": [texts]}
    batch = Batch(torch.arange(3), list("abc"), inputs=inputs, convert={"image": normalise})
    found = step_memory(model, batch, TrainingSpec(), rows=8, dtype=None)
    assert found.activations["image"] > 0


class Stream:
    """Stands for a stream of a GPU; notes what is asked of it."""

    def __init__(self, *_):
        self.waited_for = []

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_batches_go_to_a_gpu_from_pinned_memory_without_waiting(monkeypatch, micro_batch):
    steps, side, calls, used = Stream(), Stream(), [], []
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: side)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: steps)
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: calls.append("pin") or x)
    monkeypatch.setattr(Tensor, "to", lambda x, *a, **how: calls.append(how) or x)
    monkeypatch.setattr(Tensor, "record_stream", lambda x, stream: used.append(stream))
    view = {"image": torch.zeros(4, 3, 2, 2, dtype=torch.uint8)}
    batch = Batch(
        torch.arange(4), list("abcd"), {"text": torch.zeros(4, 8)}, {"image": [view, view]}
    )
    settings = TrainingSpec(micro_batch=micro_batch)
    device = torch.device("cuda", 0)
    [found] = device_copies.copied_to(device, iter([batch]), settings)
    tensors = 2 if micro_batch else 3  # ids and features; the image once for both views
    assert calls.count("pin") == 3
    assert calls.count({"non_blocking": True}) == tensors
    assert steps.waited_for == [side]
    assert found.sources == batch.sources
    assert [*device_copies.copied_to(torch.device("cpu"), iter([batch]), settings)] == [batch]
