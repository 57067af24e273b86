"""The programs that a model is exported to, and what the module of each has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

from contrastive.errors import ContrastiveError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from contrastive.model.model import ContrastiveModel

Program = Literal["contrastive", "transformers", "sentence-transformers", "onnx"]


@dataclass(frozen=True)
class Target:
    """A program that opens what is exported."""

    module: str
    """Of this folder; templates has a file of that name, with ``embed`` for ``verify.py``."""
    packages: tuple[str, ...]
    """What the folder is opened with; their versions are written down."""
    tolerance: float = 1e-5
    """The largest difference of a number of an embedding that is let pass."""
    ours: bool = False
    """The program is this package, and takes a model as it is, with its LoRA."""


TARGETS: dict[Program, Target] = {
    "contrastive": Target("saved_model", ("contrastive-kit",), ours=True),
    "transformers": Target("transformers", ("transformers",)),
    "sentence-transformers": Target(
        "sentence_transformers", ("sentence-transformers", "transformers", "timm")
    ),
    "onnx": Target("onnx", ("onnxruntime", "tokenizers", "onnx"), tolerance=1e-4),
}


class TargetModule(Protocol):
    """What the module of a target has."""

    def check(self, model: ContrastiveModel, towers: Sequence[str]) -> None:
        """Insist that these towers can be exported.

        Raises:
            SpecError: one cannot; one line with the place, the reason and what is possible.
            MissingExtra: a library that writes the folder is not installed.
        """
        ...

    def write(self, model: ContrastiveModel, folder: Path, towers: Sequence[str]) -> list[str]:
        """Write the files into an empty folder; return what a user should know, a line each.

        Args:
            model: in eval mode, fp32, on the CPU, LoRA merged.
            folder: is there, and empty.
            towers: modalities, each with a tower.
        """
        ...

    def usage(self, folder: Path, towers: Sequence[str]) -> str:
        """Return the lines of Python that load the folder and embed with it."""
        ...


def target_named(to: Program) -> Target:
    """Return a target.

    Raises:
        SpecError: there is none of that name.
    """
    if to not in TARGETS:
        msg = f"to: {to!r} is no target; there are: {', '.join(TARGETS)}"
        raise SpecError(msg)
    return TARGETS[to]


def module_of(target: Target) -> TargetModule:
    """Return the module of a target, imported when it is asked for."""
    return cast("TargetModule", import_module(f"contrastive.exporters.{target.module}"))


def check(model: ContrastiveModel, to: Program, towers: Sequence[str]) -> None:
    """Insist that a program can open what is exported.

    Raises:
        SpecError: it cannot; says which could.
    """
    try:
        module_of(TARGETS[to]).check(model, towers)
    except SpecError as error:
        others = [
            name
            for name in TARGETS
            if name != to and not refusal(model, name, towers) and not TARGETS[name].ours
        ]
        alone = [one for one in towers if len(towers) > 1 and not refusal(model, to, [one])]
        possible = [*(f"--to {name}" for name in others), *(f"--tower {one}" for one in alone)]
        remedy = f"possible: {' or '.join(possible)}" if possible else "no other program takes it"
        msg = f"{error}; {remedy}"
        raise SpecError(msg) from error


def refusal(model: ContrastiveModel, to: Program, towers: Sequence[str]) -> str:
    """Return why a program cannot open what is exported; "" if it can."""
    try:
        module_of(TARGETS[to]).check(model, towers)
    except ContrastiveError as error:
        return str(error)
    return ""


def usage_of(to: Program, folder: Path, towers: Sequence[str]) -> str:
    """Return the lines of Python that load a folder of a program."""
    return module_of(TARGETS[to]).usage(folder, towers)


def quoted(folder: Path) -> str:
    """Return a folder as Python has it in quotes, whatever its name is."""
    return json.dumps(folder.as_posix(), ensure_ascii=False)
