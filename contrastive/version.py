"""The version of the package, and of the interface that plugins are written against."""

__version__ = "0.1.0"

INTERFACE = 2
"""Version of what plugins are written against: ``contrastive.interface``, the contracts of what
components build, and the entry-point groups. It rises when a working plugin would have to change.
"""
