"""What a text encoder's preprocessing does, in words, numbers and a ``tokenizer.json``.

As for images, it is carried out by the ``embed.py`` that the folder will hold, and compared with
the encoder's own on texts of many kinds; what differs is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from contrastive.config.extras import require
from contrastive.encoders.cbow import PADDING as NO_WORD
from contrastive.encoders.cbow import HashWords
from contrastive.encoders.sentence_transformers import SentencePreprocess
from contrastive.encoders.text import Tokenize
from contrastive.encoders.text_transformer import BYTES, PADDING, START, TokenizeBytes
from contrastive.encoders.token_encoder import TokenEncoder
from contrastive.errors import BadSample, SpecError
from contrastive.exporters.onnx.image_steps import Steps, runtime
from contrastive.exporters.onnx.siglip_tokenizer import siglip_backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from contrastive.encoders.module import EncoderModule

PARTS = {
    "input_ids": "ids",
    "packed_ids": "ids",
    "attention_mask": "attention_mask",
    "token_type_ids": "type_ids",
}
"""Of an encoding of the library tokenizers, by the names of inputs."""
TEXTS = (
    "a photo of two red squares",
    "A Photo, of 2 dogs -- and ONE cat!",
    "  spaces   and\ta tab, \u201cquotes\u201d; an em\u2014dash (and so on)... ",
    "\u00fcn\u00ef \u6771\u4eac \u0431\u0435\u043b\u044b\u0439 \U0001f600 caf\u00e9 e\u0301",
    "don't, they're: x_y <b>7</b> #1 @home 3.50$",
)


def text_steps(encoder: EncoderModule, modality: str, file: str) -> tuple[Steps, str | None]:
    """Return what the preprocessing of a text encoder does, and the content of its tokenizer.

    Args:
        encoder: the encoder.
        modality: its modality.
        file: what the file of its tokenizer will be called.

    Raises:
        SpecError: it does something that these words do not say.
    """
    preprocess = encoder.preprocess
    if isinstance(preprocess, TokenizeBytes):
        numbers = {"start": START, "offset": BYTES, "padding": PADDING}
        return {
            "kind": "utf8-bytes",
            "input": "tokens",
            "max_bytes": preprocess.max_length,
        } | numbers, None
    if isinstance(preprocess, HashWords):
        return {
            "kind": "hashed-words",
            "input": "words",
            "words": "\\w+ of Unicode, in the text's NFKC form, case folded",
            "hash": "CRC-32 of the word's UTF-8, modulo buckets, plus offset",
            "buckets": preprocess.buckets,
            "offset": 1 + NO_WORD,
            "padding": NO_WORD,
            "max_words": preprocess.max_length,
        }, None
    for steps, content in _candidates(preprocess, file):
        if _is_same(encoder, steps, content):
            return steps, content
    tokenizer: Any = getattr(preprocess, "tokenizer", preprocess)
    what = "is code of Python" if not getattr(tokenizer, "is_fast", True) else "does more"
    msg = f"towers.{modality}: {type(tokenizer).__name__} {what}, for which tokenizer.json has no"
    raise SpecError(f"{msg} words")


def _candidates(preprocess: Any, file: str) -> Iterator[tuple[Steps, str]]:
    """Yield what the preprocessing may be, with the content of a tokenizer's file."""
    if isinstance(preprocess, Tokenize):
        backend = _backend(preprocess.tokenizer)
        if backend is None:
            return
        side = "right" if preprocess.padding == "longest" else preprocess.tokenizer.padding_side
        length = preprocess.max_length
        _cut_and_pad(backend, preprocess.tokenizer, length, side)
        if preprocess.padding == "max_length":
            backend.enable_padding(**backend.padding | {"length": length})
        yield _tokenizer_steps(file, preprocess.prompt, special=True), backend.to_str()
    elif isinstance(preprocess, SentencePreprocess) and preprocess.tokenizer is not None:
        backend = _backend(preprocess.tokenizer)
        if backend is None:
            return
        prompt = preprocess.prompt or ""
        _cut_and_pad(backend, preprocess.tokenizer, preprocess.max_length, "right")
        for special in (True, False):  # a static embedding leaves them out
            yield _tokenizer_steps(file, prompt, special=special), backend.to_str()
        lower = require("tokenizers", extra="transformers").normalizers
        steps = [lower.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
        backend.normalizer = lower.Sequence(steps)
        yield _tokenizer_steps(file, prompt, special=True), backend.to_str()


def _tokenizer_steps(file: str, prompt: str, *, special: bool) -> Steps:
    return {"kind": "tokenizer", "file": file, "prompt": prompt, "special_tokens": special}


def _backend(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer's backend, of the library tokenizers; None if it has none."""
    library = require("tokenizers", extra="transformers")
    if isinstance(tokenizer, library.Tokenizer):
        return library.Tokenizer.from_str(tokenizer.to_str())
    if getattr(tokenizer, "is_fast", False):
        return library.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    return siglip_backend(tokenizer)


def _cut_and_pad(backend: Any, tokenizer: Any, max_length: int | None, side: str) -> None:
    """Have a backend do by itself what our encoders ask of a tokenizer at each call."""
    backend.no_truncation()
    if max_length:
        backend.enable_truncation(
            max_length, direction=getattr(tokenizer, "truncation_side", "right")
        )
    number = getattr(tokenizer, "pad_token_id", None)
    backend.enable_padding(
        direction=side,
        pad_id=number or 0,
        pad_type_id=getattr(tokenizer, "pad_token_type_id", 0),
        pad_token=getattr(tokenizer, "pad_token", None) or "[PAD]",
    )


def _is_same(encoder: EncoderModule, steps: Steps, content: str) -> bool:
    """Carry out the steps on texts; on success write down which part is which input."""
    library = require("tokenizers", extra="transformers")
    tokens = object.__new__(runtime().Tokens)
    tokens.about, tokens.tokenizer = steps, library.Tokenizer.from_str(content)
    for texts in _texts(encoder):
        try:
            expected: dict[str, Tensor] = dict(encoder.preprocess(texts))
        except BadSample:  # of letters that the model has no embedding for
            continue
        if not expected.keys() <= PARTS.keys():
            return False
        steps["inputs"] = {name: PARTS[name] for name in expected}
        found = {name: torch.from_numpy(x) for name, x in tokens(texts).items()}
        if not all(torch.equal(found[name], x.long()) for name, x in expected.items()):
            return False
    return "inputs" in steps


def _texts(encoder: EncoderModule) -> list[list[str]]:
    """Return batches of texts: alone, together, and longer than any model reads."""
    known = encoder.words() if isinstance(encoder, TokenEncoder) else []
    words = [*known, *TEXTS[0].split()]
    long = " ".join(words * (700 // len(words)))
    usual = [" ".join(words[: n + 1]) for n in range(len(words))]
    return [*([text] for text in TEXTS), usual, [*usual[:2], long], [long]]
