"""Tiny dual models of the real classes, with random weights and the vocabulary of a few captions.

Each is saved as its authors would: model, image processor and tokenizer in one folder.
"""

from __future__ import annotations

import io
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers as t
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tests.miniature import Picture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CAPTIONS = [caption for index in range(24) for caption in Picture(index).captions]
WORDS = sorted({word for caption in CAPTIONS for word in caption.lower().split()})
SIDE = 32
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY |= {"intermediate_size": 24}
SEEN = {"image_size": SIDE, "patch_size": 16}
SHARP = math.log(100) + 1e-6  # as that of OpenAI's CLIP, which rounding puts above 100


def save_clip(folder: Path) -> Path:
    """CLIP: byte-level BPE in lower case, 77 tokens, the end marks the place of the embedding."""
    tokenizer = clip_tokenizer()
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    texts = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **ids}
    config = t.CLIPConfig(text_config=TINY | texts, vision_config=TINY | SEEN, projection_dim=8)
    size = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    processor = t.CLIPImageProcessor(size=size, crop_size=crop)
    return _save(folder, t.CLIPModel(config), t.CLIPProcessor(processor, tokenizer))


def clip_tokenizer(length: int = 77) -> Any:
    """Train a vocabulary as CLIP's: bytes, bytes that end a word, merges, start and end."""
    letters, final = pre_tokenizers.ByteLevel(add_prefix_space=False), "</w>"
    backend = Tokenizer(models.BPE(end_of_word_suffix=final))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), letters])
    trainer = trainers.BpeTrainer(vocab_size=150, end_of_word_suffix=final, show_progress=False)
    backend.train_from_iterator([caption.lower() for caption in CAPTIONS], trainer)
    merges = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]]
    alphabet = sorted(letters.alphabet())
    pieces = [*alphabet, *(letter + final for letter in alphabet), *map("".join, merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return t.CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def save_siglip(folder: Path) -> Path:
    """SigLIP: SentencePiece, always 64 tokens, no mask, a bias, no projection."""
    sentencepiece = pytest.importorskip("sentencepiece")
    vocabulary = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*map(str.lower, CAPTIONS), "abcdefghijklmnopqrstuvwxyz"]),
        model_writer=vocabulary,
        vocab_size=80,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    folder.mkdir(parents=True)
    (folder / "spiece.model").write_bytes(vocabulary.getvalue())
    tokenizer = t.SiglipTokenizer(
        str(folder / "spiece.model"), model_input_names=["input_ids"], model_max_length=64
    )
    config = t.SiglipConfig(
        text_config=TINY | {"vocab_size": len(tokenizer), "projection_size": 16},
        vision_config=TINY | SEEN,
    )
    model = t.SiglipModel(config)
    size = {"height": SIDE, "width": SIDE}
    processor = t.SiglipProcessor(t.SiglipImageProcessor(size=size), tokenizer)
    return _save(folder, model, processor, scale=4.77, bias=-12.93)


