"""Captions: from the cells of a table to rows in columns, for every dataset that has some."""
