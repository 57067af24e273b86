"""Calls of what a component offers: one that takes other arguments is its author's mistake."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from contrastive.config.garbage import garbage_later
from contrastive.config.provenance import described
from contrastive.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from contrastive.config.base import Config


def call_part(part: Config, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a method of a component, or of what that built, gives.

    Raises:
        SpecError: it takes other arguments; names the component.
    """
    try:
        return method(*args, **options)
    except TypeError as error:
        called = getattr(method, "forward", method)  # of a module
        try:
            inspect.signature(called).bind(*args, **options)
        except TypeError as mismatch:
            name = getattr(called, "__name__", "call")
            msg = (
                f"{described(type(part))}: {name} does not take what it is given: {mismatch}; let "
                f"it take what the {name} of docs/write_a_plugin.md takes"
            )
            raise SpecError(msg) from error
        raise


def build_part(part: Config, build: Callable[[], Any]) -> Any:
    """Return what a component builds; Python does not look for garbage meanwhile.

    An encoder imports thousands of modules, which are none.

    Raises:
        SpecError: ``build`` takes arguments.
    """
    with garbage_later():
        return call_part(part, build)
