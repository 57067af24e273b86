"""Training runs: batches, steps, the loop, and how a run is resumed."""