def save_siglip2(folder: Path) -> Path:
    """SigLIP 2 for images of any shape: patches with their places, and a mask of them."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<mask>": 4}
    letters = sorted({letter for caption in CAPTIONS for letter in caption.lower()} - {" "})
    vocabulary |= {piece: 5 + i for i, piece in enumerate([*letters, "\u2581"])}
    tokenizer = t.Siglip2Tokenizer(
        vocab=vocabulary,
        merges=[],
        padding_side="right",
        model_input_names=["input_ids"],
        model_max_length=64,
    )
    config = t.Siglip2Config(
        text_config=TINY | {"vocab_size": len(tokenizer), "projection_size": 16},
        vision_config=TINY | {"num_patches": 256, "patch_size": 16},
    )
    processor = t.Siglip2ImageProcessor()
    return _save(
        folder, t.Siglip2Model(config), t.Siglip2Processor(processor, tokenizer), 4.7, -16.5
    )


def save_chinese_clip(folder: Path) -> Path:
    """Chinese-CLIP: a BERT whose first token is projected."""
    tokenizer = bert_tokenizer(52)
    config = t.ChineseCLIPConfig(
        text_config=TINY | {"vocab_size": len(tokenizer)},
        vision_config=TINY | SEEN,
        projection_dim=8,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = t.ChineseCLIPImageProcessor(size=size, crop_size=size)
    return _save(folder, t.ChineseCLIPModel(config), t.ChineseCLIPProcessor(processor, tokenizer))


def save_altclip(folder: Path) -> Path:
    """AltCLIP: an XLM-R with a projection of its own before the shared one."""
    tokenizer = xlm_tokenizer(77)
    config = t.AltCLIPConfig(
        text_config=TINY
        | {"vocab_size": len(tokenizer), "max_position_embeddings": 79, "project_dim": 12},
        vision_config=TINY | SEEN | {"projection_dim": 8},
        projection_dim=8,
    )
    size = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    processor = t.CLIPImageProcessor(size=size, crop_size=crop)
    return _save(folder, t.AltCLIPModel(config), t.AltCLIPProcessor(processor, tokenizer))


def save_metaclip_2(folder: Path) -> Path:
    """MetaCLIP 2: a CLIP with the vocabulary of XLM-V."""
    tokenizer = xlm_tokenizer(77)
    texts = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = t.MetaClip2Config(
        text_config=TINY | texts, vision_config=TINY | SEEN, projection_dim=8
    )
    size = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    processor = t.CLIPImageProcessor(size=size, crop_size=crop)
    return _save(folder, t.MetaClip2Model(config), t.CLIPProcessor(processor, tokenizer))


def xlm_tokenizer(length: int) -> Any:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [(piece, 0.0) for piece in special]
    letters = sorted({letter for caption in CAPTIONS for letter in caption} - {" "})
    pieces += [(f"\u2581{word}", -3.0) for word in WORDS]
    pieces += [(piece, -9.0) for piece in ["\u2581", *letters]]
    pieces += [("<mask>", 0.0)]
    return t.XLMRobertaTokenizer(vocab=pieces, model_max_length=length)


def _save(
    folder: Path, model: Any, processor: Any, scale: float = SHARP, bias: float | None = None
) -> Path:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # so that unlike samples have unlike embeddings
                parameter.normal_(std=0.2)
        (model.logit_scale if hasattr(model, "logit_scale") else model.temperature).fill_(scale)
        if bias is not None:
            model.logit_bias.fill_(bias)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": save_siglip2,
    "chinese_clip": save_chinese_clip,
    "altclip": save_altclip,
    "metaclip_2": save_metaclip_2,
}


def bert_tokenizer(length: int) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    return t.BertTokenizer(vocab=vocabulary, model_max_length=length)


def clip_like(name: str, tokenizer: Any, **fields: Any) -> Callable[[Path], Path]:
    """Return what saves a model whose configs have CLIP's fields, and perhaps others."""

    def save(folder: Path) -> Path:
        of = "CLIP" if name in ("GroupViT", "Aimv2") else name
        words = tokenizer(16)
        texts = TINY | {"vocab_size": len(words), "max_position_embeddings": 16}
        texts |= {f"{end}_token_id": getattr(words, f"{end}_token_id") for end in ("eos", "pad")}
        config = getattr(t, f"{name}Config")(
            text_config=texts | fields.get("text", {}),
            vision_config=TINY | SEEN | fields.get("vision", {}),
            **fields.get("both", {"projection_dim": 8}),
        )
        size = {"height": SIDE, "width": SIDE}
        images = getattr(t, f"{fields.get('images', of)}ImageProcessor")
        processor = getattr(t, f"{of}Processor")(images(size=size, crop_size=size), words)
        return _save(folder, getattr(t, f"{name}Model")(config), processor)

    return save


