"""A model as mteb takes it, which measures texts, images and both together.

mteb asks for any object with ``encode``, ``similarity`` and a description of itself, so nothing of
mteb is imported until the description is read.

Shapes: N samples, D the shared width; Q and T two sets of embeddings.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contrastive.config.arguments import check_model
from contrastive.config.extras import require
from contrastive.errors import SpecError
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from contrastive.model.model import ContrastiveModel

MODALITIES = ("text", "image")
"""What mteb and a tower call alike; a tower of another modality is not asked."""


class MtebEncoder:
    """Embeds the batches of a task of mteb; a text with an image is the mean of their embeddings.

    ``mteb.evaluate`` takes it as its model.
    """

    def __init__(self, model: ContrastiveModel, *, name: str = "contrastive/model") -> None:
        """Take a model, and what mteb's result files are to call it, with one slash.

        Raises:
            SpecError: the model has neither a text nor an image tower.
        """
        check_model(model)
        self.model, self.name = model, name
        self.modalities = [modality for modality in MODALITIES if modality in model.towers]
        if not self.modalities:
            msg = (
                f"the model has towers for {', '.join(model.towers)}, and takes no task of mteb, "
                "which are of texts and images; measure it with contrastive evaluate"
            )
            raise SpecError(msg)

    @cached_property
    def revision(self) -> str:
        """SHA-256 of the weights and the spec: equal embeddings, equal revision."""
        both = f"{self.model.spec!r}\0{weights_fingerprint(self.model)}"
        return hashlib.sha256(both.encode()).hexdigest()[:40]

    @cached_property
    def mteb_model_meta(self) -> Any:
        """How mteb describes the model.

        Raises:
            MissingExtra: mteb is not installed.
        """
        meta = require("mteb.models.model_meta", extra="mteb")
        known = {
            "name": self.name,
            "revision": self.revision,
            "modalities": self.modalities,
            "embed_dim": self.model.spec.embed_dim,
            "n_parameters": sum(x.numel() for x in self.model.parameters()),
            "framework": ["PyTorch"],
            "similarity_fn_name": meta.ScoringFunction.COSINE,
        }
        return meta.ModelMeta.create_empty(known)

    def encode(
        self, inputs: Iterable[Mapping[str, Sequence[Any]]], **about_the_task: Any
    ) -> np.ndarray:
        """Embed batches with a list ``text``, a list ``image`` or both: ``[N, D]``."""
        del about_the_task  # our texts have no instructions
        parts: list[Tensor] = [self._embedded(batch) for batch in inputs]
        return torch.cat(parts).numpy()

    def _embedded(self, batch: Mapping[str, Sequence[Any]]) -> Tensor:
        given = [modality for modality in self.modalities if modality in batch]
        if not given:
            msg = f"the batch has {', '.join(batch)}, the model {', '.join(self.modalities)}"
            raise SpecError(f"{msg}; choose tasks of these")
        parts = [self.model.embed(modality, [*batch[modality]]) for modality in given]
        return parts[0] if len(parts) == 1 else normalize(torch.stack(parts).mean(0), dim=-1)

    def similarity(self, a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> Tensor:
        """Return cosines ``[Q, T]``."""
        return _rows(a) @ _rows(b).T

    def similarity_pairwise(self, a: Tensor | np.ndarray, b: Tensor | np.ndarray) -> Tensor:
        """Return the cosine ``[N]`` of each row of ``a`` with the same row of ``b``."""
        return (_rows(a) * _rows(b)).sum(-1)


def _rows(embeddings: Tensor | np.ndarray) -> Tensor:
    """Return embeddings ``[N, D]``, which have length 1; one alone is a row."""
    rows = torch.as_tensor(embeddings).float()
    return rows if rows.ndim > 1 else rows[None]
