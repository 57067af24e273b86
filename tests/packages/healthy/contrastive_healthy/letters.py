"""Letters to the mean of their vectors, padding left out."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from contrastive.encoders.module import EncoderModule
from contrastive.encoders.text import as_text


@dataclass(frozen=True)
class Spell:
    """UTF-8 bytes, counted from 2, after a 1; 0 is padding."""

    max_length: int
    forget: float = 0.0
    """Share of letters that are left out."""

    def __call__(self, samples):
        rows = [torch.tensor([1, *(2 + x for x in self.letters(each))]) for each in samples]
        if self.forget:
            rows = [row[(torch.rand(len(row)) > self.forget) | (row == 1)] for row in rows]
        return {"letters": pad_sequence(rows, batch_first=True)}

    def letters(self, sample):
        return as_text(sample).encode()[: self.max_length]


class LettersModule(EncoderModule):
    modality = "text"

    def __init__(self, spec):
        super().__init__()
        self.out_dim = spec.width
        self.preprocess = Spell(spec.max_length)
        self.augment = Spell(spec.max_length, forget=0.2)
        self.table = nn.Embedding(258, spec.width, padding_idx=0)
        self.norm = nn.BatchNorm1d(spec.width)

    def forward(self, letters):
        return self.norm(self.pool(self.table(letters), letters != 0))

    def pool(self, vectors, real):
        return (vectors * real.unsqueeze(-1)).sum(1) / real.sum(1, keepdim=True)
