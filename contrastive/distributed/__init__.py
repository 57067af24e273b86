"""Several ranks: the global batch of a loss, and the ranks of a run."""
