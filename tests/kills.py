"""Runs that signals end at moments from a seed, resumed until done: they are as if never ended.

``python -m tests.kills --seed 7 --kills 60`` tries runs until so many times one of them was killed,
and prints what came of them. The seed says which signals a run gets and after which of its steps,
saves or features; the last milliseconds are the machine's. Two of three are SIGKILL. Each command
is a fork of a process that has imported everything.
With ``--ranks 2`` it is an agent with two ranks, and the signals go to it, to a rank or to all.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.utils.data._utils import worker

from contrastive import RunSpec
from contrastive.console import quiet
from contrastive.distributed import launcher
from contrastive.features.cache import FeatureCache
from contrastive.model import saved_folder
from contrastive.reporting.run_log import Log
from contrastive.training import checkpoints
from contrastive.training import train as training
from tests import crashing_run
from tests.rank_agent import PIDS, call_command, start_ranks
from tests.shards import write_shards
from tests.toys import tiny_model, toy_dict

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 120  # seconds, after which a command hangs
PATIENCE = 30  # seconds that worker processes and ranks have to notice the end of their parent
SOON = 0.2  # seconds between two looks of a rank at its agent, of a worker process at its parent
STEP, SAVE, SAVED, ENCODE, ENCODED = b".()[]"
AFTER = {"start": 0.2, ".": 0.03, "(": 0.006, "[": 0.03}
"""Seconds, up to which a signal comes after the last event that it waits for."""
CODES = {
    signal.SIGKILL: {-9, 0},
    signal.SIGTERM: {-15, 143, 0},
    signal.SIGINT: {-2, 130, 0},
}
"""How a command may end that got a signal; 0, if it was done before."""
LOST = {2, 137, 143}
"""How ranks may end, too: since another is lost, by SIGKILL, or by the agent's SIGTERM."""
ONCE = "interrupted at step", "another rank of this run has ended", "; saved at step"
"""What one rank alone says."""
OURS = re.compile(r"run/(checkpoints/step-\d{8}(/.*)?|log\.jsonl\.bak-.*)|cache(/files\.sqlite)?")
"""What differs between runs of which one was interrupted; the last is an index, which may wait."""

OF_FSDP = "fsdp", "tensor", "checkpoint.hf_storage", "checkpoint.state_dict_saver"
"""What ranks that hold shards import."""

