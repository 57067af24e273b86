"""A new plugin package that is complete: menu, module, tests, CI, and passes its tests as written.

The files are in ``templates``: what all kinds share, and a folder for each kind. They are a package
called ``acme``, whose names are replaced.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.errors import SpecError
from contrastive.version import __version__

if TYPE_CHECKING:
    from contrastive.config.registry import Registry

TEMPLATES = Path(__file__).with_name("templates")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
LONGEST = 23  # of a name, so that no import of the package is longer than a line
RESERVED = {"kit", "encoder", "head", "loss", "dataset", "scaled"}  # names of ours
MODULES = {
    "encoder": "network",
    "head": "projection",
    "loss": "margin",
    "dataset": "table",
}
"""By kind, the module of the template that does the work."""


def new_package(
    name: str, registry: Registry[Any], *, modality: str | None = None, folder: Path | None = None
) -> list[Path]:
    """Write a package that offers one component, and return its files.

    Args:
        name: what a spec calls the component; the package is ``contrastive-NAME``.
        registry: of its kind.
        modality: what an encoder encodes; an image if not given. Other kinds have none.
        folder: where; ``contrastive-NAME`` here if not given.

    Raises:
        SpecError: the name cannot be one or is taken, the kind has no template, or the folder
            holds files.
    """
    kind = registry.interface.kind
    _check_name(name, registry)
    if kind not in MODULES:
        msg = f"there is no template for the kind {kind!r}; there are: {', '.join(MODULES)}"
        raise SpecError(msg)
    if modality and kind != "encoder":
        msg = f"--modality {modality}: only an encoder has one; leave it out"
        raise SpecError(msg)
    modality = modality or "image"
    if not NAME.fullmatch(modality):
        msg = f"modality {modality!r}: write it in lower case, such as image, text or audio"
        raise SpecError(msg)
    folder = folder or Path(f"contrastive-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        msg = f"{folder}: is there already; choose another with --output"
        raise SpecError(msg)
    template = kind
    if kind == "encoder":
        template += f"-{modality}" if modality in ("image", "text") else "-signal"
    words = _words(name, registry, modality)
    words["EXAMPLE"] = _filled((TEMPLATES / template / "example.yaml").read_text("utf-8"), words)
    return [
        _write(source, folder / _filled(str(source.relative_to(base)), words), words)
        for base in (TEMPLATES / "common", TEMPLATES / template)
        for source in sorted(base.rglob("*"))
        if source.is_file() and "__pycache__" not in source.parts
    ]


def _check_name(name: str, registry: Registry[Any]) -> None:
    kind = registry.interface.kind
    if not NAME.fullmatch(name) or len(name) > LONGEST or name in RESERVED:
        msg = (
            f"{name!r} cannot be the name of a package: write lower-case letters, digits and "
            f"single hyphens, at most {LONGEST}, and a word that says what the {kind} does"
        )
        raise SpecError(msg)
    if name in registry.registered:
        msg = f"{kind} {name!r} is built in; choose another name"
        raise SpecError(msg)
    if offers := registry.installed.get(name):
        msg = f"{kind} {name!r} is taken by {offers[0].package}; choose another name"
        raise SpecError(msg)


def _words(name: str, registry: Registry[Any], modality: str) -> dict[str, str]:
    """Return what the template's words become."""
    kind, module = registry.interface.kind, name.replace("-", "_")
    return {
        "contrastive_acme": f"contrastive_{module}",
        "test_acme": f"test_{module}",
        "Acme": "".join(part.capitalize() for part in name.split("-")),
        "acme": name,
        "dot-": ".",  # a file of templates/ that were hidden would be easy to lose
        "KIND": kind,
        "CLASS": registry.interface.__name__,
        "GROUP": registry.group,
        "RELEASE": __version__,
        "MODULE": MODULES[kind],
        "MODALITY": modality,
    }


def _filled(text: str, words: dict[str, str]) -> str:
    """Replace all words at once, so that what one becomes is not replaced again."""
    return re.sub("|".join(words), lambda found: words[found[0]], text)


def _write(source: Path, to: Path, words: dict[str, str]) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(_filled(source.read_text("utf-8"), words), encoding="utf-8")
    return to
