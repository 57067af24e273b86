"""Stacks of modules of sentence-transformers, against their own ``encode``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as m
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer

from contrastive.encoders import SentenceTransformers
from tests.sweep.judge import Candidate
from tests.sweep.tiny_models import TEXT, VOCABULARY, config_of, save, tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

POOLINGS = ["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
PROMPTS = {"query": "the picture of ", "other": "a "}


def candidates() -> dict[str, Callable[[Path], Candidate]]:
    """Return a candidate for each stack."""
    return {f"sentences {name}": partial(stack, make) for name, make in stacks().items()}


def stacks() -> dict[str, Callable[[Path], SentenceTransformer]]:
    """Return what makes each stack in a folder."""
    found: dict[str, Callable[[Path], SentenceTransformer]] = {}
    for kind in ("bert", "qwen3", "roberta", "t5"):
        for pooling in POOLINGS:
            found[f"{kind} {pooling}"] = partial(pooled, kind, pooling)
    found["three poolings"] = partial(pooled, "bert", ("mean", "cls", "max"))
    after: dict[str, Callable[[], Any]] = {
        "Normalize": m.Normalize,
        "Dense": lambda: m.Dense(32, 12),
        "Dropout": m.Dropout,
        "LayerNorm": lambda: m.LayerNorm(32),
    }
    for name, module in after.items():
        found[name] = partial(followed, module)
    found["a default prompt"] = partial(
        pooled, "bert", "mean", prompts=PROMPTS, default_prompt_name="query"
    )
    found["prompts without default"] = partial(pooled, "bert", "mean", prompts=PROMPTS)
    found["truncated dimensions"] = partial(pooled, "bert", "mean", truncate_dim=8)
    found["a short length"] = partial(shortened, 8)
    found["StaticEmbedding"] = lambda _: _of(m.StaticEmbedding(tokenizer(), embedding_dim=16))
    found["StaticEmbedding, Normalize"] = lambda _: _of(
        m.StaticEmbedding(tokenizer(), embedding_dim=16), m.Normalize()
    )
    found["BoW"] = lambda _: _of(m.BoW([*VOCABULARY]))
    found["BoW, Dense"] = lambda _: _of(m.BoW([*VOCABULARY]), m.Dense(len(VOCABULARY), 12))
    found["WordEmbeddings"] = lambda _: _of(_words(), m.Pooling(16))
    found["WordEmbeddings, WordWeights"] = lambda _: _of(
        _words(), m.WordWeights([*VOCABULARY], {"red": 2.0, "dogs": 0.5}), m.Pooling(16)
    )
    found["WordEmbeddings, CNN"] = lambda _: _of(_words(), m.CNN(16, 8), m.Pooling(24))
    found["WordEmbeddings, LSTM"] = lambda _: _of(_words(), m.LSTM(16, 8), m.Pooling(16))
    found["Router of static"] = lambda _: _of(
        m.Router.for_query_document(
            [m.StaticEmbedding(tokenizer(), embedding_dim=16)],
            [m.StaticEmbedding(tokenizer(), embedding_dim=16)],
        )
    )
    return found


def stack(make: Callable[[Path], SentenceTransformer], folder: Path) -> Candidate:
    """Save a stack, and load it by the library."""
    make(folder / "body").save_pretrained(str(folder / "model"), create_model_card=False)
    model = SentenceTransformer(str(folder / "model"), device="cpu").eval()

    def theirs(text: str) -> torch.Tensor:
        return torch.from_numpy(np.array(model.encode([text], show_progress_bar=False)))

    return Candidate(SentenceTransformers(name=str(folder / "model")), theirs)


def body(kind: str, folder: Path, **settings: Any) -> m.Transformer:
    """Return a transformer over tokens."""
    save(config_of(kind, TEXT), folder)
    words = tokenizer()
    words.model_max_length = 62  # RoBERTa counts from behind the padding
    words.save_pretrained(folder)
    return m.Transformer(str(folder), **settings)


def pooled(kind: str, pooling: Any, folder: Path, **settings: Any) -> SentenceTransformer:
    """Return a transformer and its pooling."""
    return _of(body(kind, folder), m.Pooling(32, pooling), **settings)


def followed(after: Callable[[], Any], folder: Path) -> SentenceTransformer:
    """Return a transformer, its mean and another module."""
    return _of(body("bert", folder), m.Pooling(32), after())


def shortened(length: int, folder: Path) -> SentenceTransformer:
    """Return a transformer that reads so many tokens."""
    return _of(body("bert", folder, max_seq_length=length), m.Pooling(32))


def _words() -> Any:
    weights = np.random.default_rng(0).normal(size=(len(VOCABULARY), 16)).astype(np.float32)
    return m.WordEmbeddings(WhitespaceTokenizer([*VOCABULARY], stop_words=set()), weights)


def _of(*modules: Any, **settings: Any) -> SentenceTransformer:
    return SentenceTransformer(modules=[*modules], device="cpu", **settings)
