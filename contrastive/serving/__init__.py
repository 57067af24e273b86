"""A model and its indexes behind HTTP: ``contrastive serve``."""
