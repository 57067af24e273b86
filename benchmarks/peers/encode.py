"""Encoding images from files and distinct texts by the same random models, after a warm-up."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.peers import step
from benchmarks.peers.arms import Bar, Work
from benchmarks.peers.inputs import captions, image_folder, image_names, towers
from benchmarks.peers.sizes import sizes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZES = sizes()


def texts(folder: Path) -> list[str]:
    """Return distinct texts, made of the captions."""
    have = captions(folder)
    return [f"{i} {have[i % len(have)]}" for i in range(SIZES.encoded_texts)]


def timed(encode: Callable[[list[str]], object], samples: list[str]) -> float:
    """Return samples a second."""
    encode(samples[: SIZES.batch])
    started = time.perf_counter()
    encode(samples)
    return len(samples) / (time.perf_counter() - started)


def ours(folder: Path, modality: str) -> float:
    """Encode by ``embed`` of a model that a spec builds."""
    from contrastive import ModelSpec, build_model

    spec = {"embed_dim": SIZES.embed_dim, "towers": towers(folder, "identity")}
    model = build_model(ModelSpec.model_validate(spec | {"loss": {"type": "infonce"}}))
    if SIZES.gpu:
        model.to("cuda")
    workers = SIZES.loaders if modality == "image" else 0
    samples = image_names(folder) if modality == "image" else texts(folder)
    return timed(partial(model.embed, modality, workers=workers), samples)


def transformers(folder: Path, modality: str) -> float:
    """Encode by a loop of transformers, images by a DataLoader."""
    import torch
    from torch.nn.functional import normalize
    from transformers import CLIPModel, CLIPProcessor

    device = "cuda" if SIZES.gpu else "cpu"
    model = CLIPModel.from_pretrained(folder / "clip").to(device).eval()
    processor = CLIPProcessor.from_pretrained(folder / "clip")
    image = modality == "image"

    def collate(samples: list[str]) -> dict[str, torch.Tensor]:
        if image:
            from PIL import Image

            opened = [Image.open(name).convert("RGB") for name in samples]
            return dict(processor(images=opened, return_tensors="pt"))
        options = {"return_tensors": "pt", "padding": True, "truncation": True}
        return dict(processor(text=samples, **options))

    @torch.inference_mode()
    def encode(samples: list[str]) -> torch.Tensor:
        loaders = SIZES.loaders if image else 0
        loader = torch.utils.data.DataLoader(
            samples, SIZES.batch, num_workers=loaders, collate_fn=collate
        )
        of = model.get_image_features if image else model.get_text_features
        found = []
        for batch in loader:
            out = of(**{name: tensor.to(device) for name, tensor in batch.items()})
            found.append(normalize(getattr(out, "pooler_output", out)).cpu())
        return torch.cat(found)

    return timed(encode, image_names(folder) if image else texts(folder))


def sentence_transformers(folder: Path, modality: str) -> float:
    """Encode by ``SentenceTransformer.encode``."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder / "clip"), device=None if SIZES.gpu else "cpu")
    samples = image_names(folder) if modality == "image" else texts(folder)
    return timed(partial(model.encode, batch_size=SIZES.batch, normalize_embeddings=True), samples)


WORK = Work(
    title=f"encoding {SIZES.encoded_images:,} images, {SIZES.encoded_texts:,} texts",
    unit="samples/s",
    arms={
        f"{name}, {modality}s": partial(arm, modality=modality)
        for modality in ("image", "text")
        for name, arm in (
            ("ours", ours),
            ("transformers", transformers),
            ("sentence-transformers", sentence_transformers),
        )
    },
    bars=tuple(
        Bar(f"{peer}, {modality}s", 1.0, ours=f"ours, {modality}s")
        for modality in ("image", "text")
        for peer in ("transformers", "sentence-transformers")
    ),
    inputs=(
        image_folder(SIZES.encoded_images),
        step.CLIP,
    ),
)
