"""What the server adds to the model: throughput, the wait of one beside many, and memory.

``python -m benchmarks.serve`` saves a CLIP of six layers with random weights, writes an index of
random vectors for it, starts ``contrastive serve`` with as many threads as this process has, and
prints ratios: embeddings a second of 64 clients beside ``model.embed`` in batches of 64; the 95th
percentile of a search beside ten clients that search without a pause, beside that of
``contrastive.search`` in this process; and the memory of the server after many requests. Each
ratio is the median of rounds in which the two have their turn.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import torch
from torch.nn.functional import normalize

from benchmarks.peers.inputs import clip_folder, image_folder, towers
from contrastive import ModelSpec, build_model, load_model, search
from contrastive.indexes.index_file import About, DataOf
from contrastive.indexes.segments import Row
from contrastive.indexes.writer import SEGMENT_ROWS, model_of, writing
from contrastive.nn.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from collections.abc import Generator

BATCH, CLIENTS = 64, 10
WIDTH = 512  # of an embedding
ADDRESS = re.compile(r"serving at (http://\S+)")


def tower(width: int) -> dict[str, Any]:
    """Return the fields of a transformer as wide as CLIP's for texts, and half as deep."""
    heads = {"num_hidden_layers": 6, "num_attention_heads": width // 64}
    return {"hidden_size": width, "intermediate_size": 4 * width, **heads}


def prepare(folder: Path, rows: int) -> None:
    """Save a model, and an index of random vectors that is its own."""
    image_folder(4)(folder)
    clip_folder(tower(192) | {"patch_size": 32}, tower(512), WIDTH)(folder)
    spec = {"embed_dim": WIDTH, "towers": towers(folder, "identity")}
    model = build_model(ModelSpec.model_validate(spec | {"loss": {"type": "infonce"}}))
    model.save(folder / "saved")
    generator = torch.Generator().manual_seed(0)
    about = About(
        model=model_of(weights_fingerprint(model), folder / "saved", folder / "index"),
        dim=WIDTH,
        data=[DataOf(name="random")],
        segments=[],
    )
    with writing(folder / "index", new=about) as writer:
        for start in range(0, rows, SEGMENT_ROWS):
            count = min(SEGMENT_ROWS, rows - start)
            made = [
                Row(i.to_bytes(32), 0, i, f"images:{i}", f"image {i}.jpg", {})
                for i in range(start, start + count)
            ]
            vectors = torch.randn(count, WIDTH, generator=generator)
            writer.add("image", made, normalize(vectors, dim=1))
        writer.commit()


@contextmanager
def started(index: Path, threads: int) -> Generator[tuple[int, str]]:
    """Start a server; its number and its address are returned."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [
        sys.executable,
        "-m",
        "contrastive",
        "serve",
        str(index),
        "--port",
        "0",
        "--rate",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if found := ADDRESS.search(line):
                break
        else:
            sys.exit(said)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield process.pid, found[1]
        finally:
            process.terminate()


def texts(count: int, round_number: int) -> list[str]:
    """Return texts of about twelve words."""
    return [
        f"{round_number} {i} a red dog runs near the old boat on the sand" for i in range(count)
    ]


def throughput(model: Any, url: str, rounds: int, count: int) -> None:
    """Print texts a second of 64 clients, and of ``embed``."""
    ratios: list[float] = []
    with httpx.Client(base_url=url, timeout=600) as client, ThreadPoolExecutor(BATCH) as pool:

        def ask(text: str) -> None:
            client.post("/v1/embeddings", json={"input": text}).raise_for_status()

        for number in range(rounds + 1):
            asked = texts(count, number)
            begun = time.perf_counter()
            list(pool.map(ask, asked))
            served = time.perf_counter() - begun
            begun = time.perf_counter()
            for start in range(0, count, BATCH):
                model.embed("text", asked[start : start + BATCH], batch_size=BATCH)
            own = time.perf_counter() - begun
            if number:  # the first warms up
                ratios.append(own / served)
                print(f"texts a second: served {count / served:.1f}, embed {count / own:.1f}")
    print(f"throughput of {BATCH} clients: {spread(ratios)} of embed in batches of {BATCH}")


def latency(model: Any, index: Path, url: str, rounds: int, count: int) -> None:
    """Print the 95th percentile of a search beside ten clients, and of one in this process."""
    ratios: list[float] = []
    for number in range(rounds):
        own = [timed(lambda t=t: search(model, t, index=index)) for t in texts(count, number)]
        done = threading.Event()

        def load(which: int, done: threading.Event = done) -> None:
            with httpx.Client(base_url=url, timeout=600) as client:
                for i in range(10**9):
                    if done.is_set():
                        return
                    client.post("/v1/search", json={"text": f"{which} {i}"}).raise_for_status()

        with ThreadPoolExecutor(CLIENTS) as pool, httpx.Client(base_url=url, timeout=600) as client:
            for which in range(CLIENTS):
                pool.submit(load, which)
            served = [
                timed(lambda t=t, c=client: c.post("/v1/search", json={"text": t}))
                for t in texts(count, number)
            ]
            done.set()
        ratios.append(percentile(served) / percentile(own))
        shown = f"served {1000 * percentile(served):.1f} ms, own {1000 * percentile(own):.1f} ms"
        print(f"95th percentile of a search: {shown}")
    print(f"a search beside {CLIENTS} clients: {spread(ratios)} of one in the process")


def memory(process: int, url: str, requests: int) -> None:
    """Print the memory of the server after a tenth of the requests, and after all."""
    with httpx.Client(base_url=url, timeout=600) as client, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> None:
            client.post("/v1/search", json={"text": f"{number}", "k": 3}).raise_for_status()

        held: list[float] = []
        for start in range(0, requests, requests // 10):
            list(pool.map(ask, range(start, start + requests // 10)))
            lines = Path(f"/proc/{process}/status").read_text().splitlines()
            (size,) = (line.split()[1] for line in lines if line.startswith("RssAnon"))
            held.append(int(size) / 1000)
    print(f"MB of its own after each tenth of {requests:,}: {', '.join(f'{x:.0f}' for x in held)}")


def timed(call: Any) -> float:
    """Return the seconds of a call."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def percentile(several: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(several, n=20)[-1]


def spread(ratios: list[float]) -> str:
    """Show the median of ratios, the least and the largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=31_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=256, help="a round")
    parser.add_argument("--searches", type=int, default=60, help="a round")
    parser.add_argument("--requests", type=int, default=20_000, help="0 measures no memory")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder, given.rows)
        model = load_model(folder / "saved")
        with started(folder / "index", given.threads) as (process, url):
            throughput(model, url, given.rounds, given.texts)
            latency(model, folder / "index", url, given.rounds, given.searches)
            if given.requests:
                memory(process, url, given.requests)


if __name__ == "__main__":
    main()
