"""Components by name, imported only when used.

A name is given by ``@registry.register(name)`` in this program, or by an entry point of an
installed package. Anywhere a name is allowed, an import path ``"module:Class"`` is too, unless
the spec came from somewhere else (``names_only``). Package metadata is read only for a name
that this program has not registered.
"""

from __future__ import annotations

import difflib
import sys
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from contrastive.config.base import Config
from contrastive.config.entry_points import (
    SWITCH,
    PluginEntry,
    chosen_packages,
    disable_entry_point_scans,
    is_enabled,
    offered_in,
)
from contrastive.config.other_names import component_meant
from contrastive.config.renamed import NewName, warn_unless_told
from contrastive.config.saved_origins import origin_of
from contrastive.errors import PluginError, UnknownComponent, a_type

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

C = TypeVar("C", bound=Config)
D = TypeVar("D", bound=Config)

_paths_allowed = ContextVar("paths_allowed", default=True)


def paths_allowed() -> bool:
    """Whether what is validated is the user's own, so that it may name components by path."""
    return _paths_allowed.get()


@contextmanager
def names_only() -> Generator[None]:
    """Refuse import paths within this block: the spec at hand is somebody else's."""
    token = _paths_allowed.set(False)
    try:
        yield
    finally:
        _paths_allowed.reset(token)


@contextmanager
def _working_folder_importable(wanted: bool) -> Generator[None]:
    """Search the working folder last, as ``python -m`` would, within this block only."""
    added = wanted and "" not in sys.path
    if added:
        sys.path.append("")
    try:
        yield
    finally:
        if added and "" in sys.path:
            sys.path.remove("")


