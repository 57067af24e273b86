"""Tar shards in the format of WebDataset: the dataset ``webdataset``."""
