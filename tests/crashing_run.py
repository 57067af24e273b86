"""Work so small that it can end at each of its file operations, one process each."""

from __future__ import annotations

import errno
import json
import os
import shutil
import traceback
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from contrastive import Index, RunSpec, build_index, build_model, remove_from_index
from contrastive.console import quiet
from contrastive.data.storage import atomic_files
from contrastive.datasets import Dataset
from contrastive.encoders import Encoder
from contrastive.encoders.module import EncoderModule
from contrastive.errors import ContrastiveError
from contrastive.features import key_index, parts
from contrastive.features.cache import FeatureCache
from contrastive.features.key_index import run_names
from contrastive.features.parts import split_locations
from contrastive.features.store import Store
from contrastive.indexes.segments import rows_of_table
from contrastive.inference import embed
from contrastive.model import saved_folder
from contrastive.model.loading import find_model
from contrastive.training.train import train
from tests.file_operations import CRASHED, Operations, crash, fail
from tests.toys import tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Counts:
    """Preprocessing: a sample is a few numbers."""

    def __call__(self, samples):
        return {"counts": torch.tensor(samples, dtype=torch.float32)}

    def __repr__(self):
        return "Counts()"


class Linear(EncoderModule):
    """The encoder, frozen, so that its features are cached."""

    modality = "points"
    out_dim = 3

    def __init__(self):
        super().__init__()
        self.preprocess = Counts()
        self.layer = nn.Linear(4, 3)

    def forward(self, counts):
        return self.layer(counts)


class Points(Encoder):
    """Its config."""

    modality: ClassVar[str] = "points"

    def build(self):
        return Linear()


class Rows(Dataset):
    """Points with a name each; four more to measure."""

    shift: ClassVar[int] = 0
    """Of all points, whose names stay."""
    points: int = 12
    """To train on."""

    def build(self, split, *, purpose="evaluation"):
        first, count = {"train": (0, self.points), "val": (self.points, 4)}[split]
        return [
            {
                "points": [i + self.shift, i % 2, i % 3, 1],
                "text": f"name {i}",
                "id": i,
                "source": f"row {i}",
            }
            for i in range(first, first + count)
        ]


def spec(epochs: int, steps: int = 3) -> RunSpec:
    """Return a run of so many steps an epoch, each of which is saved."""
    towers = {
        "points": {
            "encoder": {"type": f"{__name__}:Points"},
            "head": {"type": "mlp", "hidden": 4, "dropout": 0.1},
            "frozen": "encoder",
        },
        "text": {
            "encoder": {"type": "cbow", "width": 4, "buckets": 16},
            "head": {"type": "linear"},
        },
    }
    training = {"epochs": epochs, "batch_size": 4, "checkpoint_every": 1, "workers": 0}
    model = {"embed_dim": 4, "towers": towers, "loss": {"type": "infonce"}}
    data = {"type": f"{__name__}:Rows", "points": 4 * steps}
    return RunSpec.model_validate({"model": model, "data": data, "training": training})


class Training:
    """A run in a folder, with its feature cache."""

    def __init__(self, epochs: int, steps: int = 3) -> None:
        self.spec = spec(epochs, steps)

    def prepare(self, root: Path) -> None:
        """Nothing is there."""

    def __call__(self, root: Path, *, resume: bool = False) -> None:
        with quiet():
            train(self.spec, root / "run", resume=resume, cache=FeatureCache(root / "cache"))

    def again(self, root: Path) -> None:
        try:
            self(root, resume=True)
        except ContrastiveError as error:
            if "nothing to resume" not in str(error):
                raise
            self(root)

    def outcome(self, root: Path) -> dict[str, Any]:
        """Return all that a run comes to: weights, moments, every line of the log, the names."""
        folder = root / "run"
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        if any("not_measured" in line for line in lines):  # told, and the run went on
            lines = [line for line in lines if "loss" in line]
        tensors = {
            f"{path.relative_to(folder)} {name}": tensor.tolist()
            for path in sorted(folder.rglob("*.safetensors"))
            for name, tensor in load_file(path).items()
        }
        names = {str(path.relative_to(root)) for path in root.rglob("*")}
        kept = {name for name in names if "log.jsonl.bak-" not in name}
        return {"log": lines, "tensors": tensors, "names": sorted(kept)}


