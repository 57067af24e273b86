"""What writing, opening and searching an index of N rows take, with faiss' exact search beside it.

``python -m benchmarks.index --rows 31000,1000000`` writes vectors at random into an index below a
temporary folder, or that of ``--folder``, by what ``contrastive index build`` writes them with, and
prints seconds, queries a second and memory. Rounds of all are in turn; medians are told, of seconds
and of processor seconds, which other work on the machine changes less. ``make bench-peers`` makes
an environment that has faiss.

``--backends faiss,faiss-ivf`` builds these of the same vectors, too, and says what of the ten
nearest they find. ``--data near`` makes vectors that have near ones: of 64 hidden numbers each,
around one of 1,000 centres. Of random ones no structure finds much.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import normalize

from contrastive.indexes.exact import Items, top_k
from contrastive.indexes.index import Index
from contrastive.indexes.index_file import About, DataOf, ModelOf
from contrastive.indexes.segments import Row
from contrastive.indexes.structures import refresh
from contrastive.indexes.writer import SEGMENT_ROWS, writing

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH, K = 512, 10
HIDDEN, CENTRES = 64, 1000


def vectors(start: int, count: int, data: str = "random") -> torch.Tensor:
    """Return some of the vectors, the same each time."""
    generator = torch.Generator().manual_seed(start)
    made = torch.randn(count, WIDTH, generator=generator)
    if data == "near":
        same = torch.Generator().manual_seed(99)
        centres, mixed = (torch.randn(n, HIDDEN, generator=same) for n in (CENTRES, WIDTH))
        of = torch.randint(CENTRES, (count,), generator=generator)
        hidden = 0.8 * centres[of] + 0.6 * torch.randn(count, HIDDEN, generator=generator)
        made = torch.tanh(hidden @ mixed.T / 8) + 0.15 * made
    return normalize(made, dim=1)


def write(folder: Path, rows: int, data: str) -> None:
    """Write an index of texts."""
    new = About(
        model=ModelOf(sha256="0" * 64), dim=WIDTH, data=[DataOf(name="random")], segments=[]
    )
    with writing(folder, new=new) as writer:
        for start in range(0, rows, SEGMENT_ROWS):
            count = min(SEGMENT_ROWS, rows - start)
            made = [
                Row(i.to_bytes(32), 0, i, f"texts.txt:{i}", f"a text of number {i}", {})
                for i in range(start, start + count)
            ]
            writer.add("text", made, vectors(start, count, data))
        writer.commit()


def memory(kind: str) -> float:
    """Return MB of this process: ``Anonymous``, its own, or ``Rss``, mapped files too."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1000


