"""Optional libraries, imported when a component needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from contrastive.errors import MissingExtra


def require(module: str, *, extra: str = "", package: str = "contrastive-kit") -> Any:
    """Import an optional library.

    Args:
        module: the import name, which may be dotted.
        extra: the extra of ``package`` that installs it; none if the package itself does.
        package: the distribution that needs the library.

    Raises:
        MissingExtra: the library is not installed; says what to install.

    Example:
        >>> require("torch.nn").__name__
        'torch.nn'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise  # the library is there, something of its own is not: its message says what
        wanted = f'"{package}[{extra}]"' if extra else package
        msg = f"{module} is not installed; run: pip install {wanted}"
        raise MissingExtra(msg) from error
