"""Open what ``hostile.py`` makes by every verb, and report each attempt to run code of it.

Run as ``python audited.py MODELS EVERY``, as the command is, in an empty folder; MODELS are tiny
models of other libraries. Each run is opened by every EVERY-th command, and always by ``ALWAYS``;
unless EVERY is 1, Python functions open each sixth. The report is JSON on stdout.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path.cwd()
COMMANDS = {
    "init": ["init image-folder -o made.yaml"],
    "validate": [
        "validate {run}",
        "validate {run} --upgrade",
        "validate {run}/model/run.json",
        "validate {run}/model/spec.json",
        "validate {run}/model/run.json --upgrade -o made.yaml",
    ],
    "schema": ["schema"],
    "train": [
        "train own.yaml -o {copy} --resume",
        "train {run}/model/run.json -o {copy} --resume",
        "train {run}/model/run.json -o made",
    ],
    "evaluate": ["evaluate -m {run}", "evaluate -m base -d {run}/model/run.json"],
    "probe": ["probe -m {run} -d class-folders", "probe -m base -d {run}/model/run.json"],
    "calibrate": [
        "calibrate -m {run} -o made",
        "calibrate -m base -d {run}/model/run.json -o made",
    ],
    "compositional": ["compositional tests.jsonl -m {run} --images data/flickr30k-images"],
    "compare": ["compare {run} base", "compare base {run} -d {run}/model/run.json"],
    "doctor": ["doctor {run}"],
    "classify": ["classify {image} --classes a,b -m {run}"],
    "caption": ["caption {image} -m {run}", "caption {image} -m base -d {run}/model/run.json"],
    "answer": ["answer {image} --question what? --answers a,b -m {run}"],
    "search": ["search a -m {run}", "search a -m base -d {run}/model/run.json"],
    "embed": ["embed {run}/model/run.json -m base -o made", "embed data -m {run} -o made"],
    "export": [
        "export --to sentence-transformers -m {run} -o made",
        "export --to transformers -m {copy} -o made",
    ],
    "generate": ["generate a -o made.png -m {run} --steps 1 --size 32"],
    "index build": [
        "index build {run}/model/run.json -m base -o made",
        "index build data -m {run} -o made",
    ],
    "index add": ["index add data -m {run} -o {copy}"],
    "index remove": ["index remove {copy} dog.jpg"],
    "index update": ["index update {copy} -m {run}"],
    "index info": ["index info {run}", "index info {run} --verify"],
    "serve": ["serve {run}"],
    "data shard": ["data shard {run}/model/run.json -o made", "data shard data -o made"],
    "cache list": ["cache list", "cache list {run}"],
    "cache prune": ["cache prune --outdated --yes", "cache prune {copy} --max-size 0 --yes"],
    "cache verify": ["cache verify", "cache verify {run} --repair"],
    "plugins": ["plugins"],
    "plugins show": ["plugins show linear"],
    "plugins check": ["plugins check linear"],
    "plugins new": ["plugins new acme --kind head -o made-plugin"],
}
"""What a person would do with a folder, by verb."""
ALWAYS = {"train own.yaml -o {copy} --resume", "validate {run}/model/run.json"}
WRITES = frozenset({"w", "x", "a", "wb", "xb", "ab"})
events: list[str] = []
"""What was tried while a command ran."""


def hook(event: str, args: tuple[Any, ...]) -> None:
    """Note what runs or reads code of a stranger; pickles in any place."""
    match event, args:
        case "import", (str(name), *_) if "evil" in name:
            events.append(f"import {name}")
        case "exec", (code, *_) if is_theirs(getattr(code, "co_filename", "")):
            events.append(f"exec {code.co_filename}")
        case "compile", (_, str(name), *_) if is_theirs(name):
            events.append(f"compile {name}")
        case "open", (str(name), mode, *_) if (
            mode not in WRITES and name.endswith((".py", ".pyc", ".so")) and is_theirs(name)
        ):
            events.append(f"open {name}")
        case "pickle.find_class", (module, name):
            events.append(f"unpickle {module}.{name}")
        case (("os.system" | "subprocess.Popen" | "os.exec"), _) if "evil" in repr(args):
            events.append(f"{event} {args}")
        case _:
            pass


def is_theirs(path: str) -> bool:
    """Whether a file lies in the working folder, which has nothing of ours."""
    named = path[:1] not in ("", "<")  # <string> has no file
    return named and os.path.abspath(path).startswith(f"{HERE}{os.sep}")  # noqa: PTH100


def verbs() -> set[str]:
    """Return every verb of the command line."""
    from typer.main import get_command

    from contrastive import cli
    from contrastive.cli import verbs

    def below(command: Any, names: tuple[str, ...]) -> Iterator[str]:
        inner = getattr(command, "commands", None)
        if names and (inner is None or command.invoke_without_command):
            yield " ".join(names)
        for name, one in (inner or {}).items():
            yield from below(one, (*names, name))

    verbs.add_verbs()
    return set(below(get_command(cli.app), ()))


def command(line: str) -> tuple[int, str]:
    """Run a command; return its exit code and what it said, or a traceback."""
    from contrastive import cli

    sys.argv = ["contrastive", *line.split(" ")]
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            return 1, traceback.format_exc()
    return code, err.getvalue()


def python(work: Callable[[], object]) -> tuple[int, str]:
    """Call a function of the Python interface; return as ``command`` does."""
    from contrastive.errors import ContrastiveError

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            work()
        except ContrastiveError as error:
            return 2, str(error)
        except BaseException:
            return 1, traceback.format_exc()
    return 0, ""


def commands(number: int, every: int) -> Iterator[str]:
    """Yield the commands for a run by its number; the first run gets those for no run, too."""
    lines = [line for lines in COMMANDS.values() for line in lines]
    for place, line in enumerate(lines):
        of_a_run = "{run}" in line or "{copy}" in line
        turn = line in ALWAYS or (number + place) % every == 0
        if turn if of_a_run else number == 0:
            yield line


def main(models: Path, every: int) -> None:
    """Make all folders, open them and print the report."""
    from tests import hostile

    started = prepare(models)
    runs = hostile.hostile_runs(HERE / "foreign")
    for name, change in runs.items():
        run = shutil.copytree("base", HERE / "theirs" / name)
        (run / "evil.py").write_text(hostile.CODE)
        change(run)
    sys.addaudithook(hook)
    done: list[tuple[str, int, str, list[str]]] = []

    def note(what: str, how: Callable[[], tuple[int, str]]) -> None:
        events.clear()
        signal.alarm(100)  # ends the process: nothing here takes so long
        code, said = how()
        signal.alarm(0)
        done.append((what, code, said, [*events]))

    image = next((HERE / "data" / "flickr30k-images").iterdir())
    for number, name in enumerate(runs):
        run = f"theirs/{name}"
        for line in commands(number, every):
            for made in ("copy", "made"):
                shutil.rmtree(made, ignore_errors=True)
            if "{copy}" in line:
                shutil.copytree(run, "copy", symlinks=True, ignore=pipes)
            said = line.format(run=run, copy="copy", image=image)
            note(f"{name}: {said}", lambda said=said: command(said))
        for what, door in doors(run).items() if every == 1 or number % 6 == 0 else ():
            note(f"{what} {run}", lambda door=door: python(door))
    foreign = ("hf:foreign/clip", "hf:foreign/evil", "open_clip:foreign/bert")
    for line in (
        "evaluate -m base -d type=flickr30k,source=hub,repo=./table",
        "compositional table/TEST/test/0.parquet -m base",
        *(f"classify {image} --classes a,b -m {name}" for name in foreign),
    ):
        note(line, lambda line=line: command(line))
    note("a worker", spawned)
    hostile.poison_cache(Path(os.environ["CONTRASTIVE_CACHE"]))
    for line in (
        "evaluate -m base",
        "search a -m base",
        "train own.yaml -o base --resume",
        "cache list",
        "cache verify --repair",
        "cache prune --max-size 0 --yes",
    ):
        note(f"cache: {line}", lambda line=line: command(line))
    for control in (lambda: command("validate theirs/head_below --trusted"), unpickled):
        note("control", control)
    ran = Path(hostile.RAN)
    report = {
        "verbs": sorted(verbs()),
        "runs": len(runs),
        "started": started,
        "controls": done[-2:],
        "done": done[:-2],
        "ran": ran.read_text().splitlines() if ran.exists() else [],
    }
    print(json.dumps(report))


def prepare(models: Path) -> tuple[int, str]:
    """Write data, a spec, a run of it, and what else a stranger has in the working folder."""
    from tests import hostile
    from tests.miniature import write_flickr30k

    write_flickr30k(HERE / "data", images=24)
    Path("own.yaml").write_text(json.dumps(hostile.run_spec(HERE / "data")))
    image = next((HERE / "data" / "flickr30k-images").iterdir())
    choice = {"image": image.name, "caption": "a", "negative_caption": "b"}
    Path("tests.jsonl").write_text(json.dumps(choice))
    for name in ("a", "b"):
        (HERE / "class-folders" / name).mkdir(parents=True)
        shutil.copy(image, HERE / "class-folders" / name)
    started = command("train own.yaml -o base")
    hostile.foreign_folders(HERE / "foreign", models)
    hostile.with_code(HERE)
    hostile.parquet_with_code(HERE / "table" / "TEST" / "test" / "0.parquet")
    return started


def doors(run: str) -> dict[str, Callable[[], object]]:
    """Return what opens a run in Python."""
    from contrastive import build_model, load_model, load_spec, train

    file = f"{run}/model/run.json"
    return {
        "load_model": lambda: load_model(run),
        "build_model": lambda: build_model(file),
        "load_spec": lambda: load_spec(file),
        "train": lambda: train(file, "made", resume=True),
    }


def spawned() -> tuple[int, str]:
    """Start a process as a data loader does where there is no fork."""
    worker = multiprocessing.get_context("spawn").Process(target=os.getpid)
    worker.start()
    worker.join()
    return worker.exitcode or 0, "" if worker.exitcode == 0 else "Traceback"


def unpickled() -> tuple[int, str]:
    """Unpickle, which has to be noticed."""
    from tests import hostile

    return python(lambda: hostile.pickle.loads(hostile.PICKLE))


def pipes(folder: str, names: list[str]) -> list[str]:
    """Return what cannot be copied."""
    return [name for name in names if Path(folder, name).is_fifo()]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
