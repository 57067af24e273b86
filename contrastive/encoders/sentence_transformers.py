"""Text models of sentence-transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from contrastive.config.extras import require
from contrastive.encoders.hf_text import check_length, longest_taken, positions
from contrastive.encoders.huggingface import drop_pooler, quiet_huggingface
from contrastive.encoders.module import EncoderModule
from contrastive.encoders.promises import measure_out_dim
from contrastive.encoders.text import tokenizing
from contrastive.encoders.weights import find_weights, loading_weights
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from torch import Tensor

    from contrastive.encoders import SentenceTransformers


class SentenceTransformersModule(EncoderModule):
    """Tokens ``[B, L]`` to sentence embeddings ``[B, F]``, with gradients."""

    modality = "text"
    reproducible = True

    def __init__(self, spec: SentenceTransformers) -> None:
        """Load the model; its tokenizer runs in our workers, so ``encode`` is not used."""
        super().__init__()
        library = require("sentence_transformers", extra="sentence-transformers")
        who = f"sentence-transformers {spec.name!r}"
        bare = "/" not in spec.name and not Path(spec.name).is_dir()
        folder = find_weights(
            who, f"sentence-transformers/{spec.name}" if bare else spec.name, spec.revision
        )
        with quiet_huggingface(), loading_weights(who, "the model", folder):
            self.model = library.SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={
                    "use_safetensors": True,
                    "dtype": torch.float32,
                    "attn_implementation": None,  # else the folder may choose code of the Hub
                    "use_kernels": False,
                },
            )
        inner = self.model.transformers_model
        if inner is None or not callable(self.model.tokenizer):
            msg = f"{who}: not a transformer over tokens, which this encoder needs"
            raise SpecError(msg)
        drop_pooler(inner)
        inner.config.use_cache = False  # nothing is generated, and layers may run twice
        limit = positions(inner.config)
        max_length = check_length(spec.max_length, limit, who) or self.model.max_seq_length or limit
        prompt = self.model.prompts.get(self.model.default_prompt_name, "")
        self.preprocess = tokenizing(self.model.tokenizer, max_length, prompt, who=who)
        taken = longest_taken(self, max_length, inner.config)
        check_length(spec.max_length, taken, who)
        self.preprocess = replace(self.preprocess, max_length=taken)
        self.out_dim = measure_out_dim(self, "a picture", who)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Return features ``[B, F]`` of what the tokenizer gives."""
        return self.model(inputs)["sentence_embedding"]