def save_align(folder: Path) -> Path:
    """ALIGN: an EfficientNet and a BERT of equal widths, and a temperature for a scale."""
    tokenizer = bert_tokenizer(64)
    net = {"width_coefficient": 0.1, "depth_coefficient": 0.1, "hidden_dim": 16, "image_size": SIDE}
    net |= {"kernel_sizes": [3, 3], "in_channels": [8, 8], "out_channels": [8, 8]}
    net |= {"strides": [1, 2], "num_block_repeats": [1, 1], "expand_ratios": [1, 2]}
    config = t.AlignConfig(
        text_config=TINY | {"vocab_size": len(tokenizer)}, vision_config=net, projection_dim=8
    )
    size = {"height": SIDE, "width": SIDE}
    images = t.EfficientNetImageProcessor(size=size, crop_size=size, do_center_crop=True)
    return _save(folder, t.AlignModel(config), t.AlignProcessor(images, tokenizer), scale=0.02)


def save_flava(folder: Path) -> Path:
    """FLAVA: an embedding for each token, of which the first is taken; a part for both."""
    tokenizer = bert_tokenizer(64)
    config = t.FlavaConfig(
        text_config=TINY | {"vocab_size": len(tokenizer)},
        image_config=TINY | SEEN,
        multimodal_config=TINY,
        hidden_size=16,
        projection_dim=8,
    )
    size = {"height": SIDE, "width": SIDE}
    images = t.FlavaImageProcessor(size=size, crop_size=size)
    return _save(folder, t.FlavaModel(config), t.FlavaProcessor(images, tokenizer))


def save_tipsv2(folder: Path) -> Path:
    """TIPSv2: no projections, and a temperature that published files leave to the config."""
    letters = sorted({letter for caption in CAPTIONS for letter in caption.lower()} - {" "})
    vocabulary = {piece: i for i, piece in enumerate(["<pad>", "<unk>", "\u2581", *letters])}
    tokenizer = t.Tipsv2Tokenizer(vocab=vocabulary, merges=[])
    config = t.Tipsv2Config(
        text_config=TINY | {"vocab_size": len(tokenizer)},
        vision_config=TINY | SEEN | {"num_register_tokens": 1},
        temperature_init_value=0.02,
    )
    size = {"height": SIDE, "width": SIDE}
    processor = t.Tipsv2Processor(t.Tipsv2ImageProcessor(size=size), tokenizer)
    _save(folder, t.Tipsv2Model(config), processor, scale=0.02)
    weights = load_file(folder / "model.safetensors")
    del weights["temperature"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def save_vision_text(folder: Path) -> Path:
    """VisionTextDualEncoder: any two models, as transformers' own example trains them."""
    tokenizer = xlm_tokenizer(10**30)
    texts = TINY | {"vocab_size": len(tokenizer), "max_position_embeddings": 34}
    texts |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = t.VisionTextDualEncoderConfig.from_vision_text_configs(
        t.ViTConfig(**TINY, **SEEN), t.XLMRobertaConfig(**texts), projection_dim=8
    )
    images = t.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = t.VisionTextDualEncoderProcessor(images, tokenizer)
    return _save(folder, t.VisionTextDualEncoderModel(config), processor)


GROUPS = {"depths": [1, 1, 1], "num_hidden_layers": 3, "num_group_tokens": [4, 2, 0]}
GROUPS |= {"num_output_groups": [4, 2, 0]}
OTHERS: dict[str, Callable[[Path], Path]] = {
    "align": save_align,
    "aimv2": clip_like("Aimv2", clip_tokenizer),
    "blip": clip_like("Blip", bert_tokenizer, both={"projection_dim": 8}, images="Blip"),
    "clipseg": clip_like("CLIPSeg", clip_tokenizer, images="ViT"),
    "flava": save_flava,
    "groupvit": clip_like("GroupViT", clip_tokenizer, vision=GROUPS),
    "owlvit": clip_like("OwlViT", clip_tokenizer),
    "owlv2": clip_like("Owlv2", clip_tokenizer),
    "tipsv2": save_tipsv2,
    "vision-text-dual-encoder": save_vision_text,
}
"""Those that some versions of transformers lack, or whose forward gives no embeddings."""
