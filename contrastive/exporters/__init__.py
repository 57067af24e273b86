"""The way out: a model as a folder that another program opens without this package.

A target is a module of this folder with ``check``, which refuses in one line what cannot be
exported before anything is written, ``write``, and ``usage``. What was written is opened by the
other program in a process without this package, and compared, before it takes its place.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal, Protocol, cast

from contrastive.config.arguments import check_model, path_of
from contrastive.errors import ContrastiveError, SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.model.model import ContrastiveModel

Program = Literal["transformers", "sentence-transformers", "onnx"]


@dataclass(frozen=True)
class Target:
    """A program that opens what is exported."""

    module: str
    """Of this folder; templates has a file of that name, with ``embed`` for ``verify.py``."""
    packages: tuple[str, ...]
    """What the folder is opened with; their versions are written down."""
    tolerance: float = 1e-5
    """The largest difference of a number of an embedding that is let pass."""


TARGETS: dict[Program, Target] = {
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


@dataclass(frozen=True)
class Exported:
    """A folder that was written and compared with the model."""

    folder: Path
    to: Program
    differences: Mapping[str, float]
    """The largest difference of a number of the embeddings, by modality."""
    samples: Mapping[str, int]
    """How many were compared, by modality."""
    held_out: bool
    """They are of data; else they were generated."""
    notes: Sequence[str]
    """What a user should know, a line each."""
    usage: str
    """Lines of Python that load the folder and embed with it."""


def export(
    model: ContrastiveModel,
    to: Program,
    output: str | PathLike[str],
    *,
    samples: Samples | None = None,
    tower: str | None = None,
    keep_samples: bool = True,
    int8: bool = False,
) -> Exported:
    """Write a model as a folder that another program opens, and compare its embeddings there.

    The folder holds ``verify.py``, which repeats the comparison without this package, and
    ``export.json``, which says what else belongs to the model, such as its logit scale.

    Args:
        model: the model; LoRA is merged into its weights.
        to: the program: ``transformers``, ``sentence-transformers`` or ``onnx`` (ONNX Runtime).
        output: the folder; it is made, or replaced if ``export`` wrote it.
        samples: a built dataset, such as a test split, of which 32 samples are compared and kept in
            the folder; by default samples are generated.
        tower: export this modality alone; by default all.
        keep_samples: keep the samples and ``verify.py`` in the folder.
        int8: write a second, smaller file of each tower, too, with weights of 8 bits, and measure
            its recall on ``samples``; of ``onnx`` alone.

    Raises:
        SpecError: the model cannot be opened by that program; says what is possible.
        DataError: the folder is there and no export, or cannot be written.
        WeightsError: the other program's embeddings are not the model's; nothing is written.
        MissingExtra: a library is not installed.

    Example:
        >>> exported = export(model, "sentence-transformers", "exported")  # doctest: +SKIP
        >>> exported.differences  # doctest: +SKIP
        {'image': 0.0, 'text': 1.2e-07}
    """
    from contrastive.exporters.folder import building, check_place
    from contrastive.exporters.plain import on_cpu, plain_model
    from contrastive.exporters.verification import verified, write_verification

    check_model(model)
    place = path_of("output", output)
    target = target_named(to)
    if int8 and to != "onnx":
        msg = f"int8: {to} has no files with weights of 8 bits; leave it out, or take onnx"
        raise SpecError(msg)
    module = _module(target)
    towers = [*model.towers] if tower is None else [tower]
    for modality in towers:
        model.tower(modality)
    check_place(place)
    _check(model, to, towers)
    model = on_cpu(model)
    plain = plain_model(model)
    with building(place, plain, to, towers) as folder:
        notes = module.write(plain, folder, towers)
        write_verification(model, folder, target, towers, samples)
        found = verified(folder, to, target, keep_samples=keep_samples)
        if int8:
            from contrastive.exporters.onnx.int8 import write_int8

            notes += write_int8(plain, folder, towers, samples)
    return Exported(
        folder=place,
        to=to,
        differences=found.differences,
        samples=found.samples,
        held_out=samples is not None,
        notes=notes,
        usage=module.usage(place, towers),
    )


def target_named(to: Program) -> Target:
    """Return a target.

    Raises:
        SpecError: there is none of that name.
    """
    if to not in TARGETS:
        msg = f"to: {to!r} is no target; there are: {', '.join(TARGETS)}"
        raise SpecError(msg)
    return TARGETS[to]


def _module(target: Target) -> TargetModule:
    return cast("TargetModule", import_module(f"contrastive.exporters.{target.module}"))


def _check(model: ContrastiveModel, to: Program, towers: Sequence[str]) -> None:
    """Insist that a program can open what is exported.

    Raises:
        SpecError: it cannot; says which could.
    """
    try:
        _module(TARGETS[to]).check(model, towers)
    except SpecError as error:
        ways = [(f"--to {name}", x, [*towers]) for name, x in TARGETS.items() if name != to]
        ways += [(f"--tower {one}", TARGETS[to], [one]) for one in towers if len(towers) > 1]
        possible: list[str] = []
        for said, other, some in ways:
            with suppress(ContrastiveError):
                _module(other).check(model, some)
                possible.append(said)
        ways_out = f"possible: {' or '.join(possible)}" if possible else "no other program takes it"
        msg = f"{error}; {ways_out}"
        raise SpecError(msg) from error
