"""A training step: one random CLIPModel, the same images, captions and batch, towers trained.

Each arm trains from files, with its own loading of data; two processes load. The rate is that of
the steps after the first ones, by a hook behind each step of any optimizer of torch.
"""

from __future__ import annotations

import json
import shutil
import time
from typing import TYPE_CHECKING, Any

from benchmarks.peers.arms import Bar, Work
from benchmarks.peers.inputs import (
    IMAGE_SIZE,
    captions,
    clip_folder,
    image_folder,
    image_names,
    towers,
)
from benchmarks.peers.sizes import sizes

if TYPE_CHECKING:
    from pathlib import Path

SIZES = sizes()
LEARNING_RATE = 1e-4


class StepTimes:
    """When each step of an optimizer ended."""

    def __init__(self) -> None:
        """Listen to all optimizers of this process."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        self.ends: list[float] = []
        register_optimizer_step_post_hook(lambda *_: self.ends.append(time.perf_counter()))

    def rate(self) -> float:
        """Return samples a second after the first steps."""
        steps = len(self.ends) - 1 - SIZES.warm_steps
        return steps * SIZES.batch / (self.ends[-1] - self.ends[SIZES.warm_steps])


def ours(folder: Path) -> float:
    """Train by a spec that names what the others are told, and defaults otherwise."""
    from contrastive import RunSpec, train

    spec = RunSpec.model_validate(
        {
            "model": {
                "embed_dim": SIZES.embed_dim,
                "towers": towers(folder, "identity"),
                "loss": {"type": "infonce"},
            },
            "data": {"type": "image-folder", "folder": str(folder / "images")},
            "training": {"batch_size": SIZES.batch, "epochs": SIZES.epochs, "lr": LEARNING_RATE},
            "evaluation": {"split": None},
        }
    )
    times = StepTimes()
    shutil.rmtree(folder / "run", ignore_errors=True)
    train(spec, folder / "run")
    return times.rate()


def plain_loop(folder: Path) -> float:
    """Train by a loop as in the documentation of transformers."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    device = "cuda" if SIZES.gpu else "cpu"
    model = CLIPModel.from_pretrained(folder / "clip").to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=SIZES.gpu)
    rows = Pairs(folder, CLIPProcessor.from_pretrained(folder / "clip"))
    loader = torch.utils.data.DataLoader(
        rows,
        SIZES.batch,
        shuffle=True,
        drop_last=True,
        num_workers=SIZES.loaders,
        collate_fn=rows.collate,
        pin_memory=SIZES.gpu,
        persistent_workers=True,
    )
    times = StepTimes()
    for _ in range(SIZES.epochs):
        for batch in loader:
            inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            with torch.autocast(device, torch.bfloat16, enabled=SIZES.gpu):
                loss = model(**inputs, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            loss.item()
    return times.rate()


class Pairs:
    """Images and captions of a plain loop."""

    def __init__(self, folder: Path, processor: Any) -> None:
        """Read the table."""
        self.processor = processor
        self.rows = list(zip(image_names(folder), captions(folder), strict=True))

    def __len__(self) -> int:
        """Return how many pairs there are."""
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        """Open an image."""
        from PIL import Image

        name, caption = self.rows[index]
        return Image.open(name).convert("RGB"), caption

    def collate(self, rows: list[tuple[Any, str]]) -> dict[str, Any]:
        """Return the inputs of the model."""
        images, texts = zip(*rows, strict=True)
        options = {"return_tensors": "pt", "padding": True, "truncation": True}
        return dict(self.processor(text=list(texts), images=list(images), **options))


def sentence_transformers(folder: Path) -> float:
    """Train by the trainer of sentence-transformers."""
    model = sentence_transformer(folder)
    optimizer = "adamw_torch_fused" if SIZES.gpu else "adamw_torch"
    times = StepTimes()
    trainer(
        model, folder, "images", SIZES.epochs, learning_rate=LEARNING_RATE, optim=optimizer
    ).train()
    return times.rate()


def sentence_transformer(folder: Path) -> Any:
    """Return the CLIP as a model of sentence-transformers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder / "clip"), device=None if SIZES.gpu else "cpu")


def trainer(model: Any, folder: Path, images: str, epochs: int, **arguments: Any) -> Any:
    """Return a trainer of sentence-transformers on a folder of images; it saves nothing."""
    from datasets import Dataset, Image
    from sentence_transformers import SentenceTransformerTrainer, losses
    from sentence_transformers import SentenceTransformerTrainingArguments as Arguments

    columns = {"anchor": image_names(folder, images), "positive": captions(folder, images)}
    return SentenceTransformerTrainer(
        model=model,
        args=Arguments(
            output_dir=str(folder / "sentence-transformers"),
            num_train_epochs=epochs,
            per_device_train_batch_size=SIZES.batch,
            report_to="none",
            save_strategy="no",
            bf16=SIZES.gpu,
            use_cpu=not SIZES.gpu,
            dataloader_drop_last=True,
            dataloader_num_workers=SIZES.loaders,
            **arguments,
        ),
        train_dataset=Dataset.from_dict(columns).cast_column("anchor", Image()),
        loss=losses.MultipleNegativesSymmetricRankingLoss(model),
    )


def open_clip(folder: Path) -> float:
    """Train by open_clip's own command a model of its own of the same sizes."""
    import open_clip as library
    from open_clip_train.main import main

    vision = {
        "image_size": IMAGE_SIZE,
        "layers": SIZES.layers,
        "width": SIZES.width,
        "patch_size": 32,
        "head_width": 64,
    }
    text = {"context_length": 77, "vocab_size": 49408, "layers": SIZES.layers}
    text |= {"width": SIZES.text_width, "heads": SIZES.text_width // 64}
    (folder / "open_clip").mkdir(exist_ok=True)
    config = {"embed_dim": SIZES.embed_dim, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip" / "same-size.json").write_text(json.dumps(config))
    library.add_model_config(folder / "open_clip" / "same-size.json")
    table = folder / "open_clip" / "pairs.tsv"
    pairs = zip(image_names(folder), captions(folder), strict=True)
    table.write_text("filepath\ttitle\n" + "".join(f"{a}\t{b}\n" for a, b in pairs))
    times = StepTimes()
    options = {
        "train-data": table,
        "dataset-type": "csv",
        "model": "same-size",
        "batch-size": SIZES.batch,
        "epochs": SIZES.epochs,
        "lr": LEARNING_RATE,
        "warmup": 0,
        "workers": SIZES.loaders,
        "precision": "amp_bf16" if SIZES.gpu else "fp32",
        "device": "cuda" if SIZES.gpu else "cpu",
        "logs": folder / "open_clip" / "logs",
        "save-frequency": 0,
        "grad-clip-norm": 1.0,
    }
    main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    return times.rate()


CLIP = clip_folder(
    SIZES.tower(SIZES.width) | {"patch_size": 32}, SIZES.tower(SIZES.text_width), SIZES.embed_dim
)
WORK = Work(
    title=f"training step, CLIP, {SIZES.layers} layers {SIZES.width} wide, batch {SIZES.batch}",
    unit="samples/s",
    arms={
        "ours": ours,
        "plain loop": plain_loop,
        "sentence-transformers": sentence_transformers,
        "open_clip": open_clip,
    },
    bars=(
        Bar("sentence-transformers", 1.3 if SIZES.gpu else 1.2),
        Bar("plain loop", 1.15 if SIZES.gpu else 1.1),
    ),
    inputs=(
        image_folder(SIZES.pairs),
        CLIP,
    ),
)
