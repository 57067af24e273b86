"""Which images cannot be decoded, known before they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contrastive.console import bar
from contrastive.data.columns import chosen
from contrastive.data.content_hash import sample_keys
from contrastive.data.content_index import content_index
from contrastive.data.images import StoredImage, encoded, open_image
from contrastive.data.loading import in_groups
from contrastive.errors import BadSample, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

OF_FILES = (str, Path, bytes, StoredImage)
GROUP = 16  # images that a worker takes at a time


def undecodable(images: Sequence[Any], *, workers: int = 0) -> dict[int, str]:
    """Return the problems of the images that cannot be decoded, by index.

    Each is decoded once and remembered by its content, unless the disk failed, which may pass.
    Images in memory are taken as good.
    """
    index = content_index()
    problems: dict[int, str] = {}
    held = [i for i, image in enumerate(images) if isinstance(image, OF_FILES)]
    found = sample_keys(
        chosen(images, held), "image", lambda i, why: problems.update({held[i]: why})
    )
    keys = {i: key for i, key in zip(held, found, strict=True) if key}
    first = {key: i for i, key in reversed(keys.items())}
    todo = sorted(i for key, i in first.items() if index.problem_of(key) is None)
    if todo:
        with bar("checking images", len(todo)) as advance:
            for of_group in in_groups(_Decode(images), todo, GROUP, workers=workers):
                for i, (problem, lasts) in of_group.items():
                    if lasts:
                        index.note_problem(keys[i], problem)
                    else:
                        problems[i] = f"{_name(images[i])}{problem}"
                advance(len(of_group), "")
        index.write()
    for i, key in keys.items():
        if problem := index.problem_of(key):
            problems[i] = f"{_name(images[i])}{problem}"
    return problems


@dataclass(frozen=True)
class _Decode:
    images: Sequence[Any]

    def __getitem__(self, group: list[int]) -> dict[int, tuple[str, bool]]:
        return {i: _problem(self.images[i]) for i in group}


def _problem(image: Any) -> tuple[str, bool]:
    """Return why an image cannot be decoded, "" if it can, and whether that is of its content."""
    try:
        content = encoded(image)
    except BadSample as error:
        return str(error), True
    except MemoryError:
        raise
    except Exception as error:  # of the disk, or of a library that stores images
        return f"cannot be read: {reason_of(error)}", False
    try:
        open_image(content)
    except BadSample as error:
        return str(error).removeprefix("image: "), True
    return "", True


def _name(image: Any) -> str:
    return "image: " if isinstance(image, bytes) else f"{image}: "
