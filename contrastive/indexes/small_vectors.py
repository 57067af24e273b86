"""Candidates from small copies of the vectors: fewer numbers of each, as int8, or the signs alone.

Shapes: Q queries, M rows of a segment, D wide, W words of 64 signs, K candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from contrastive.indexes.stored_tensors import checked
from contrastive.indexes.vector_form import INT8_MOST, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

WORD = 8  # bytes of 64 signs
MANY, SCATTERED = 16, 256  # from 16 queries on, one scattered row takes as long as 256 in order
INT_MM: Any = torch.ops.aten._int_mm


@dataclass(frozen=True)
class SmallVectors:
    """Small copies, compared one by one: one file for each segment, mapped."""

    form: Form
    name: str = "small"
    most_segments: int = 1
    fewest_rows: int = 1
    efforts: Sequence[int] = (4, 8, 16, 32, 64, 128)
    """Candidates for each result."""

    def pays(self, queries: int, rows: int, wanted: int, effort: int) -> bool:
        """Whether the candidates take less time than all rows do."""
        return queries < MANY or wanted * effort * SCATTERED <= rows

    def build(
        self, pieces: Sequence[Tensor], advance: Callable[[int, str], None] = lambda _rows, _: None
    ) -> dict[str, Tensor]:
        """Return the tensors of a file: of ``[M, D]`` of all pieces."""
        made = self.form.stored(torch.cat([*pieces]))
        advance(sum(map(len, pieces)), "")
        if self.form.quantize == "binary":
            bytes_MB = pad(made["embeddings"], (0, -made["embeddings"].shape[1] % WORD))
            made["embeddings"] = bytes_MB.view(torch.int64).T.contiguous()
        return made

    def open(self, tensors: dict[str, Tensor], pieces: Sequence[Tensor]) -> OpenSmallVectors:
        """Open what ``build`` returned for the same pieces.

        Raises:
            DataError: these are not what it returns.
        """
        expected = self.build([pieces[0][:1]])
        rows = sum(map(len, pieces))
        for name, one in expected.items():
            shape = [rows, *one.shape[1:]]
            if self.form.quantize == "binary":
                shape = [one.shape[0], rows]
            checked(tensors, name, one.dtype, shape)
        return OpenSmallVectors(self.form, tensors)


@dataclass(frozen=True)
class OpenSmallVectors:
    """Small copies that are searched."""

    form: Form
    tensors: dict[str, Tensor]

    def candidates(
        self, queries_QD: Tensor, wanted: int, allowed_M: Tensor | None, effort: int
    ) -> tuple[Tensor, Tensor]:
        """Return scores in this form, and numbers of rows ``[Q, K]``, of ``wanted * effort``."""
        cut_QD = normalize(queries_QD[:, : self.form.dim], dim=1)
        scores_QM = self._score(cut_QD)
        if allowed_M is not None:
            scores_QM.masked_fill_(~allowed_M, -torch.inf)
        return scores_QM.topk(min(wanted * effort, scores_QM.shape[1]), dim=1)

    @property
    def _score(self) -> Callable[[Tensor], Tensor]:
        scores = {"int8": self._of_int8, "binary": self._of_signs}
        return scores.get(self.form.quantize or "", self._of_floats)

    def _of_floats(self, queries_QD: Tensor) -> Tensor:
        return queries_QD @ self.tensors["embeddings"].T

    def _of_int8(self, queries_QD: Tensor) -> Tensor:
        scale_Q = queries_QD.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / INT8_MOST
        whole_DQ = (queries_QD / scale_Q[:, None]).round().to(torch.int8).T.contiguous()
        products_MQ = INT_MM(self.tensors["embeddings"], whole_DQ)
        return (products_MQ * self.tensors["scale"][:, None]).T * scale_Q[:, None]

    def _of_signs(self, queries_QD: Tensor) -> Tensor:
        """Return how many signs are equal, as a cosine of the signs."""
        signs = SmallVectors(self.form).build([queries_QD])["embeddings"].numpy().view(np.uint64)
        words_WM: np.ndarray = self.tensors["embeddings"].numpy().view(np.uint64)
        scores_QM = torch.empty(len(queries_QD), words_WM.shape[1])
        for query, signs_W in enumerate(signs.T):
            unlike_M = np.zeros(words_WM.shape[1], np.int32)
            for words_M, word in zip(words_WM, signs_W, strict=True):
                unlike_M += _bit_count(words_M ^ word)
            scores_QM[query] = torch.from_numpy(unlike_M)
        return 1 - scores_QM * (2 / queries_QD.shape[1])


def _bit_count(words_M: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # from numpy 2.0 on
        return np.bitwise_count(words_M)
    return _bit_counts()[words_M.view(np.uint16)].reshape(-1, 4).sum(1, dtype=np.int32)


@cache
def _bit_counts() -> np.ndarray:
    return np.array([number.bit_count() for number in range(1 << 16)], np.uint8)
