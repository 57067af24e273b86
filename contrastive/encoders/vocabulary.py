"""Whether a model has an embedding for each token that its tokenizer gives."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from contrastive.errors import BadSample, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from contrastive.encoders.module import EncoderModule

IDS = ("input_ids", "packed_ids")


class _FoundError(Exception):
    """The table of embeddings is found, so that the model need run no further."""


def vocabulary_size(module: EncoderModule, tokenizer: Any, who: str) -> int:
    """Return how many tokens a model has embeddings for; very many where that cannot be told.

    Tokens that are special and in no text, such as one for images, may be beyond.

    Raises:
        SpecError: the tokenizer gives others than the model has.
    """
    if not isinstance(words := tokenizer.get_vocab(), dict):  # a list of words, maybe hashed
        return sys.maxsize
    vocabulary = cast("dict[str, int]", words)
    try:
        inputs = module.preprocess(["a picture"])
    except Exception:  # models have errors of their own; ``measure_out_dim`` tells
        return sys.maxsize
    ids_BL = _ids(inputs)
    size = _rows_for(module, inputs, ids_BL)
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    used: set[Any] = {getattr(tokenizer, "pad_token_id", None)}
    used.update(cast("list[int]", ids_BL.flatten().tolist()))
    special = {i for i, token in added.items() if token.special} - used
    beyond = {i: token for token, i in vocabulary.items() if i >= size and i not in special}
    if beyond:
        first = min(beyond)
        msg = (
            f"{who}: {beyond[first]!r} is the tokenizer's token of number {first}, and the model "
            f"has embeddings for {size}, from 0; put the tokenizer that the model was trained with "
            "into its folder: tokenizer.save_pretrained(FOLDER)"
        )
        raise SpecError(msg)
    return size


def _rows_for(module: EncoderModule, inputs: dict[str, Tensor], ids: Tensor) -> int:
    """Return the rows of the table in which a model looks ids up."""

    def look(table: Any, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and torch.equal(args[0].flatten(), ids.flatten()):
            raise _FoundError(table.num_embeddings)

    with ExitStack() as hooks, torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Embedding | nn.EmbeddingBag):
                hooks.callback(part.register_forward_pre_hook(look).remove)
        try:
            module(**inputs)
        except _FoundError as found:
            return found.args[0]
        except Exception:  # models have errors of their own; ``measure_out_dim`` tells
            return sys.maxsize
    return sys.maxsize


def check_ids(inputs: Mapping[str, Tensor], size: int, tokenizer: Any) -> None:
    """Insist that a model has embeddings for the tokens of texts.

    Raises:
        BadSample: it has none for one.
    """
    ids_BL = _ids(inputs)
    if ids_BL.numel() and (largest := int(ids_BL.max())) >= size:
        token = next(token for token, i in tokenizer.get_vocab().items() if i == largest)
        msg = f"{token!r} is a token of number {largest}, and the model has embeddings for {size}"
        raise BadSample(msg)


def _ids(inputs: Mapping[str, Tensor]) -> Tensor:
    return next((inputs[name] for name in IDS if name in inputs), torch.empty(0))
