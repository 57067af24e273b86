"""What a dataset of N rows takes: memory and processor time until it can be trained on.

``python -m benchmarks.rows`` writes a table of captions and its images below a temporary folder, or
takes those of ``--folder``, and prints what a process takes that reads the training split, beyond
Python and its libraries. ``--form table`` writes Parquet files with the images inside, ``--form
shards`` tar files, which it reads again from what is kept of them. ``--train`` trains tiny towers
on it for some steps: the first run encodes what is frozen (``--live``: nothing is) and hashes the
images, the second finds all that in the cache.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import struct
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = ("dog", "man", "woman", "red", "blue", "runs", "sits", "over", "grass", "water", "two", "a")
HEADER = b"BM" + struct.pack("<IHHI", 58, 0, 0, 54)  # a bitmap of one pixel
HEADER += struct.pack("<IiiHHIIiiII", 40, 1, 1, 1, 24, 0, 4, 2835, 2835, 0, 0)
MEGABYTE = 1_000_000
IN_FOLDER = 10_000  # images
IN_FILE = 1_000_000
IN_SHARD = 10_000
IN_GROUP = 1_000  # images in a row group; the hub writes 100, of larger ones
VAL = 0.01  # of the images
STEPS = 20


def write(folder: Path, *, form: str, rows: int, captions: int) -> None:
    """Write rows in one of the forms."""
    {"folder": write_folder, "table": write_table, "shards": write_shards}[form](
        folder, rows=rows, captions=captions
    )


def in_parts(rows: int, captions: int, most: int = IN_FILE) -> Iterator[tuple[str, int, range]]:
    """Yield the split and the number of each file, and the images in it."""
    images = rows // captions
    val = max(1, int(VAL * images))
    for split, first, last in (("val", 0, val), ("train", val, images)):
        for number, start in enumerate(range(first, last, most)):
            yield split, number, range(start, min(start + most, last))


def write_table(folder: Path, *, rows: int, captions: int) -> None:
    """Write Parquet files with images inside, and their captions in lists, or one each."""
    import pyarrow as pa
    from pyarrow import parquet

    draw = random.Random(0)
    for split, number, images in in_parts(rows, captions):
        with parquet.ParquetWriter(folder / f"{split}-{number:05}.parquet", SCHEMA(pa)) as out:
            for start in range(images.start, images.stop, IN_GROUP):
                part = range(start, min(start + IN_GROUP, images.stop))
                held = [HEADER + struct.pack("<I", i) for i in part]
                texts = [[caption(draw, captions * i + n) for n in range(captions)] for i in part]
                out.write_table(pa.table({"image": held, "text": texts}, SCHEMA(pa)))


def SCHEMA(pa: Any) -> Any:  # noqa: N802
    return pa.schema({"image": pa.binary(), "text": pa.list_(pa.string())})


def caption(draw: random.Random, number: int) -> str:
    return f"{' '.join(draw.choices(WORDS, k=9))} {number} ."


def write_shards(folder: Path, *, rows: int, captions: int) -> None:
    """Write tar files of images, each with a text of a caption a line."""
    import io
    import tarfile

    draw = random.Random(0)
    for split, number, images in in_parts(rows, captions, IN_SHARD):
        with tarfile.open(
            folder / f"{split}-{number:05}.tar", "w", format=tarfile.USTAR_FORMAT
        ) as out:
            for i in images:
                texts = "\n".join(caption(draw, captions * i + n) for n in range(captions))
                for suffix, content in (
                    ("bmp", HEADER + struct.pack("<I", i)),
                    ("txt", texts.encode()),
                ):
                    member = tarfile.TarInfo(f"{i:08}.{suffix}")
                    member.size = len(content)
                    out.addfile(member, io.BytesIO(content))


def write_folder(folder: Path, *, rows: int, captions: int) -> None:
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
                table.write(f"{name},{caption(draw, captions * i + number)},{split}\n")


def memory() -> float:
    """Return the MB that this process has to itself: those of its libraries' files not counted."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1000


def data_of(folder: Path, form: str) -> dict[str, Any]:
    """Return the spec of a dataset."""
    return {
        "folder": {"type": "image-folder", "folder": str(folder)},
        "table": {"type": "table", "files": str(folder)},
        "shards": {"type": "webdataset", "shards": str(folder / "{split}-*.tar")},
    }[form]


def read(folder: Path, form: str) -> dict[str, float]:
    """Read the training split."""
    import torch  # noqa: F401 -- counts as a library, as in a run

    from contrastive.data import content_hash  # noqa: F401
    from contrastive.data.samples import rows_of
    from contrastive.datasets import datasets, image_folder  # noqa: F401
    from contrastive.datasets.built_split import build_split

    if form == "table":
        import pyarrow.parquet  # noqa: F401

        from contrastive.datasets.tables import table  # noqa: F401
    fields = data_of(folder, form)
    data = datasets[fields.pop("type")](**fields)
    before, seconds = memory(), processor_time()
    rows = rows_of(build_split(data, "train", purpose="training"))
    seconds = processor_time() - seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return {"rows": len(rows), "seconds": seconds, "MB": memory() - before, "peak of all": peak}


def train_some(folder: Path, form: str, out: str, live: bool, workers: int) -> dict[str, float]:
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
        "data": data_of(folder, form),
        "training": {"epochs": 1, "batch_size": 256, "workers": workers, "device": "cpu"},
        "evaluation": {"split": "val"},
    }
    found: dict[str, float] = {}
    iterate, check_room = TrainingBatches.iterate, run.check_room

    def some(self: Any, start: int, stop: int) -> Any:
        found["seconds"] = processor_time() - begin - found["saving"]
        for number, batch in enumerate(iterate(self, start, stop)):
            if number == STEPS:
                found["MB"] = memory() - before
                found["peak of all"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
                raise KeyboardInterrupt
            yield batch

    def timed(*arguments: Any) -> None:  # the trial checkpoint, which is the model's, not the rows'
        now = processor_time()
        check_room(*arguments)
        found["saving"] = processor_time() - now

    TrainingBatches.iterate, run.check_room = some, timed
    before, begin = memory(), processor_time()
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
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # which may have children
        return pool.submit(function, *arguments).result()


def processor_time() -> float:
    """Return the seconds of this process, and of those that it has started and that have ended."""
    return sum(os.times()[:4])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--captions", type=int, default=5, help="of an image")
    parser.add_argument("--form", choices=("folder", "table", "shards"), default="folder")
    parser.add_argument("--folder", type=Path, help="is written, if it is not there")
    parser.add_argument("--train", action="store_true", help="train tiny towers, too")
    parser.add_argument("--live", action="store_true", help="none of them frozen and cached")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as place:
        os.environ["CONTRASTIVE_CACHE"] = str((given.folder or Path(place)).absolute() / ".cache")
        folder = given.folder or Path(place) / "data"
        if not folder.exists():
            folder.mkdir(parents=True)
            write(folder, form=given.form, rows=given.rows, captions=given.captions)
        for what in ("read", "read again") if given.form == "shards" else ("read",):
            tell(what, in_process(read, folder, given.form))
        for name in ("first run", "second run") if given.train else ():
            out = str(Path(place) / name)
            tell(name, in_process(train_some, folder, given.form, out, given.live, given.workers))


if __name__ == "__main__":
    main()
