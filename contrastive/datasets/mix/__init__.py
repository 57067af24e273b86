"""Several datasets at once: the dataset ``mix``."""
