"""Tokenizers as other programs load them: what our encoders set at each call is in the files."""

from __future__ import annotations

from copy import deepcopy
from typing import Any


def plain_tokenizer(preprocess: Any) -> Any:
    """Return a copy of the tokenizer of a ``Tokenize`` that cuts and pads as that does by itself.

    A call leaves in a fast tokenizer how far it padded and cut, which would be saved with it.
    """
    tokenizer = deepcopy(preprocess.tokenizer)
    tokenizer.model_max_length = preprocess.max_length
    if preprocess.padding == "longest":
        tokenizer.padding_side = "right"
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    return tokenizer
