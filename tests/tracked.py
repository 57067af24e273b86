"""A run that is tracked, killed and resumed, in an environment with the tracker's package.

``python tracked.py train|resume FOLDER TRACKER`` trains; ``read`` prints, by the tracker's own API,
a list of runs: each the steps of its loss, with the losses, and what it says of the run before.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS, KILLED, SAVED = 6, 5, 3
FIELDS = {"tensorboard": {}, "wandb": {"mode": "offline"}, "mlflow": {}, "trackio": {}}


def train(folder: Path, tracker: str, *, resume: bool) -> None:
    from contrastive import Callback, train

    texts = [f"text {number} of {number * number}" for number in range(32)]
    (folder / "texts.txt").write_text("\n".join(texts))

    class Kill(Callback):
        def on_step(self, step, metrics):
            if step == KILLED and not resume:
                until = time.monotonic() + 300
                while not (folder / "run" / "trackers.json").exists() and time.monotonic() < until:
                    time.sleep(0.1)  # it is slow to begin, and steps go on meanwhile
                time.sleep(12)  # what it has, it writes
                os.kill(os.getpid(), signal.SIGKILL)

    fields = FIELDS[tracker] | {"type": tracker}
    if tracker == "mlflow":
        fields["uri"] = f"sqlite:///{folder}/mlflow.db"
    encoder = {"type": "text-transformer", "width": 16, "depth": 1, "heads": 2, "dropout": 0.1}
    spec = {
        "model": {
            "embed_dim": 8,
            "towers": {"text": {"encoder": encoder, "head": {"type": "linear"}}},
            "loss": {"type": "infonce"},
            "pairs": [("text", "text")],
        },
        "data": {"type": "lines", "file": str(folder / "texts.txt")},
        "training": {"epochs": 1, "batch_size": 4, "workers": 0, "checkpoint_every": SAVED}
        | {"trackers": [fields]},
        "evaluation": {"split": None},
    }
    train(spec, folder / "run", resume=resume, callbacks=[Kill()])


def read(folder: Path, tracker: str) -> list[dict]:
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
        return [{"loss": [(e.step, e.value) for e in found.Scalars("training/loss")]}]
    if tracker == "wandb":
        return [of_wandb(path) for path in sorted((folder / "run" / "wandb").glob("offline-run-*"))]
    if tracker == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = sorted(client.search_runs(ids), key=lambda run: run.info.start_time)
        return [
            {
                "id": run.info.run_id,
                "from": run.data.tags.get("resumed_from"),
                "loss": [
                    (m.step, m.value)
                    for m in client.get_metric_history(run.info.run_id, "training/loss")
                ],
            }
            for run in runs
        ]
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found = []
    for run in trackio.Api().runs("contrastive"):
        logs = SQLiteStorage.get_logs("contrastive", run.name)
        loss = [(x["step"], x["training/loss"]) for x in logs if "training/loss" in x]
        found.append({"id": run.name, "from": (run.config or {}).get("resumed_from"), "loss": loss})
    return sorted(found, key=lambda run: run["loss"][0])


def of_wandb(path: Path) -> dict:
    from wandb.proto import wandb_internal_pb2

    (file,) = path.glob("*.wandb")
    loss, config = [], {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            config |= {x.key: json.loads(x.value_json) for x in record.run.config.update}
        items = record.history.item
        values = {"/".join(x.nested_key) or x.key: json.loads(x.value_json) for x in items}
        if "training/loss" in values:
            loss.append((values["_step"], values["training/loss"]))
    number = path.name.rpartition("-")[2]
    return {"id": number, "from": config.get("resumed_from"), "loss": loss}


def records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, which ends where a process was killed."""
    at, block, record = 7, 32_768, b""  # after the head of the file
    while at + 7 <= len(content):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4) and at <= len(content):  # whole, or the last piece
            yield record
            record = b""


if __name__ == "__main__":
    verb, place, name = sys.argv[1:]
    if verb == "read":
        print(json.dumps(read(Path(place), name)))
    else:
        train(Path(place), name, resume=verb == "resume")