VIT = {"type": "vit", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
RESNET = {"type": "resnet", "width": 4, "image_size": 32, "augment": "crop-flip"}


def specs(data: Path, *, small: bool = False, shards: bool = False) -> dict[str, dict[str, Any]]:
    """Return runs of 12 steps, of which every second is saved, by what they have."""
    if shards:
        place = str(write_shards(data, 4, 10))
        settings = {"epochs": 3, "batch_size": 8, "lr": 1e-2, "checkpoint_every": 2}
        of_shards = {"type": "webdataset", "shards": place, "window": 2}
        return {"shards": {"model": tiny_model("infonce"), "data": of_shards, "training": settings}}
    if small:  # its start costs a fifth
        points = crashing_run.spec(epochs=3, steps=4).model_dump(mode="json")
        points["training"]["checkpoint_every"] = 2
        return {"points": points}
    made = {
        name: toy_dict(data, epochs=3, checkpoint_every=2)
        for name in ("cached", "live, BatchNorm", "queue, bf16", "views, LoRA")
    }
    towers = {name: spec["model"]["towers"] for name, spec in made.items()}
    towers["live, BatchNorm"]["image"] |= {"encoder": RESNET, "frozen": "none"}
    towers["queue, bf16"]["image"] |= {"encoder": VIT, "frozen": "none"}
    inner = {"type": "matryoshka", "widths": [8, 32], "loss": {"type": "infonce"}}
    made["queue, bf16"]["model"]["loss"] = {"type": "queue", "size": 40, "loss": inner}
    made["queue, bf16"]["training"] |= {"precision": "bf16", "micro_batch": 6}
    towers["views, LoRA"]["image"] |= {"encoder": VIT | {"augment": "simclr"}}
    towers["views, LoRA"]["image"]["lora"] = {"rank": 2, "dropout": 0.2}
    made["views, LoRA"]["model"]["pairs"] = [["image", "text"], ["image", "image"]]
    made["views, LoRA"]["training"]["checkpoint_activations"] = ["image"]
    return made


@dataclass
class Result:
    """What the trials came to."""

    counts: Counter[str] = field(default_factory=Counter[str])
    faults: list[str] = field(default_factory=list[str])


@dataclass
class Ended:
    """How a command ended."""

    code: int
    told: str
    events: bytes
    signals: str

    def within(self, begin: int, end: int) -> bool:
        """Whether it ended between two events."""
        return self.events.count(begin) > self.events.count(end)


def traced(pipe: int) -> None:
    """Let this process write a byte to a pipe at each event of a run, if it is the main rank."""
    if os.environ.get("RANK", "0") != "0":
        return

    def around(owner: Any, name: str, before: int | None, after: int | None) -> None:
        real = getattr(owner, name)

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            if before:
                os.write(pipe, bytes([before]))
            result = real(*args, **kwargs)
            if after:
                os.write(pipe, bytes([after]))
            return result

        setattr(owner, name, stand_in)

    around(Log, "step", None, STEP)
    around(FeatureCache, "table", ENCODE, ENCODED)
    for owner in (saved_folder, checkpoints, training):  # wherever it is imported
        around(owner, "write_folder", SAVE, SAVED)


def command(args: list[str], told: Path, pipe: int, *, deterministic: bool, ranks: int) -> None:
    """Be the command, in a session of its own."""
    os.setsid()
    if deterministic:  # what a GPU does otherwise is not the same twice
        torch.use_deterministic_algorithms(True)
    for stream in (1, 2):
        os.dup2(os.open(told, os.O_CREAT | os.O_APPEND | os.O_WRONLY), stream)
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
    sys.argv = ["contrastive", *args]
    if ranks == 1:
        os._exit(called(pipe))
    os._exit(start_ranks(ranks, told.parent, lambda _: called(pipe)))


def called(pipe: int) -> int:
    """Call the command line; return its exit code."""
    traced(pipe)
    return call_command()


class Killing:
    """Draws what happens to runs, and lets it happen."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        kinds: int,
        device: str,
        *,
        ranks: int = 1,
        strategy: str = "",
        small: bool = False,
        shards: bool = False,
    ) -> None:
        """Do so many kinds of runs once without an interruption.

        On a CPU, this process does them, so that each fork has what they import; a GPU that it had
        used, no fork could. Several ranks do them again.
        """
        torch.set_num_threads(1)
        launcher.GLANCE = worker.MP_STATUS_CHECK_INTERVAL = SOON
        importlib.import_module("contrastive.cli.train")
        for name in OF_FSDP if strategy == "fsdp" else ():
            importlib.import_module(f"torch.distributed.{name}")
        self.device, self.ranks = device, ranks
        self.times = (3, 5) if small else (1, 4)
        self.random = random.Random(seed)
        self.folder = folder
        self.told = folder / "told.txt"
        self.specs = dict(list(specs(folder / "data", small=small, shards=shards).items())[:kinds])
        self.result = Result()
        self.whole: dict[str, dict[str, Any]] = {}
        for name, spec in self.specs.items():
            place = folder / "whole" / name
            os.environ["CONTRASTIVE_CACHE"] = str(place / "cache")
            spec["training"]["device"] = device
            if strategy:
                spec["training"]["parallel"] = {"strategy": strategy}
            if device == "cpu":
                with quiet():
                    training.train(RunSpec.model_validate(spec), place / "run")
            if device != "cpu" or ranks > 1:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                (place / "spec.yaml").write_text(json.dumps(spec))
                args = ["train", str(place / "spec.yaml"), "-o", str(place / "run")]
                if (done := self.ended(args, None)).code:
                    raise RuntimeError(done.told)
            self.whole[name] = outcome(place)

    def ended(self, args: list[str], interrupt: Callable[[int, int], str] | None) -> Ended:
        """Run a command; ``interrupt`` is given its process and a pipe with its events."""
        self.told.write_text("")  # there, however early the command ends
        (self.told.parent / PIDS).unlink(missing_ok=True)
        events, pipe = os.pipe()
        if not (child := os.fork()):
            os.close(events)
            command(args, self.told, pipe, deterministic=self.device != "cpu", ranks=self.ranks)
        os.close(pipe)
        process = os.pidfd_open(child)
        self.events = b""
        sent = interrupt(process, events) if interrupt else ""
        self._wait(process, events, lambda: False)
        if not select.select([process], [], [], 0)[0]:
            self._fault(f"no end within {LIMIT} s after {sent or 'the start'}")
            os.killpg(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.set_blocking(events, False)
        with suppress(BlockingIOError):
            self.events += os.read(events, 2**16)
        os.close(events)
        os.close(process)
        self._count_orphans(child, sent)
        return Ended(code, self.told.read_text(errors="replace"), self.events, sent)

    def _wait(self, process: int, events: int, enough: Callable[[], bool]) -> bool:
        """Read events until there are enough; return whether that came before the end."""
        until = time.monotonic() + LIMIT
        sources = [process, events]
        while not enough():
            ready, _, _ = select.select(sources, [], [], max(0, until - time.monotonic()))
            if process in ready or not ready:
                return False
            more = os.read(events, 2**12)
            self.events += more
            if not more:  # it closes before the process has ended
                sources = [process]
        return True

    def interruption(self, *, encodes: bool) -> Callable[[int, int], str]:
        """Draw signals, who gets them, and after what; features only where a run encodes some."""
        chance = self.random
        after = chance.choices(list(AFTER), [1, 4, 4, 3 * encodes])[0]
        count = 1 if after == "[" else chance.randint(1, 5)  # first, what is frozen is encoded
        wait = chance.random() * AFTER[after]
        single = [[signal.SIGKILL]] * 16 + [[signal.SIGTERM], [signal.SIGINT]] * 2
        double = [[a, b] for a in CODES for b in CODES if signal.SIGKILL not in (a, b)]
        numbers = chance.choice(single + double)
        gap = chance.choice([0, 0.002, 0.02])
        if self.ranks > 1:
            to = chance.choice(["agent", "all", *range(self.ranks)])
        else:
            to = "group" if signal.SIGKILL not in numbers and chance.random() < 0.5 else "agent"

        def interrupt(process: int, events: int) -> str:
            mark = after.encode()
            if after != "start" and not self._wait(
                process, events, lambda: self.events.count(mark) >= count
            ):
                return ""
            time.sleep(wait)
            for number in numbers:
                self._send(number, process, to)
                time.sleep(gap)
            who = "" if to == "agent" else f" to rank {to}" if isinstance(to, int) else f" to {to}"
            return " ".join(signal.Signals(n).name for n in numbers) + who

        return interrupt

    def _send(self, number: int, process: int, to: str | int) -> None:
        """Send a signal to a command, its group, or the ranks that it has started."""
        listed = self.told.parent / PIDS
        pids = [int(pid) for pid in listed.read_text().split()] if listed.exists() else []
        with suppress(ProcessLookupError):
            if to == "group":
                os.killpg(_pid_of(process), number)
            elif isinstance(to, int) and pids:
                os.kill(pids[to], number)
            else:
                for pid in pids if to == "all" else ():
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                signal.pidfd_send_signal(process, number)

    def trial(self, name: str) -> None:
        """Interrupt a run once or a few times, resume it until it is done, and compare it."""
        root = self.folder / "broken"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        os.environ["CONTRASTIVE_CACHE"] = str(root / "cache")
        history: list[str] = []
        faults = len(self.result.faults)
        towers = self.specs[name]["model"]["towers"].values()
        encodes = any(one.get("frozen") == "encoder" and "lora" not in one for one in towers)
        times = self.random.randint(*self.times)
        ahead = [*(self.interruption(encodes=encodes) for _ in range(times)), None]
        while ahead:
            interrupt = ahead.pop(0)
            workers = self.random.choice([0, 2])
            spec = json.loads(json.dumps(self.specs[name]))
            spec["training"]["workers"] = workers
            (root / "spec.yaml").write_text(json.dumps(spec))
            args = ["train", str(root / "spec.yaml"), "-o", str(root / "run")]
            run = root / "run"  # it may have been killed between its first checkpoint and its log
            begun = (run / "log.jsonl").exists() or any(run.glob("checkpoints/step-*"))
            done = self.ended([*args, *(["--resume"] if begun else [])], interrupt)
            if begun and "; to begin, leave out" in done.told:  # it ended before its first save
                done = self.ended(args, interrupt)
            elif "holds a run already; go on with" in done.told:  # after its first, unseen here
                done = self.ended([*args, "--resume"], interrupt)
            history.append(f"{done.signals or 'to its end'} ({workers} workers): {done.code}")
            self._count(done)
            if not done.code:  # it is done, and once more there is nothing to resume
                ahead = ahead[-1:]
            allowed = {0}.union(
                *(CODES[n] for n in CODES if signal.Signals(n).name in done.signals)
            )
            if self.ranks > 1 and done.signals:
                allowed |= LOST
            traceback = "Traceback" in done.told and "SIGKILL" not in done.signals  # of workers
            if done.code not in allowed or traceback or any(done.told.count(x) > 1 for x in ONCE):
                self._fault(f"{name}: {'; '.join(history)}\n{done.told[-2000:]}")
                self._keep(root)
                return
        for fault in different(self.whole[name], outcome(root)):
            self._fault(f"{name}: {'; '.join(history)}: {fault}")
        self.result.counts["runs"] += 1
        if len(self.result.faults) > faults:
            self._keep(root)

    def _keep(self, root: Path) -> None:
        shutil.copytree(root, self.folder / f"fault-{len(self.result.faults)}")

    def _count(self, done: Ended) -> None:
        counts = self.result.counts
        if not done.signals or done.code == 0:
            return
        counts[done.signals] += 1
        counts["interruptions"] += 1
        counts["kills"] += "SIGKILL" in done.signals
        if done.within(SAVE, SAVED):
            counts["ended inside a save"] += 1
        if done.within(ENCODE, ENCODED):
            counts["ended while encoding"] += 1

    def _count_orphans(self, session: int, sent: str) -> None:
        until = time.monotonic() + PATIENCE
        while (found := _members(session)) and time.monotonic() < until:
            time.sleep(0.02)
        if found:
            self._fault(f"{len(found)} processes live on after {sent}:\n{self.told.read_text()}")
            for pid in found:
                os.kill(pid, signal.SIGKILL)

    def _fault(self, told: str) -> None:
        self.result.faults.append(told)


def _pid_of(process: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{process}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def _members(session: int) -> list[int]:
    """Return the processes of a session that are no zombies."""
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                state = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(state[3]) == session and state[0] != "Z":
                    found.append(int(folder.name))
    return found


def outcome(root: Path) -> dict[str, Any]:
    """Return what a run came to: the log, the newest checkpoint and the model, the names."""
    run = root / "run"
    newest = max((run / "checkpoints").iterdir())
    tensors = {
        f"{path.parent.name}/{path.name} {name}": tensor
        for path in [*newest.glob("*.safetensors"), *(run / "model").glob("*.safetensors")]
        for name, tensor in load_file(path).items()
    }
    names = {str(path.relative_to(root)) for path in root.rglob("*")} - {"spec.yaml"}
    return {
        "log": [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()],
        "tensors": tensors,
        "names": {name for name in names if not OURS.fullmatch(name)},
        "checkpoints": len(list((run / "checkpoints").iterdir())),
    }


def different(whole: dict[str, Any], broken: dict[str, Any]) -> list[str]:
    """Return in what two outcomes differ."""
    found: list[str] = []
    for kind in ("loss", "evaluation"):
        a, b = ([x for x in side["log"] if kind in x] for side in (whole, broken))
        if a != b:
            unlike = [x["step"] for x, y in zip(a, b, strict=False) if x != y]
            found.append(f"{kind} differs at steps {unlike}, {len(a)} and {len(b)} lines")
    a, b = whole["tensors"], broken["tensors"]
    if a.keys() != b.keys():
        found.append(f"tensors on one side: {sorted(a.keys() ^ b.keys())}")
    unlike = [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]
    if unlike:
        found.append(f"{len(unlike)} tensors differ, such as {min(unlike)}")
    if whole["names"] != broken["names"]:
        found.append(f"left over or lost: {sorted(whole['names'] ^ broken['names'])}")
    if whole["checkpoints"] != broken["checkpoints"]:
        found.append(f"{broken['checkpoints']} checkpoints, not {whole['checkpoints']}")
    return found


def try_runs(seed: int, kills: int, folder: Path, device: str = "cpu", **how: Any) -> Result:
    """Try runs of each kind in turn, until some were killed so many times, or as many are done."""
    killing = Killing(seed, folder, kinds=kills, device=device, **how)
    for number in range(kills):
        killing.trial(list(killing.specs)[number % len(killing.specs)])
        if killing.result.counts["kills"] >= kills:
            break
    return killing.result


def report(seed: int, kills: int, method: str, folder: Path, to: Path, **how: Any) -> None:
    """Leave in a file what was found with workers that start by a method."""
    folder.mkdir()
    multiprocessing.set_start_method(method, force=True)
    found = try_runs(seed, kills, folder, **how)
    to.write_text(json.dumps([found.counts, found.faults]))


def main() -> None:
    """Try runs and print what came of them; exit with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--device", default="cpu", help="cuda runs deterministic algorithms")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--strategy", default="", help="of training.parallel, for several ranks")
    parser.add_argument("--small", action="store_true", help="runs of a few numbers, as by day")
    parser.add_argument("--shards", action="store_true", help="runs on tar shards")
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which they need
    how = {"ranks": given.ranks, "strategy": given.strategy}
    how |= {"small": given.small, "shards": given.shards}
    folder = Path(tempfile.mkdtemp())
    found = try_runs(given.seed, given.kills, folder, given.device, **how)
    for fault in found.faults:
        print(fault)
    for what, count in sorted(found.counts.items()):
        print(f"{what}: {count}")
    print(f"seed {given.seed}: {len(found.faults)} faults, in {folder}")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
