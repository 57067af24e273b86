"""Images, captions and random models in a folder, the same for all arms; made once."""

from __future__ import annotations

import csv
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORDS = [
    *("a", "two", "red", "old", "young", "man", "woman", "dog", "ball", "kite", "sea", "sand"),
    *("hill", "boat", "runs", "jumps", "sits", "near", "under", "with", "the", "on", "small"),
]
VOCABULARY = 2000
SIDE = 256  # of the JPEG files
IMAGE_SIZE = 224
CAPTIONS = "captions.csv"
START, END = "<|startoftext|>", "<|endoftext|>"


def image_names(folder: Path, images: str = "images") -> list[str]:
    """Return the paths of the images, in the order of the captions."""
    return [str(folder / images / row["image"]) for row in _rows(folder / images)]


def captions(folder: Path, images: str = "images") -> list[str]:
    """Return the captions, one for each of ``image_names``."""
    return [row["text"] for row in _rows(folder / images)]


def image_folder(count: int) -> Callable[[Path], None]:
    """Return what writes so many JPEG files of 256 x 256, and a table with a caption for each."""

    def make(folder: Path) -> None:
        import numpy as np
        from PIL import Image

        target = folder / "images"
        target.mkdir(parents=True, exist_ok=True)
        drawn = random.Random(0)
        with (target / CAPTIONS).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["image", "text", "split"])
            for i in range(count):
                small = np.random.default_rng(i).integers(0, 256, (12, 12, 3), dtype=np.uint8)
                image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                image.save(target / f"{i:05}.jpg", quality=90)
                words = " ".join(drawn.choice(WORDS) for _ in range(12))
                table.writerow([f"{i:05}.jpg", f"{words} {i}", "train"])

    return make


def clip_folder(
    vision: dict[str, Any], text: dict[str, Any], embed_dim: int
) -> Callable[[Path], None]:
    """Return what saves a ``CLIPModel`` with random weights and its processor in ``clip``."""

    def make(folder: Path) -> None:
        import torch
        from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

        torch.manual_seed(0)
        tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        lengths = {"vocab_size": VOCABULARY, "max_position_embeddings": 77}
        config = CLIPConfig(
            text_config={**text, **tokens, **lengths},
            vision_config={**vision, "image_size": IMAGE_SIZE},
            projection_dim=embed_dim,
        )
        CLIPModel(config).save_pretrained(folder / "clip")
        crop = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
        images = CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=crop)
        CLIPProcessor(images, _tokenizer(captions(folder))).save_pretrained(folder / "clip")

    return make


def towers(folder: Path, head: str, **more: Any) -> dict[str, Any]:
    """Return the towers of the CLIP in ``clip``, for a spec."""
    return {
        name: {
            "encoder": {"type": f"hf-dual-{name}", "name": str(folder / "clip")},
            "head": {"type": head},
            **more,
        }
        for name in ("image", "text")
    }


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CAPTIONS).open(newline="") as file:
        return list(csv.DictReader(file))


def _tokenizer(texts: list[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token=END))
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)]
    )
    names = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=77, **names)
