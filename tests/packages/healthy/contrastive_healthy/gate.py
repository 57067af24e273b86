"""A gated projection."""

from torch import nn


class GateModule(nn.Module):
    def __init__(self, in_dim, out_dim, dropout):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.value = nn.Linear(in_dim, out_dim)
        self.gate = nn.Linear(in_dim, out_dim)

    def forward(self, features):
        features = self.dropout(features)
        return self.value(features) * self.gate(features).sigmoid()
