"""How much faster two ranks encode and evaluate than one, each on one thread.

``python -m benchmarks.ranks`` times, in turn, an evaluation of a generated Flickr30k by one rank
and by several, over gloo. Towers are frozen and their features are not in the cache, so that it is
nearly all encoding. What precedes it (imports, the model, the rows) is not counted.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "towers": {
        "image": {
            "encoder": {"type": "vit", "image_size": 96, "patch_size": 16, "width": 576},
            "head": {"type": "linear"},
            "frozen": "encoder",
        },
        "text": {
            "encoder": {"type": "text-transformer", "width": 256, "depth": 6, "dropout": 0.0},
            "head": {"type": "linear"},
            "frozen": "encoder",
        },
    },
    "loss": {"type": "infonce"},
}


def _rank(rank: int, size: int, data: str, folder: str, seconds: Any) -> None:
    """Be a rank that evaluates; the first one tells how long it took."""
    torch.set_num_threads(1)
    from contrastive import build_model
    from contrastive.console import quiet
    from contrastive.distributed.ranks import launched_ranks
    from contrastive.distributed.shared_work import work_shared_by
    from contrastive.evaluation.evaluate import evaluate
    from contrastive.features.cache import FeatureCache
    from contrastive.spec import RunSpec

    if size > 1:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    spec = {"model": MODEL, "data": {"type": "flickr30k", "folder": data}}
    rows = RunSpec.model_validate(spec).data.build("train")
    torch.manual_seed(0)
    model = build_model(spec).eval()
    with launched_ranks("cpu") as (ranks, _), quiet():
        cache = FeatureCache(Path(folder) / "cache")  # one, which the ranks share
        ranks.barrier()
        began = time.perf_counter()
        with work_shared_by(ranks):
            evaluate(model, rows, cache=cache)
        ranks.barrier()
        if ranks.is_main:
            seconds.put(time.perf_counter() - began)
    if size > 1:
        dist.destroy_process_group()


def timed(size: int, data: Path) -> float:
    """Return the seconds of an evaluation by so many ranks."""
    context = multiprocessing.get_context("spawn")
    seconds = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        args = size, str(data), folder, seconds
        started = [context.Process(target=_rank, args=(rank, *args)) for rank in range(size)]
        for process in started:
            process.start()
        found = seconds.get()
        for process in started:
            process.join()
    return found


def main() -> None:
    """Print the seconds of each round, and the ratio."""
    from tests.miniature import write_flickr30k

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_flickr30k(data, images=asked.images)
        for _ in range(asked.rounds):
            one, several = timed(1, data), timed(asked.ranks, data)
            ratios.append(one / several)
            print(f"1 rank {one:.2f} s, {asked.ranks} ranks {several:.2f} s: {ratios[-1]:.2f}x")
    print(f"median {statistics.median(ratios):.2f}x, of {asked.rounds} rounds")


if __name__ == "__main__":
    main()