def measured(function: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds and the processor seconds of a call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def arms(index: Index, queries: torch.Tensor, rows: int, data: str) -> dict[str, Callable[[], Any]]:
    """Return what is timed: the whole search, the vectors' part of it, and faiss."""
    pieces = Items([segment.vectors_MD for segment in index.segments("text")])
    found: dict[str, Callable[[], Any]] = {
        "index": lambda: index.search(queries, "text", k=K),
        "vectors alone": lambda: top_k(queries, pieces, K),
    }
    try:
        import faiss
    except ImportError:
        print("faiss is not installed, and is left out")
        return found
    faiss.omp_set_num_threads(torch.get_num_threads())
    flat = faiss.IndexFlatIP(WIDTH)
    for start in range(0, rows, SEGMENT_ROWS):
        flat.add(vectors(start, min(SEGMENT_ROWS, rows - start), data).numpy())
    numpy = queries.numpy()
    expected = flat.search(numpy, K)[1].tolist()
    same = [[hit.row.id for hit in hits] for hits in index.search(queries, "text", k=K)]
    assert same == expected, "faiss finds others"
    return found | {"faiss": lambda: flat.search(numpy, K)}


def compare(index: Index, rows: int, queries: int, rounds: int, data: str) -> None:
    """Print what a search for some queries takes."""
    asked = vectors(1, queries, data)
    timed = arms(index, asked, rows, data)
    show(timed, rows, queries, rounds)


def show(timed: dict[str, Callable[[], Any]], rows: int, queries: int, rounds: int) -> None:
    """Print medians of rounds in turn."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for function in timed.values():
        function()
    for _ in range(rounds):
        for name, function in timed.items():
            taken[name].append(measured(function))
    for name, several in taken.items():
        wall, cpu = (statistics.median(one) for one in zip(*several, strict=True))
        least = min(one for one, _ in several)
        rate = f"{queries / wall:,.1f} queries/s"
        told = f"{1000 * wall:.2f} ms (least {1000 * least:.2f}), processor {1000 * cpu:.2f} ms"
        print(f"{rows:,} rows, {queries} queries, {name}: {told}, {rate}", flush=True)


def with_structures(folder: Path, backend: str, rows: int, given: argparse.Namespace) -> None:
    """Print what building and searching by a backend take, and what it finds."""
    asked = vectors(1, 200, given.data)
    exact = [{hit.row.id for hit in hits} for hits in Index(folder).search(asked, "text", k=K)]

    def build() -> None:
        with writing(folder) as writer:
            writer.search_by(backend, None)
            writer.commit()
            refresh(writer)

    before = memory("Anonymous")
    seconds, cpu = measured(build)
    index = Index(folder)
    size = sum(one.file.bytes for one in index.about.structures) / 1e6
    told = index.about.recall["text"]
    print(
        f"{rows:,} rows, {backend}: built in {seconds:.1f} s, processor {cpu:.1f} s, {size:.0f} MB"
    )
    wall, _ = measured(lambda: index.search(asked[:1], "text", k=K))
    grown = memory("Anonymous") - before
    print(f"{rows:,} rows, {backend}: first search {wall:.2f} s, {grown:.1f} MB of its own")
    found = [{hit.row.id for hit in index.search(one[None], "text", k=K)[0]} for one in asked]
    share = sum(len(a & b) for a, b in zip(found, exact, strict=True)) / (K * len(asked))
    print(
        f"{rows:,} rows, {backend}: recall {share:.4f}, effort {told.effort}, told {told.share:.4f}"
    )
    for queries in map(int, given.queries.split(",")):
        some = asked[:queries]
        show(
            {backend: lambda some=some: index.search(some, "text", k=K)},
            rows,
            queries,
            given.rounds,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="31000")
    parser.add_argument("--queries", default="1,64")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backends", default="")
    parser.add_argument("--data", choices=["random", "near"], default="random")
    parser.add_argument("--folder", type=Path, help="is written, if it is not there")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as place:
        for rows in map(int, given.rows.split(",")):
            folder = (given.folder or Path(place)) / str(rows)
            if not folder.exists():
                seconds, cpu = measured(
                    lambda folder=folder, rows=rows: write(folder, rows, given.data)
                )
                print(f"{rows:,} rows: written in {seconds:.1f} s, processor {cpu:.1f} s")
            before = memory("Anonymous")
            seconds, _ = measured(lambda folder=folder: Index(folder))
            index = Index(folder)
            grown = memory("Anonymous") - before
            print(f"{rows:,} rows: opened in {1000 * seconds:.1f} ms, {grown:.1f} MB of its own")
            asked = normalize(torch.ones(1, WIDTH), dim=1)
            seconds, _ = measured(lambda index=index, asked=asked: index.search(asked, "text", k=K))
            grown = memory("Anonymous") - before
            print(f"{rows:,} rows: first search {seconds:.2f} s, {grown:.1f} MB of its own")
            for queries in map(int, given.queries.split(",")):
                compare(index, rows, queries, given.rounds, given.data)
            for backend in filter(None, given.backends.split(",")):
                with_structures(folder, backend, rows, given)


if __name__ == "__main__":
    main()