class Saving:
    """A model that is saved over another one, beside which somebody has put a file."""

    def __init__(self, exchange: bool) -> None:
        if not exchange:
            atomic_files._exchange = lambda *_: False

    def _files(self, value: float) -> dict[str, Any]:
        weight = torch.full((2, 3), value)
        return {
            "model.safetensors": {"weight": weight},
            "seen.safetensors": {},
            "spec.json": {"towers": {}, "a": value},
            "parts.json": {"encoders": {}, "packages": {}},
        }

    def prepare(self, root: Path) -> None:
        saved_folder.write_folder(root / "model", self._files(1.0))
        (root / "model" / "README.md").write_text("mine")

    def __call__(self, root: Path) -> None:
        try:
            saved_folder.write_folder(root / "model", self._files(2.0))
        except ContrastiveError:
            saved = saved_folder.open_folder(find_model(root / "model"))
            assert saved.json("spec.json")["a"] == 1.0, "it is new, though an error is told"
            raise

    def again(self, root: Path) -> None:
        saved = saved_folder.open_folder(find_model(root / "model"))  # whoever comes before
        weight = saved.tensors("model.safetensors")["weight"]
        assert weight[0, 0].item() == saved.json("spec.json")["a"]
        self(root)

    def outcome(self, root: Path) -> dict[str, Any]:
        names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        saved = saved_folder.open_folder(root / "model")
        return {"names": names, "saved": saved.tensors("model.safetensors")["weight"].tolist()}


class Appending:
    """Features that are added to those of a store, which a training has mapped.

    A part is full after four rows, and each two rows get an index.
    """

    about: ClassVar[dict[str, Any]] = {"out_dim": 2}

    def __init__(self) -> None:
        parts.PART_BYTES = 4 * 2 * 4
        key_index.TAIL = 1

    @staticmethod
    def _keys(numbers: range) -> np.ndarray:
        return np.repeat(np.array(numbers, np.uint8)[:, None], 32, 1)

    def _append(self, root: Path, numbers: range) -> None:
        rows = np.array([[i, -i] for i in numbers], np.float32)
        store = Store(root, self.about)
        for i in range(0, len(rows), 2):
            store.append(self._keys(numbers[i : i + 2]), rows[i : i + 2])
        store.flush()

    def prepare(self, root: Path) -> None:
        self._append(root, range(1, 5))

    def __call__(self, root: Path) -> None:
        mapped = Store(root, self.about).features(0)
        before = mapped.copy()
        try:
            self._append(root, range(5, 9))
        finally:
            assert np.array_equal(mapped, before)

    def again(self, root: Path) -> None:
        self(root)

    def outcome(self, root: Path) -> dict[str, Any]:
        store = Store(root, self.about)
        places = split_locations(store.find(self._keys(range(1, 9))))
        return {
            "rows": [store.features(part)[row].tolist() for part, row in zip(*places, strict=True)],
            "runs": len(run_names(store.folder)) > 0,
        }


class Indexing:
    """An index that is built, brought up to its data, and loses rows; two samples a segment."""

    def __init__(self) -> None:
        embed.SHARD_ROWS = 2
        torch.manual_seed(0)
        self.model = build_model(tiny_model("infonce"))

    @staticmethod
    def _texts(numbers: range) -> list[dict[str, Any]]:
        return [{"text": f"a {i}", "id": i, "source": str(i)} for i in numbers]

    def _build(self, root: Path, numbers: range) -> None:
        with quiet():
            build_index(self.model, self._texts(numbers), root / "index")

    def prepare(self, root: Path) -> None:
        root.mkdir()
        self._build(root, range(5))

    def __call__(self, root: Path) -> None:
        self._build(root, range(2, 9))
        remove_from_index(root / "index", ["8"])

    def again(self, root: Path) -> None:
        index = Index(root / "index")
        rows = [
            row.id
            for segment in index.opened("text")
            for row in rows_of_table(segment.table, segment.live_numbers())
        ]
        assert sorted(rows) in ([*range(5)], [*range(2, 9)], [*range(2, 8)]), rows
        assert not index.damages()
        self(root)

    def outcome(self, root: Path) -> dict[str, Any]:
        index = Index(root / "index")
        hits = index.search(self.model.embed("text", ["a"]), "text", k=20)[0]
        return {
            "rows": sorted((hit.row.id, hit.row.source, hit.similarity) for hit in hits),
            "whole": not index.damages(),
            "encoding": (root / "index" / ".encoding").exists(),
        }


