"""The errors that a user can cause, and the one line that each of them says.

The command line prints the message of a ``ContrastiveError`` and exits with 2; anything else is
our mistake and keeps its traceback.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ContrastiveError(Exception):
    """Something that the user can put right; the message names the place and the remedy."""


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


def require(module: str, *, extra: str = "", package: str = "contrastive-kit") -> Any:
    """Import an optional library.

    Args:
        module: the import name, which may be dotted.
        extra: the extra of ``package`` that installs it; none if the package itself does.
        package: the distribution that needs the library.

    Raises:
        MissingExtra: the library is not installed; says what to install.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the library is there, something of its own is not: its message says what
        wanted = f'"{package}[{extra}]"' if extra else package
        msg = f"{module} is not installed; run: pip install {wanted}"
        raise MissingExtra(msg) from error


JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"  # Persian and many emoji need them


def printable(text: str) -> str:
    """Replace what a terminal would obey (escape sequences in a stranger's caption) by a mark."""
    harmless = "\n\t" + JOINERS
    return "".join(
        c if c.isprintable() or c in harmless else "\N{REPLACEMENT CHARACTER}" for c in text
    )
