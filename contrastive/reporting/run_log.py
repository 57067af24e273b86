"""What happened at each step, as JSON lines that survive a crash and a resume."""

from __future__ import annotations

import json
import os
from collections import deque
from contextlib import contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NotRequired, Required, Self

from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from contrastive.config.local_files import read_bounded
from contrastive.console import say, say_omission
from contrastive.data.storage.atomic_files import link, replace_file, write_all
from contrastive.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from contrastive.evaluation.evaluate import EvaluationReport


class CaptionFacts(TypedDict):
    """How the captions and the ids of the training split relate."""

    rows: int
    groups: int
    duplicated: int
    """Rows whose caption is also at another id."""
    met: float
    """Expected share of a batch's rows that meet their own caption at another id."""
    example: str
    """The caption that stands at most rows."""
    floor: float
    """Least InfoNCE loss where rows of one id are all positives."""


class SharedFacts(TypedDict):
    """What a held-out split shares with training."""

    groups: int
    known: int
    """Groups that training has too."""
    by_sample: NotRequired[int]
    """Those of them that share a sample; the others share captions."""
    first: str
    """Where the first of them is."""


class RunFacts(TypedDict, total=False):
    """What does not change in a run."""

    batch: int
    """Candidates of each row."""
    batch_of_process: int
    """Rows of this rank."""
    steps: int
    warmup: int
    embed_dim: int
    loss: dict[str, Any]
    """The spec of the loss."""
    captions: CaptionFacts
    held_out: dict[str, SharedFacts]
    """By split."""
    dataset: str
    """What to call the data."""
    data_fields: list[str]
    """Fields of the spec's data."""
    frozen: dict[str, str]
    """What of each tower is frozen: none, encoder or all."""
    precision: str
    """fp32, bf16 or fp16: what ``auto`` has chosen."""
    batch_norm: dict[str, float]
    """The least momentum of the BatchNorm that trains, of each tower that has some."""


class Interval(TypedDict):
    """An estimate with its interval, as plain data."""

    value: float
    low: float
    high: float
    chance: float


class DirectionShape(TypedDict):
    """Retrieval in one direction, as plain data."""

    recall: Annotated[dict[Annotated[str, Field(pattern=r"^\d+$")], Interval], Field(min_length=1)]
    queries: int
    targets: int


class GeometryShape(TypedDict):
    """The geometry of a modality's embeddings, as plain data."""

    mean_cosine: float
    uniformity: float
    effective_rank: float
    samples: int


class EvaluationShape(TypedDict, total=False):
    """An ``EvaluationReport``, as plain data."""

    retrieval: Required[dict[str, DirectionShape]]
    geometry: dict[str, GeometryShape]


class GeometryAtStart(TypedDict):
    """The geometry of the embeddings before the first step."""

    geometry: dict[str, GeometryShape]


class FindingShape(TypedDict, total=False):
    """What the doctor found, as plain data."""

    code: Required[str]


class LogLine(TypedDict, total=False):
    """A line of the log. That of a step also has the metrics of its loss, by their names.

    Its readers rely on what stands here; other fields may be anything.
    """

    step: Required[int]
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    """Not of a step that was left out since its gradients overflow fp16."""
    loss_scale: float
    """In fp16: the scale after this step."""
    skipped_steps: float
    """In fp16: how many steps were left out until then."""
    log_scale: float
    evaluation: EvaluationShape
    not_measured: str
    """Why there is none."""
    run: RunFacts
    start: GeometryAtStart
    gradients: dict[str, float]
    """Norm of the gradient of each part that trains."""
    finding: FindingShape


SHAPE = TypeAdapter(LogLine)
MAX_BYTES = 1 << 33  # of a log; a line takes about 200
DIGITS = 100  # of a number; a step has 10