Work = Training | Saving | Appending | Indexing


def in_child(work: Callable[[], Any], told: Path) -> int:
    """Do it in a fork; return its exit code: 2 for an error in one line, 1 for a traceback."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 0
    try:
        work()
    except (ContrastiveError, OSError) as error:
        told.write_text(str(error))
        code = 2
    except BaseException:  # a child ends here, whatever happens
        told.write_text(traceback.format_exc())
        code = 1
    os._exit(code)


def end_at_every_operation(
    work: Work, folder: Path, how: str, step: int, but: str = ""
) -> tuple[int, list[str], float]:
    """Let work end at its operations, and do it again.

    Args:
        work: what changes files.
        folder: where.
        how: ``crash``, or the name of an error, which all later ones have too if there is a ``+``.
        step: every which operation.
        but: operations of this name are passed over.

    Returns:
        At how many operations it ended, what went wrong, and the seconds that it took.
    """
    started = os.times()
    torch.set_num_threads(1)
    told, names_file = folder / "told.txt", folder / "operations.json"
    warm, whole, root = folder / "warm", folder / "whole", folder / "broken"
    for place in (warm, whole):
        work.prepare(place)
    work(warm)  # what it imports and compiles is there in each fork

    def first() -> None:
        counted = Operations(whole, crash)
        work(whole)
        names_file.write_text(json.dumps(counted.names))

    assert in_child(first, told) == 0, told.read_text()
    expected = work.outcome(whole)
    names: list[str] = json.loads(names_file.read_text())
    ends = [at for at, name in enumerate(names) if not but or not name.startswith(f"{but} ")]
    act = crash if how == "crash" else fail(getattr(errno, how.rstrip("+")))
    wrong: list[str] = []
    for at in ends[::step]:
        shutil.rmtree(root, ignore_errors=True)
        work.prepare(root)

        def broken(at: int = at) -> None:
            Operations(root, act, at, every=how.endswith("+"))
            work(root)

        told.write_text("")
        ended = in_child(broken, told)
        allowed = {CRASHED} if how == "crash" else {0, 2}
        if ended not in allowed or "\n" in told.read_text():
            wrong.append(f"{at} {names[at]}: ended with {ended}: {told.read_text()}")
        elif failed := _again(work, root):
            wrong.append(f"{at} {names[at]}: and then: {failed}")
        elif different := _differences(work.outcome(root), expected):
            wrong.append(f"{at} {names[at]}: {different}")
    return len(ends[::step]), wrong, sum(os.times()[:4]) - sum(started[:4])


def _again(work: Work, root: Path) -> str:
    """Do it to the end; return what went wrong."""
    try:
        work.again(root)
    except Exception:
        return traceback.format_exc()
    return ""


def _differences(found: dict[str, Any], expected: dict[str, Any]) -> str:
    if len(found.get("log", ())) < len(expected.get("log", ())):
        expected = expected | {"log": [line for line in expected["log"] if "loss" in line]}
    parts = [part for part in expected if found[part] != expected[part]]
    names = {*found.get("names", ())} ^ {*expected.get("names", ())}
    return f"other {parts} {sorted(names)}" if parts else ""


def report(
    make: Callable[[], Any], folder: Path, hows: list[str], step: int, but: str, to: Path
) -> None:
    """Do all that in a process that has imported everything and has one thread."""
    work = make()
    found: list[tuple[str, int, list[str], float]] = []
    for how in hows:
        place = folder / how
        place.mkdir(parents=True)
        found.append((how, *end_at_every_operation(work, place, how, step, but)))
    to.write_text(json.dumps(found))
