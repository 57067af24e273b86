"""SigLIP's tokenizer, which transformers runs as Python, as one of the library tokenizers."""

from __future__ import annotations

import re
from string import punctuation
from typing import Any

from contrastive.config.extras import require

UNDERLINE = "\u2581"  # SentencePiece's space


def siglip_backend(tokenizer: Any) -> Any:
    """Return a tokenizer that gives the same tokens; None if this one is no SigLIP's.

    Texts are put into lower case without punctuation, then into SentencePiece's own form, and split
    by its unigrams; an end follows.
    """
    if type(tokenizer).__name__ != "SiglipTokenizer":
        return None
    library = require("tokenizers", extra="transformers")
    models = require("sentencepiece.sentencepiece_model_pb2", extra="transformers")
    n, pieces = library.normalizers, tokenizer.sp_model
    about = models.ModelProto()
    about.ParseFromString(pieces.serialized_model_proto())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    unigrams = library.models.Unigram(
        vocabulary, unk_id=pieces.unk_id(), byte_fallback=bool(about.trainer_spec.byte_fallback)
    )
    steps = [n.Lowercase()] if tokenizer.do_lower_case else []
    steps.append(n.Replace(library.Regex(f"[{re.escape(punctuation)}]"), ""))
    if charsmap := about.normalizer_spec.precompiled_charsmap:
        steps.append(n.Precompiled(charsmap))
    steps += [n.Replace(library.Regex(r"\s+"), " "), n.Strip()]
    backend = library.Tokenizer(unigrams)
    backend.normalizer = n.Sequence(steps)
    backend.pre_tokenizer = library.pre_tokenizers.Metaspace(UNDERLINE, prepend_scheme="always")
    end = tokenizer.eos_token
    backend.post_processor = library.processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    backend.add_special_tokens(
        [
            library.AddedToken(x, normalized=False, special=True)
            for x in tokenizer.all_special_tokens
        ]
    )
    return backend
