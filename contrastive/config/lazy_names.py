"""Public names that are imported on first use, so that importing a package costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def lazy_names(
    module: str, public: list[str], homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and the ``__dir__`` of a module (PEP 562).

    Args:
        module: its name, for the message about a name that it does not have.
        public: its ``__all__``, for Tab and ``help``.
        homes: by module below ``contrastive``, the names that live there, with spaces between.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home_of:
            msg = f"module {module!r} has no attribute {name!r}"
            raise AttributeError(msg)
        return getattr(import_module(f"contrastive.{home_of[name]}"), name)

    return get, lambda: public