class Log:
    """An append-only file with a line for each step and each evaluation."""

    def __init__(
        self,
        path: Path | None,
        *,
        keep_until: int = 0,
        measured: bool = True,
        expected: int | None = None,
    ) -> None:
        """Open ``path``; what cannot be kept of it stays beside it.

        Args:
            path: the file; None keeps nothing, since the main rank has the log.
            keep_until: lines after this step belong to work that is done again.
            measured: whether lines of that step but its own are kept: otherwise they are, too.
            expected: how many lines there were when that step was saved.

        Raises:
            TrainingError: it cannot be written.
        """
        self.path = path or Path(os.devnull)
        self.lines = 0
        """How many it has."""
        self.listener: Callable[[str, int, dict[str, Any]], None] | None = None
        """Is given each step and each evaluation after it is written: as whose, its step and its
        metrics."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.lines = _keep(path, keep_until, measured=measured, expected=expected)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._descriptor = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o666)

    def step(self, step: int, epoch: float, **metrics: Tensor | float) -> None:
        """Note the metrics of one step."""
        plain = {k: v.item() if isinstance(v, Tensor) else v for k, v in metrics.items()}
        self._write({"step": step, "epoch": epoch, **plain})
        if self.listener:
            self.listener("on_step", step, {"epoch": epoch, **plain})

    def evaluation(self, step: int, epoch: float, report: EvaluationReport) -> None:
        """Note an evaluation."""
        self._write({"step": step, "epoch": epoch, "evaluation": report.as_dict()})
        if self.listener:
            self.listener("on_evaluation", step, report.metrics())

    def note(self, line: LogLine) -> None:
        """Note something else, as plain data."""
        self._write({**line})

    def flush(self) -> None:
        """Have all lines on the disk, before a checkpoint that relies on them.

        Raises:
            TrainingError: they cannot be written, or the file is no longer in its place: what is
                there now may be another run's.
        """
        with _cannot_be_written(self.path):
            os.fsync(self._descriptor)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                return
        msg = (
            f"{self.path}: is not the log of this run any more: it or its folder was moved, "
            "removed or replaced; nothing more is saved; go on with resume=True (--resume) where "
            "the checkpoints are now"
        )
        raise TrainingError(msg)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _write(self, line: dict[str, Any]) -> None:
        text = json.dumps(line | {"epoch": round(line["epoch"], 6)}) + "\n"
        with _cannot_be_written(self.path):
            write_all(self._descriptor, text.encode())
        self.lines += 1


def read_log(path: Path, *, steps: int | None = None) -> list[LogLine]:
    """Return the lines of a log; those that are none are counted and told.

    One that is cut off at the end is left out: a crash does that, or a run that writes it now.

    Args:
        path: the file.
        steps: keep the newest so many steps, and of those before as many at most, evenly spaced;
            None keeps all.
    """
    bad = 0
    kept = _Thinned(steps)
    others: list[tuple[int, LogLine]] = []
    for number, (_, line) in enumerate(_parse(_content(path))):
        if line is None:
            bad += 1
        elif "loss" not in line:
            others.append((number, line))
        else:
            kept.add((number, line))
    if bad:
        say_omission(f"{path}: {_lines(bad)} no line of a log, left out")
    return [line for _, line in sorted([*kept.old, *kept.new, *others], key=itemgetter(0))]


class _Thinned:
    """The newest so many steps, and of those before as many at most, evenly spaced."""

    def __init__(self, most: int | None) -> None:
        self.most = most
        self.old: list[tuple[int, LogLine]] = []
        self.new: deque[tuple[int, LogLine]] = deque()
        self.passed, self.stride = 0, 1

    def add(self, step: tuple[int, LogLine]) -> None:
        self.new.append(step)
        if self.most is None or len(self.new) <= self.most:
            return
        first = self.new.popleft()
        if self.passed % self.stride == 0:
            self.old.append(first)
        self.passed += 1
        if len(self.old) > self.most:
            self.old = self.old[::2]
            self.stride *= 2


def holds_log(path: Path) -> bool:
    """Return whether a file is a log, or empty."""
    bad = False
    for _, line in _parse(_content(path)):
        if line is not None:
            return True
        bad = True
    return not bad


def _keep(path: Path, until: int, *, measured: bool, expected: int | None) -> int:
    """Reduce a log to the lines that stand; return how many these are."""
    content = _content(path)
    read = list(_parse(content))
    lines = [(raw, line) for raw, line in read if line is not None]
    bad = len(read) - len(lines)
    kept = [
        raw
        for raw, line in lines
        if line["step"] < until
        or (until and line["step"] == until and (measured or "loss" in line))
    ]
    with _cannot_be_written(path):
        if bad or (lines and not until):
            beside = _beside(path)
            why = f"{_lines(bad)} no line of a log" if bad else "is of a run that is begun anew"
            say(f"{path}: {why}; the file as it was is {beside.name}")
        if expected is not None and len(kept) < expected:
            say(f"{path}: {expected - len(kept)} of {expected} lines until step {until} are lost")
        if (new := b"".join(raw + b"\n" for raw in kept)) != content:
            replace_file(path, new)
    return len(kept)


def _beside(path: Path) -> Path:
    """Keep a file under a second name, which is new."""
    names = [path.with_name(f"{path.name}.bak-{i}") for i in range(1, 1000)]
    beside = next(name for name in names if not name.exists() or name.samefile(path))
    if not beside.exists():
        link(path, beside)
    return beside


def _content(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return b""


def _parse(content: bytes) -> Iterator[tuple[bytes, LogLine | None]]:
    """Yield the lines of a log, each as it is and parsed; None for what is no line of one."""
    start = 0
    while (end := content.find(b"\n", start)) >= 0:  # what a crash has cut off is after the last
        text, start = content[start:end], end + 1
        if text.strip():
            line = None
            with suppress(ValueError, RecursionError):
                line = json.loads(text.decode("utf-8-sig"), parse_int=_number)
            yield text, line if _is_line(line) else None


def _number(text: str) -> int:
    if len(text) > DIGITS:  # more than a float has room for
        msg = f"a number of {len(text)} digits"
        raise ValueError(msg)
    return int(text)


def _is_line(line: Any) -> bool:
    """Whether that is a line of a log, so that its readers need not ask again."""
    try:
        SHAPE.validate_python(line, strict=True)
    except ValidationError:
        return False
    return True


def _lines(count: int) -> str:
    return "1 line is" if count == 1 else f"{count} lines are"


@contextmanager
def _cannot_be_written(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise TrainingError(msg) from error
