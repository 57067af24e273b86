"""The errors that a user can cause, and the one line that each of them says.

The command line prints the message of a ``ContrastiveError`` and exits with 2; anything else is
our mistake and keeps its traceback.
"""

from __future__ import annotations


class ContrastiveError(Exception):
    """Something that the user can put right; the message says where and gives the remedy."""


class SpecError(ContrastiveError, ValueError):
    """A spec that does not fit, with one line for each mistake."""


class UnknownComponent(ContrastiveError, LookupError):  # noqa: N818
    """No component, or more than one, has that name."""


class PluginError(ContrastiveError, RuntimeError):
    """A component exists, but its package is broken."""


class MissingExtra(ContrastiveError, ImportError):  # noqa: N818
    """A component needs a package that is not installed."""


class DataError(ContrastiveError, ValueError):
    """A dataset cannot be read, or too much of it is bad."""


class BadSample(ContrastiveError, ValueError):  # noqa: N818
    """One sample that cannot be used: a broken image, a malformed row."""


class WeightsError(ContrastiveError, RuntimeError):
    """Weights or a checkpoint cannot be found, or are not what they should be."""


class TrainingError(ContrastiveError):
    """Training cannot begin, or cannot go on."""


class RenamedWarning(FutureWarning):
    """A name of an older release was used; the message has the one of today."""
