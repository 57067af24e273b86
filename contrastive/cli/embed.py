"""``contrastive embed``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from contrastive.cli.context import Context
from contrastive.cli.options import Device, Json, Model, Split, Trusted
from contrastive.cli.output import show
from contrastive.cli.verb import LEFT_OUT
from contrastive.console import bar, noted_omissions, quiet, say, say_omission
from contrastive.errors import ContrastiveError, TrainingError

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from contrastive.inference.embedding_folder import EmbeddingFolder

NONE = (1, 1)  # of the shards: what to embed is settled, and nothing is
LOOK = 0.5  # seconds between looks at what is written


def embed(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A run's spec, a folder, or type=...,folder=...")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the embeddings go.")
    ],
    split: Split = None,
    *,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Store the first numbers of each embedding alone.")
    ] = None,
    quantize: Annotated[
        Literal["int8", "binary"] | None,
        typer.Option(help="Store a quarter of the bytes, or a 32nd: the signs."),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that embed, each with the model.")
    ] = 1,
    model: Model = None,
    trusted: Trusted = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Embed a dataset into safetensors and Parquet, for any tool; goes on where it was."""
    context = Context(model, device=device, trusted=trusted)
    work = _Work(data, output, split, dim, quantize, context.folder, trusted, device)
    written = work.part(context, (0, 1) if processes == 1 else NONE)
    if written.missing():
        _in_processes(work, processes, written)
    rows = {modality: written.rows(modality) for modality in written.modalities}
    about: dict[str, Any] = {"folder": str(output), "rows": rows}
    lines = [f"saved: {output}"]
    if dim or quantize:
        from contrastive.evaluation.stored_recall import recall_as_stored

        samples = context.build(*work.chosen(context))
        found = recall_as_stored(context.model, samples, written.form, cache=context.cache)
        about["recall"] = [asdict(one) for one in found]
        lines += [str(one) for one in found] or ["what is lost was not measured: nothing to find"]
    show(about, as_json, *lines)


@dataclass(frozen=True)
class _Work:
    """What is asked for, as a process is told it."""

    data: str
    output: Path
    split: str | None
    dim: int | None
    quantize: Any
    model: Path
    trusted: bool
    device: str

    def chosen(self, context: Context) -> tuple[Any, str]:
        """Return the run whose data are embedded, and which split of them."""
        run = context.run(self.data, remedy="DATA")
        return run, self.split or run.evaluation.final_split

    def part(self, context: Context, part: tuple[int, int] = (0, 1)) -> EmbeddingFolder:
        """Embed a part of the shards."""
        run, split = self.chosen(context)
        loaded = context.model
        from contrastive.data.worker_processes import worker_count
        from contrastive.inference.embedding_folder import embed as write

        return write(
            loaded,
            context.build(run, split, remedy="DATA"),
            self.output,
            dim=self.dim,
            quantize=self.quantize,
            cache=context.cache,
            workers=0 if part[1] > 1 else worker_count(run.training.workers),
            part=part,
        )


def _in_processes(work: _Work, processes: int, written: EmbeddingFolder) -> None:
    """Embed in several processes, which share the cores.

    Raises:
        TrainingError: one did not come to its end; what all have written is kept.
    """
    import multiprocessing
    from multiprocessing.connection import wait

    from contrastive.data.worker_processes import worker_count

    threads = max(1, worker_count("auto") // processes)
    spawn = multiprocessing.get_context("spawn")
    parts = [(work, (i, processes), threads) for i in range(processes)]
    started = [spawn.Process(target=_embed_part, args=part) for part in parts]
    running: list[SpawnProcess] = [*started]
    left = len(written.missing())
    try:
        for process in started:
            process.start()
        with bar("embedding shards", left) as advance:
            while running:
                wait([process.sentinel for process in running], timeout=LOOK)
                running = [process for process in running if process.is_alive()]
                still = len(written.missing())
                if still < left:
                    advance(left - still, "")
                    left = still
    finally:
        for process in started:
            process.terminate()
    codes = [process.exitcode for process in started]
    if wrong := [code for code in codes if code not in (0, LEFT_OUT)]:
        msg = f"--processes: one ended with {wrong[0]}; what is written is kept, run the same again"
        raise TrainingError(msg)
    if LEFT_OUT in codes:
        say_omission("some samples were left out, as said above")


def _embed_part(work: _Work, part: tuple[int, int], threads: int) -> None:
    """Do a share in a process of its own, whose mistakes are one line."""
    from torch import set_num_threads

    set_num_threads(threads)
    with noted_omissions() as omitted, quiet():
        try:
            work.part(Context(work.model, device=work.device, trusted=work.trusted), part)
        except KeyboardInterrupt:
            sys.exit(130)
        except ContrastiveError as error:
            say(str(error))
            sys.exit(2)
    sys.exit(LEFT_OUT if omitted else 0)
