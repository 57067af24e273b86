"""Rewrite a spec of an older release: only names change; comments and layout stay."""

from __future__ import annotations

import os
import shutil
import warnings
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from contrastive.config.renamed import OldName, old_names
from contrastive.config.yaml_files import load_spec, read_yaml
from contrastive.errors import RenamedWarning, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from contrastive.config.base import Config


def upgrade_file(
    kind: Callable[[dict[str, Any]], type[Config]],
    path: Path,
    output: Path,
    *,
    trusted: bool | None = None,
) -> list[OldName]:
    """Write a spec with the names of this release; return the old ones, in the order of the file.

    Args:
        kind: what chooses the config class by the content.
        path: the file.
        output: where to write; may be ``path``. Nothing is written if no name is old.
        trusted: as of ``load_spec``.

    Raises:
        SpecError: the spec has mistakes; one line for each.
    """
    data, lines = read_yaml(path)
    output = output.resolve()  # a link stays, and the file that it leads to is written
    with warnings.catch_warnings(action="ignore", category=RenamedWarning):
        before = load_spec(kind, path, trusted=trusted)
    found = sorted(old_names(before, data), key=lambda old: lines[old.key_path])
    if not found:
        return []
    raw = path.read_bytes()
    encoding = "utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8"
    text = raw.decode(encoding)
    root = YAML(typ="safe", pure=True).compose(text)  # pyright: ignore[reportUnknownMemberType]
    nodes = [(_node(root, old), old.new.name) for old in found]
    by_place = {node.start_mark.index: (node, new) for node, new in nodes}  # two aliases are one
    for start in sorted(by_place, reverse=True):
        text = _renamed(text, *by_place[start])
    building = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        building.write_bytes(text.encode(encoding))
        shutil.copymode(output if output.exists() else path, building)
        if load_spec(kind, building, trusted=trusted) != before:
            msg = f"{path}: cannot be upgraded by itself; change by hand: {found[0]}"
            raise SpecError(msg)
        building.replace(output)
    finally:
        building.unlink(missing_ok=True)
    return found


def _renamed(text: str, node: Any, new: str) -> str:
    """Return a text with another name where ``node`` is: quoted as it was, since JSON needs it."""
    start, end, quote = node.start_mark.index, node.end_mark.index, node.style or ""
    old = text[start:end]
    before = old[: old.index(quote) if quote else old.rindex(node.value)]  # an anchor or a tag
    return f"{text[:start]}{before}{quote}{new}{quote}{text[end:]}"


def _node(node: Any, old: OldName) -> Any:
    """Return the node of an old name: a key, or its value."""
    for name in old.key_path[:-1]:
        node = node.value[int(name)] if node.id == "sequence" else _item(node, name)[1]
    return _item(node, old.key_path[-1])[1 if old.component else 0]


def _item(mapping: Any, name: str) -> tuple[Any, Any]:
    return next((key, value) for key, value in mapping.value if key.value == name)
