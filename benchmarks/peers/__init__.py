"""Whole programs and functions of this toolkit, timed in turn with those of other packages."""
