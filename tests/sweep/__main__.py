"""Judge the encoders of the libraries' catalogues: ``python -m tests.sweep --output sweep.tsv``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections import Counter, defaultdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.sweep.processes import share_imports, verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sweep.judge import Candidate

OUTCOMES = ["right", "wrong", "traceback", "refused", "not made"]


CATALOGUES = {
    "hf-dual": "of_transformers.both",
    "sentences": "of_sentence_transformers.candidates",
    "hf-image": "of_images.candidates",
    "hf-text": "of_transformers.texts",
    "timm": "of_timm.candidates",
    "open_clip": "of_open_clip.candidates",
}


def candidates(asked: Sequence[str]) -> dict[str, Callable[[Path], Candidate]]:
    """Return the candidates whose names begin as asked, or all."""
    found: dict[str, Callable[[Path], Candidate]] = {}
    for catalogue, place in CATALOGUES.items():
        if not asked or any(name.startswith(catalogue) for name in asked):
            module, _, function = place.partition(".")
            found |= getattr(import_module(f"tests.sweep.{module}"), function)()
    return {n: make for n, make in found.items() if not asked or n.startswith(tuple(asked))}


def main() -> int:
    """Judge each candidate that is asked for; 1 if one is silently wrong or ends in a traceback."""
    parser = argparse.ArgumentParser(prog="python -m tests.sweep", description=__doc__)
    parser.add_argument("names", nargs="*", help="how names begin: hf-text, 'timm timm.models.vgg'")
    parser.add_argument("--output", type=Path, help="a file for the verdict on each candidate")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=int, default=120, help="of a CPU for a candidate")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    makers = candidates(asked.names)
    first = {name.partition(" ")[0]: make for name, make in reversed(makers.items())}
    share_imports(first.values())
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    costs: Counter[str] = Counter()
    if asked.output:
        asked.output.parent.mkdir(parents=True, exist_ok=True)
    file = asked.output.open("w") if asked.output else sys.stdout
    limits = {"processes": asked.processes, "seconds": asked.seconds}
    for name, found, cost in verdicts(makers, **limits):
        catalogue = name.partition(" ")[0]
        counts[catalogue][found.outcome] += 1
        costs[catalogue] += cost
        print(name, found.outcome, f"{cost:.1f}", found.reason, sep="\t", file=file, flush=True)
    file.flush()
    print(f"{'':22}", *(f"{title:>10}" for title in [*OUTCOMES, "CPU min"]))
    for catalogue, count in counts.items():
        numbers = (f"{count[outcome]:>10}" for outcome in OUTCOMES)
        print(f"{catalogue:22}", *numbers, f"{costs[catalogue] / 60:>10.1f}")
    return int(any(count["wrong"] or count["traceback"] for count in counts.values()))


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    sys.exit(main())
