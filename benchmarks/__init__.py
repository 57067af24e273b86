"""Measurements of speed and memory; a package, as pyarrow 17 installs one of the same name."""