class Registry(Generic[C]):
    """The components of one kind.

    Example:
        >>> encoders["vit"](width=192).width
        192
    """

    def __init__(
        self,
        interface: type[C],
        *,
        group: str,
        plugin_hints: Mapping[str, str] | None = None,
        other_names: Mapping[str, str] | None = None,
    ) -> None:
        """Serve subclasses of ``interface``, also from the entry-point group ``group``.

        ``plugin_hints`` maps names to the plugin package that offers them, ``other_names``
        patterns of names to what they are called here, both for error messages.
        """
        self.interface = interface
        self.group = group
        self.plugin_hints = plugin_hints or {}
        self.other_names = other_names or {}
        self.registered: dict[str, type[C]] = {}
        self.renamed: dict[str, NewName] = {}
        interface.registry = self

    def __repr__(self) -> str:
        """Return the names that are registered in this program; installed ones are not sought."""
        return f"<registry of {self.interface.kind}s: {', '.join(self.registered)}>"

    def register(
        self, name: str, *, formerly: Mapping[str, str] | None = None
    ) -> Callable[[type[D]], type[D]]:
        """Give the decorated class a name in this program.

        Args:
            name: what a spec calls it.
            formerly: its older names, which work and are warned of, and the last release of each.

        Raises:
            ValueError: the name is taken by another class.
            PluginError: the class is not a finished component of this kind.
        """

        def add(cls: type[D]) -> type[D]:
            taken = self.registered.get(name)
            if taken and path_of(taken) != path_of(cls):  # a reload is fine, a clash is not
                msg = f"{self.interface.kind} {name!r} is already {path_of(taken)}"
                raise ValueError(msg)
            self.registered[name] = self._check(cls, path_of(cls))
            self.renamed |= {old: NewName(name, last) for old, last in (formerly or {}).items()}
            return cls

        return add

    def __getitem__(self, name: str) -> type[C]:
        """Return the class that ``name`` stands for, importing it if need be.

        Raises:
            UnknownComponent: nothing, or more than one thing, has that name.
            PluginError: something has that name, but its package is broken.
        """
        if name in self.registered:
            return self.registered[name]
        if new := self.renamed.get(name):
            warn_unless_told(f"{self.interface.kind} {name!r} is now {new.name!r}")
            return self.registered[new.name]
        if ":" in name:
            if not _paths_allowed.get():
                msg = (
                    f"{name!r} is an import path, which only your own spec may use; if this one is "
                    "yours, add --trusted (trusted=True)"
                )
                raise UnknownComponent(msg)
            return self.load(PluginEntry(name))
        offers = self.installed.get(name, [])
        if len(offers) != 1:
            raise UnknownComponent(self._complain(name, offers))
        return self.load(offers[0])

    def __iter__(self) -> Iterator[str]:
        """Yield every name, sorted, without importing anything."""
        return iter(sorted({*self.registered, *self.installed}))

    @cached_property
    def installed(self) -> dict[str, list[PluginEntry]]:
        """What installed packages offer, by name; ``CONTRASTIVE_PLUGINS`` says whose counts."""
        everything = offered_in(self.group).items()
        kept = {name: [offer for offer in some if is_enabled(offer)] for name, some in everything}
        return {name: some for name, some in kept.items() if some}

    def load(self, offer: PluginEntry) -> type[C]:
        """Import what a package offers.

        Raises:
            PluginError: chained to its cause, naming package, version and import path.
        """
        try:
            return self._check(self.imported(offer), str(offer))
        except PluginError as error:
            msg = f"{error}{offer.fit}"
            raise PluginError(msg) from error.__cause__

    def imported(self, offer: PluginEntry) -> object:
        """Import what a package offers, whatever it is.

        Raises:
            PluginError: chained to its cause.
        """
        from importlib.metadata import EntryPoint

        if not EntryPoint.pattern.match(offer.path):
            msg = f"{self.interface.kind} {offer} is not an import path; write package.module:Class"
            raise PluginError(msg)
        if not offer.dist:  # nothing was scanned for it; it may import torch, which scans
            disable_entry_point_scans()
        try:
            # stdout carries our results, maybe JSON
            with _working_folder_importable(not offer.dist), redirect_stdout(sys.stderr):
                found: Any = EntryPoint(name=offer.path, value=offer.path, group="").load()
            if isinstance(found, type) and issubclass(found, Config):
                found.model_rebuild()  # an annotation that cannot be resolved shows here
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a package must not end our process
            msg = f"{self.interface.kind} {offer} is broken: {reason(error)}"
            raise PluginError(msg) from error
        return cast("object", found)

    def name_of(self, cls: type[Config]) -> str:
        """Return what a spec should call ``cls``: its name, or its import path."""
        for name, known in self.registered.items():
            if known is cls:
                return name
        for name, offers in self.installed.items():
            if name not in self.registered and len(offers) == 1 and self._leads(offers[0], cls):
                return name
        return path_of(cls)

    def package_of(self, cls: type[Config]) -> tuple[str, str] | None:
        """Return the installed package and version that offers ``cls``, if one does."""
        for offer in (offer for offers in self.installed.values() for offer in offers):
            if self._leads(offer, cls):
                return offer.package, offer.version
        return None

    def _leads(self, offer: PluginEntry, cls: type[Config]) -> bool:
        """Tell whether ``offer`` is ``cls``, maybe by the path of a re-export."""
        if offer.path == path_of(cls):
            return True
        if offer.path.partition(":")[0].partition(".")[0] != cls.__module__.partition(".")[0]:
            return False  # another package, which need not be imported to know
        try:
            return self.load(offer) is cls
        except PluginError:
            return False

    def _check(self, found: object, path: str) -> type[C]:
        """Insist on a finished subclass of the interface."""
        if not (isinstance(found, type) and issubclass(found, self.interface)):
            what = found.__name__ if isinstance(found, type) else a_type(found)
            msg = f"{path} should be a subclass of {self.interface.__name__}, but is {what}"
            raise PluginError(msg)
        unset = {name for name in self.interface.__class_vars__ if not hasattr(found, name)}
        if missing := sorted({*getattr(found, "__abstractmethods__", ()), *unset}):
            msg = f"{path} does not define {', '.join(missing)}, as {self.interface.__name__} asks"
            raise PluginError(msg)
        if "type" in found.model_fields:
            msg = f"{path} has a field 'type', the key that chooses a component; rename it"
            raise PluginError(msg)
        return found

    def _complain(self, name: str, offers: list[PluginEntry]) -> str:
        what = f"{self.interface.kind} {name!r}"
        if offers:
            return f"{what} is offered more than once; write {' or '.join(map(str, offers))}"
        if without := self.disabled_by(name) or origin_of(self.interface.kind, name):
            return f"unknown {what}; {without}"
        if package := self.plugin_hints.get(name):
            known = f"there are: {', '.join(self)}"
            return f"unknown {what}; {known}; the plugin {package} offers it: pip install {package}"
        close = difflib.get_close_matches(name, list(self), n=2)
        meant = component_meant(name, self.other_names, self)
        hint = meant or " or ".join(map(repr, close))
        return f"unknown {what}; " + (
            f"did you mean {hint}?" if hint else f"there are: {', '.join(self)}"
        )

    def disabled_by(self, name: str) -> str:
        """Say who would offer ``name`` if its package were not switched off; or nothing."""
        chosen = chosen_packages()
        if chosen is None or not (by := offered_in(self.group).get(name)):
            return ""
        packages = " and ".join(f"{offer.package} {offer.version}" for offer in by)
        switch = (
            f"{SWITCH}={','.join(sorted(chosen))}" if chosen else f"--no-plugins ({SWITCH}=none)"
        )
        return f"it is offered by {packages}, which {switch} leaves out"


def path_of(cls: type) -> str:
    """Return the import path of ``cls``."""
    return f"{cls.__module__}:{cls.__qualname__}"


def reason(error: BaseException) -> str:
    """Return an error as one line."""
    try:
        said = " ".join(str(error).split())
    except Exception as flaw:  # of somebody else's __str__
        said = f"(its __str__ raises {type(flaw).__name__})"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
