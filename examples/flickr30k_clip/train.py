"""Train clip.yaml from Python and measure it: python train.py [A.B=VALUE]..."""

import sys
from pathlib import Path

from contrastive import RunSpec, evaluate, load_spec, train
from contrastive.cli import run_guarded


def main() -> None:
    """Train, then measure on the test split."""
    spec = load_spec(RunSpec, Path(__file__).with_name("clip.yaml"), sys.argv[1:])
    model = train(spec, spec.output or "runs/clip")
    print(evaluate(model, spec.data.build("test"), split="test").summary())


if __name__ == "__main__":  # worker processes import this file
    run_guarded(main)
