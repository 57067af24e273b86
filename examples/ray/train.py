"""Train on the workers of a Ray cluster: ``python train.py SPEC FOLDER --workers 8 --gpus``.

All nodes need FOLDER, the data and the feature cache, on a disk that they share. If a worker is
lost, Ray ends the others and starts all anew; they resume from the newest checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer


def train_worker(asked: dict[str, Any]) -> None:
    """Be one rank; Ray has initialised the process group, which ``train`` takes."""
    import torch

    import contrastive

    folder = Path(asked["folder"])
    resume = (folder / "log.jsonl").exists()
    torch.distributed.barrier()  # or a rank that looks later would see what another has begun
    if not (folder / "model").exists():
        contrastive.train(asked["spec"], folder, resume=resume)
    ray.train.report({"folder": str(folder)})


def main() -> None:
    """Read the arguments, and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("spec", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpus", action="store_true", help="a GPU for each worker")
    parser.add_argument("--failures", type=int, default=3, help="how often to start anew")
    asked = parser.parse_args()
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "spec": str(asked.spec.resolve()),
            "folder": str(asked.folder.resolve()),
        },
        scaling_config=ScalingConfig(num_workers=asked.workers, use_gpu=asked.gpus),
        run_config=RunConfig(
            name=asked.folder.name,
            storage_path=str(asked.folder.resolve().parent / "ray"),
            failure_config=FailureConfig(max_failures=asked.failures),
        ),
    )
    trainer.fit()
    print(f"saved: {asked.folder / 'model'}")


if __name__ == "__main__":
    main()
