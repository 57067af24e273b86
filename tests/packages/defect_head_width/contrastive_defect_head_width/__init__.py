"""Gives embeddings as wide as the features, whatever is asked for."""

from contrastive_healthy import Gate


class Broken(Gate):
    """A gate, with a mistake."""

    def build(self, in_dim, out_dim):
        """Return projections of the wrong width."""
        return super().build(in_dim, in_dim)
