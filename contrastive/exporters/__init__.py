"""The way out: a model as a folder that another program opens without this package.

A target is a module of this folder with ``check``, which refuses in one line what cannot be
exported before anything is written, ``write``, and ``usage``. What was written is opened by the
other program in a process without this package, and compared, before it takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from contrastive.config.arguments import check_model, path_of
from contrastive.console import say
from contrastive.errors import SpecError
from contrastive.exporters.targets import check, module_of, target_named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from contrastive.data.samples import Samples
    from contrastive.exporters.model_card import Record
    from contrastive.exporters.targets import Program
    from contrastive.model.model import ContrastiveModel


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

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload an export of contrastive-kit",
    ) -> str:
        """Upload the folder to a repository of the Hub, made if need be; return its address.

        Args:
            repo_id: ``OWNER/NAME``, as it was given to ``export`` for the card.
            private: whether a new repository is; by default as the owner has it set.
            token: by default the one of ``hf auth login``.
            commit_message: of the upload.

        Raises:
            WeightsError: who is logged in may not write there, or the Hub cannot be reached.
        """
        from contrastive.model.hub import check_repository, upload

        repo_id = check_repository(repo_id, private=private, token=token)
        return upload(self.folder, repo_id, token=token, commit_message=commit_message)


def check_export(
    model: ContrastiveModel, to: Program, *, tower: str | None = None, int8: bool = False
) -> list[str]:
    """Insist that ``export`` can write a model for a program; return the towers that are written.

    Raises:
        SpecError: it cannot; says what is possible.
        MissingExtra: a library is not installed.
    """
    target_named(to)
    if int8 and to != "onnx":
        msg = f"int8: {to} has no files with weights of 8 bits; leave it out, or take onnx"
        raise SpecError(msg)
    towers = [*model.towers] if tower is None else [tower]
    for modality in towers:
        model.tower(modality)
    check(model, to, towers)
    return towers


def export(
    model: ContrastiveModel,
    to: Program,
    output: str | PathLike[str],
    *,
    samples: Samples | None = None,
    tower: str | None = None,
    keep_samples: bool = True,
    int8: bool = False,
    record: Record | None = None,
    repo_id: str | None = None,
) -> Exported:
    """Write a model as a folder that another program opens, and compare its embeddings there.

    The folder holds ``verify.py``, which repeats the comparison without this package,
    ``export.json``, which says what else belongs to the model, such as its logit scale, and
    ``README.md``, a model card.

    Args:
        model: the model; LoRA is merged into its weights, but for this package.
        to: the program: ``transformers``, ``sentence-transformers`` or ``onnx`` (ONNX Runtime); or
            ``contrastive``, this package, for a saved model with all that it needs.
        output: the folder; it is made, or replaced if ``export`` wrote it.
        samples: a built dataset, such as a test split, of which 32 samples are compared and kept in
            the folder, beside some odd ones; by default samples are generated.
        tower: export this modality alone; by default all.
        keep_samples: keep the samples and ``verify.py`` in the folder.
        int8: write a second, smaller file of each tower, too, with weights of 8 bits, and measure
            its recall on ``samples``; of ``onnx`` alone.
        record: what is known of the model, for the card.
        repo_id: ``OWNER/NAME`` on the Hub, if it goes there, for the card.

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
    from contrastive.exporters.model_card import Record, model_card
    from contrastive.exporters.plain import on_cpu, plain_model
    from contrastive.exporters.verification import verified, write_verification
    from contrastive.model.hub import ALONE, write_card

    check_model(model)
    place = path_of("output", output)
    towers = check_export(model, to, tower=tower, int8=int8)
    check_place(place)
    target = target_named(to)
    module = module_of(target)
    model = on_cpu(model)
    plain = model if target.ours else plain_model(model)
    with building(place, plain, to, towers) as folder:
        say(f"writing {place}, for {to}")
        notes = module.write(plain, folder, towers)
        write_verification(model, folder, target, towers, samples)
        say(f"{to} opens it in a process of its own, to compare")
        found = verified(folder, to, target, keep_samples=keep_samples)
        if int8:
            from contrastive.exporters.onnx.int8 import write_int8

            notes += write_int8(plain, folder, towers, samples)
        known = replace(record or Record(), differences=found.differences, repeatable=keep_samples)
        name = repo_id or place.resolve().name or ALONE
        write_card(folder, model_card(model, known, to=to, repo_id=name))
    return Exported(
        folder=place,
        to=to,
        differences=found.differences,
        samples=found.samples,
        held_out=samples is not None,
        notes=notes,
        usage=module.usage(place, towers),
    )
