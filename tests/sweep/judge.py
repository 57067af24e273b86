"""What is asked of an encoder: that it does what the library that it comes from does."""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from PIL import Image

from contrastive import build_model, load_model
from contrastive.errors import ContrastiveError
from tests.duals import CAPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contrastive.encoders import Encoder

Outcome = Literal["right", "wrong", "traceback", "refused", "not made"]
TEXTS = [*CAPTIONS[:3], "?", "red", "green cross " * 300]
CLOSE = 1e-4  # of the largest number, or of 1


@dataclass(frozen=True)
class Candidate:
    """An encoder and what the library itself makes of a sample."""

    encoder: Encoder
    theirs: Callable[[Any], torch.Tensor]
    """The features ``[1, F]`` of one sample, alone; if it fails, ours is to refuse it, too."""
    texts: list[str] | None = None
    """Samples of a text encoder, of which the last is longer than any model takes."""


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate."""

    outcome: Outcome
    reason: str = ""


class Wrong(Exception):
    """Features, weights or a saved model are not what they should be."""


def verdict(make: Callable[[Path], Candidate], folder: Path) -> Verdict:
    """Make a candidate in a folder, and judge it."""
    try:
        torch.manual_seed(0)
        candidate = make(folder)
    except ContrastiveError as error:
        return Verdict("refused", str(error))
    except Exception as error:  # of any library
        return Verdict("not made", _line(error))
    try:
        samples = candidate.texts or TEXTS if candidate.encoder.modality == "text" else images()
        with torch.no_grad():
            expected = torch.cat([candidate.theirs(sample) for sample in samples])
        check(bool(expected.isfinite().all()), "the library's own features are not finite")
    except Exception as error:
        return _judged(candidate.encoder.build) or Verdict("not made", _line(error))
    ours = partial(judge, candidate.encoder, samples, expected, folder / "ours")
    return _judged(ours) or Verdict("right")


def _judged(ours: Callable[[], Any]) -> Verdict | None:
    """Return what we do wrong, or refuse."""
    try:
        ours()
    except Wrong as error:
        return Verdict("wrong", str(error))
    except ContrastiveError as error:
        outcome = "refused" if "\n" not in str(error) else "traceback"
        return Verdict(outcome, str(error))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return Verdict("traceback", f"{_line(error)} ({frame.name}:{frame.lineno})")
    return None


def judge(encoder: Encoder, samples: list[Any], expected: torch.Tensor, folder: Path) -> None:
    """Insist that features are the expected ones, alone, together, frozen and loaded again."""
    model = build_model(_spec(encoder)).eval()
    tower = model.tower(encoder.modality)
    module = tower.encoder
    with torch.no_grad():
        alone = torch.cat([module(**module.preprocess([sample])) for sample in samples])
        together = module(**module.preprocess(samples[::-1])).flip(0)
    check(alone.shape == expected.shape, f"{[*alone.shape]} for {[*expected.shape]}")
    close(alone, expected, "features are not the library's")
    close(together, alone, "features depend on the batch")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    model.train()
    tower(**module.preprocess(samples[:2]))
    for name, tensor in module.state_dict().items():
        check(torch.equal(tensor, before.get(name, tensor)), f"{name} changes while frozen")
    model.eval()
    embedded = model.embed(encoder.modality, samples)
    model.save(folder)
    del model, tower, module
    gc.collect()
    again = load_model(folder).embed(encoder.modality, samples)
    check(torch.equal(embedded, again), "embeddings differ when saved and loaded")


def check(condition: bool, message: str) -> None:
    """Raise ``Wrong`` unless the condition holds."""
    if not condition:
        raise Wrong(message)


def close(found: torch.Tensor, expected: torch.Tensor, message: str) -> None:
    """Raise ``Wrong`` unless two tensors differ by rounding alone."""
    gap = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))
    check(gap < CLOSE, f"{message}, by {gap:.2g} of the largest")


def images() -> list[Image.Image]:
    """Return images of several shapes."""
    noise = torch.Generator().manual_seed(1)
    return [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), generator=noise).byte().numpy())
        for h, w in [(240, 320), (300, 300), (90, 50)]
    ]


def _spec(encoder: Encoder) -> dict[str, Any]:
    other = {"type": "cbow", "width": 8, "buckets": 8}
    if encoder.modality == "text":
        other = {"type": "resnet", "width": 4, "image_size": 32}
    head = {"type": "linear"}
    towers = {
        encoder.modality: {"encoder": encoder, "head": head, "frozen": "encoder"},
        "image" if encoder.modality == "text" else "text": {"encoder": other, "head": head},
    }
    return {"towers": towers, "embed_dim": 8, "loss": {"type": "infonce"}}


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
