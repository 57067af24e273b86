"""What a dataset of N rows takes: memory and processor time until it can be trained on.

``python -m benchmarks.rows`` writes a table of captions and its images below a temporary folder, or
takes those of ``--folder``, and prints what a process takes that reads the training split, beyond
Python and its libraries. ``--train`` trains tiny towers on it for some steps: the first run encodes
what is frozen (``--live``: nothing is), the second finds it in the cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import struct
import tempfile
import time
from pathlib import Path
from typing import Any

WORDS = ("dog", "man", "woman", "red", "blue", "runs", "sits", "over", "grass", "water", "two", "a")
HEADER = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54)  # a bitmap of one pixel
HEADER += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 2835, 2835, 0, 0)
MEGABYTE = 1_000_000
IN_FOLDER = 10_000  # images
VAL = 0.01  # of the images
STEPS = 20


def write(folder: Path, *, rows: int, captions: int) -> None:
    """Write a captions.csv and images, no two alike."""
    draw = random.Random(0)
    with (folder / "captions.csv").open("w") as table:
        table.write("image,text,split\n")
        for i in range(rows // captions):
            name = f"{i // IN_FOLDER:04}/{i:08}.bmp"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(HEADER + struct.pack("<I", i))
            split = "val" if i < VAL * rows / captions else "train"
            for number in range(captions):
                text = " ".join(draw.choices(WORDS, k=9))
                table.write(f"{name},{text} {captions * i + number} .,{split}\n")


def memory() -> float:
    """Return the MB that this process has to itself: those of its libraries' files not counted."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1000


def read(folder: Path) -> dict[str, float]:
    """Read the training split."""
    import torch  # noqa: F401 -- counts as a library, as in a run

    from contrastive.data import content_hash  # noqa: F401
    from contrastive.data.samples import rows_of
    from contrastive.datasets import ImageFolder, image_folder  # noqa: F401
    from contrastive.datasets.built_split import build_split

    data = ImageFolder(folder=folder)
    before, seconds = memory(), time.process_time()
    rows = rows_of(build_split(data, "train", purpose="training"))
    seconds = time.process_time() - seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"rows": len(rows), "seconds": seconds, "MB": memory() - before, "peak of all": peak}


def train_some(folder: Path, out: str, live: bool, workers: int) -> dict[str, float]:
    """Train for some steps; returns what it takes until the first of them, and after the last."""
    import timm  # noqa: F401
    import torch._dynamo  # noqa: F401 -- which timm's models import

    from contrastive import train
    from contrastive.encoders import cbow, vit  # noqa: F401
    from contrastive.training import train as run
    from contrastive.training.batches import TrainingBatches

    frozen = {"frozen": "none" if live else "encoder", "head": {"type": "linear"}}
    image = {"type": "vit", "image_size": 8, "patch_size": 8, "width": 8, "heads": 1, "depth": 1}
    text = {"type": "cbow", "width": 8, "buckets": 64}
    spec: dict[str, Any] = {
        "model": {
            "embed_dim": 8,
            "towers": {"image": {"encoder": image} | frozen, "text": {"encoder": text} | frozen},
            "loss": {"type": "infonce"},
        },
        "data": {"type": "image-folder", "folder": str(folder)},
        "training": {"epochs": 1, "batch_size": 256, "workers": workers, "device": "cpu"},
        "evaluation": {"split": "val"},
    }
    found: dict[str, float] = {}
    iterate, check_room = TrainingBatches.iterate, run.check_room

    def some(self: Any, start: int, stop: int) -> Any:
        found["seconds"] = time.process_time() - begin - found["saving"]
        for number, batch in enumerate(iterate(self, start, stop)):
            if number == STEPS:
                found["MB"] = memory() - before
                found["peak of all"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
                raise KeyboardInterrupt
            yield batch

    def timed(*arguments: Any) -> None:  # the trial checkpoint, which is the model's, not the rows'
        now = time.process_time()
        check_room(*arguments)
        found["saving"] = time.process_time() - now

    TrainingBatches.iterate, run.check_room = some, timed
    before, begin = memory(), time.process_time()
    try:
        train(spec, out)
    except KeyboardInterrupt:
        del found["saving"]
    return found


def tell(what: str, found: dict[str, float]) -> None:
    values = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    print(f"{what}: {values}", flush=True)


def in_process(function: Any, *arguments: Any) -> dict[str, float]:
    """Call a function in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=5, help="of an image")
    parser.add_argument("--folder", type=Path, help="is written, if it is not there")
    parser.add_argument("--train", action="store_true", help="train tiny towers, too")
    parser.add_argument("--live", action="store_true", help="none of them frozen and cached")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        os.environ["CONTRASTIVE_CACHE"] = str((given.folder or Path(place)).absolute() / ".cache")
        folder = given.folder or Path(place) / "data"
        if not (folder / "captions.csv").exists():
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, rows=given.rows, captions=given.captions)
        tell("read", in_process(read, folder))
        for name in ("first run", "second run") if given.train else ():
            out = str(Path(place) / name)
            tell(name, in_process(train_some, folder, out, given.live, given.workers))


if __name__ == "__main__":
    main()
