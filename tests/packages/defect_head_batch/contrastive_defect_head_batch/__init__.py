"""Centres embeddings by the batch that they are in."""

from contrastive_healthy import Gate


class Broken(Gate):
    """A gate, with a mistake."""

    def build(self, in_dim, out_dim):
        """Return projections that look at the whole batch."""
        from contrastive_defect_head_batch.module import Module

        return Module(in_dim, out_dim, self.dropout)
