"""The version of the package, and of the interface that plugins are written against."""

__version__ = "0.1.0"
"""The version of this package.

Example:
    >>> __version__.split(".")[0]
    '0'
"""

INTERFACE = 2
"""Version of what plugins are written against: ``contrastive.interface``, the contracts of what
components build, and the entry-point groups. It rises when a working plugin would have to change.

Example:
    >>> INTERFACE
    2
"""
