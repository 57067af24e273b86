"""The version of the package, and of the interface that plugins are written against."""

__version__ = "0.1.0"

INTERFACE = 1
"""Version of what plugins are written against: the interface classes, the contracts of what they
build, and the entry-point groups. It rises when a component that fitted would have to change."""
