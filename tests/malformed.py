"""Malformed inputs from a seed: each is given to a verb, which answers or says one line.

``python -m tests.malformed --seed 7 --cases 2000`` tries so many and prints what it found.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.miniature import FORMS, write_flickr30k, write_hub_copy

SHARES = {  # of 2,000
    "spec": 398,
    "captions": 378,
    "model": 383,
    "index": 200,
    "pair tests": 254,
    "feature cache": 120,
    "arguments": 107,
    "Parquet": 59,
    "environment": 22,
    "log": 79,
}
LIMIT = 60  # seconds, after which a case hangs
CODES = {0, 1, 2, 3}  # 1 of verbs that check
WEIRD: list[Any] = [
    *(None, True, "", " ", "\0", "\ud800", "\u202e", "\x1b[2J", "a\nb", "a" * 5000, "é", "日本"),
    *(-1, 0, 1, 2**31, 2**63, 10**11, 10**30, 1e308, -0.0, 0.5, "1e999", ".nan", ".inf", "0x10"),
    *("~nosuch/x", "s3://b/x", "../../etc/passwd", "/dev/zero", "/dev/null", "C:\\x", "os:system"),
    *([], {}, [[]], {"type": "infonce"}, {"a": {"b": 1}}, ["a", 1, None], "[", "{}", "*a", "&a"),
]


class Hang(BaseException):
    """A case took too long."""


@dataclass
class Result:
    """What the cases came to."""

    cases: Counter[str] = field(default_factory=Counter[str])
    codes: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    faults: list[str] = field(default_factory=list[str])


class Malformed:
    """Makes cases from a folder with a trained run and its data."""

    def __init__(self, seed: int, shop: Path, place: Path) -> None:
        self.random = random.Random(seed)
        self.shop, self.place = shop, place
        self.run = shop / "runs" / "toy"
        self.whole_spec = json.loads((shop / "toy.yaml").read_text())
        self.variables: dict[str, str] = {}

    def case(self, kind: str) -> list[str]:
        """Write the files of a case; return the command."""
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir()
        self.variables = {"CONTRASTIVE_CACHE": str(self.shop / "cache")}
        return getattr(self, kind.replace(" ", "_").lower())()

    def spec(self) -> list[str]:
        path = self.place / "run.yaml"
        if self.random.random() < 0.5:
            path.write_bytes(self.bytes_of(json.dumps(self.whole_spec, indent=1).encode()))
        else:
            path.write_text(json.dumps(self.tree(self.whole_spec)))
        return ["validate", str(path)]

    def captions(self) -> list[str]:
        form = self.random.choice(["csv", "tsv", "jsonl", *FORMS])
        folder = self.place / "data"
        if form in FORMS:
            folder.mkdir()
            (folder / "flickr30k-images").symlink_to(self.shop / "data" / "flickr30k-images")
            path, data = folder / FORMS[form], f"type=flickr30k,folder={folder}"
            whole = (self.shop / "forms" / FORMS[form]).read_bytes()
        else:
            folder.mkdir()
            images = sorted((self.shop / "data" / "flickr30k-images").iterdir())
            for image in images:
                (folder / image.name).symlink_to(image)
            rows = [{"image": i.name, "text": f"a {i.stem}", "split": "test"} for i in images]
            path, data = folder / f"captions.{form}", str(folder)
            mark = {"csv": ",", "tsv": "\t"}.get(form)
            lines = [mark.join(rows[0])] if mark else []
            lines += [mark.join(r.values()) if mark else json.dumps(r) for r in rows]
            whole = "\n".join(lines).encode()
        path.write_bytes(self.bytes_of(whole))
        return ["search", "red", "-m", str(self.run), "--data", data, "--split", "test"]

    def model(self) -> list[str]:
        folder = self.place / "model"
        shutil.copytree(self.run / "model", folder)
        path = self.random.choice(sorted(p for p in folder.iterdir() if p.name != "manifest.json"))
        what = self.random.random()
        if what < 0.1:
            path = folder / "manifest.json"
        if path.suffix == ".json" and self.random.random() < 0.6:
            path.write_text(json.dumps(self.tree(json.loads(path.read_bytes()))))
        else:
            path.write_bytes(self.bytes_of(path.read_bytes()))
        if what > 0.3:  # a stranger's folder, whole by its own account
            about = json.loads((folder / "manifest.json").read_bytes())
            data = path.read_bytes()
            about["files"][path.name] = {
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            (folder / "manifest.json").write_text(json.dumps(about))
        verb = self.random.choice(["classify", "search", "validate", "evaluate"])
        image = str(next((self.shop / "data" / "flickr30k-images").iterdir()))
        if verb == "validate":
            return ["validate", str(folder / "spec.json")]
        if verb == "search":
            return ["search", "red", "-m", str(folder), "--images", str(Path(image).parent)]
        if verb == "evaluate":
            return ["evaluate", "-m", str(folder), "--json"]
        return ["classify", image, "--classes", "red,blue", "-m", str(folder)]

    def index(self) -> list[str]:
        folder = self.place / "index"
        shutil.copytree(self.shop / "index", folder)
        path = self.random.choice(sorted(folder.glob("*.*")))
        if path.suffix == ".json" and self.random.random() < 0.6:
            path.write_text(json.dumps(self.tree(json.loads(path.read_bytes()))))
        else:
            path.write_bytes(self.bytes_of(path.read_bytes()))
        if path.suffix != ".json" and self.random.random() < 0.7:  # a stranger's
            about = json.loads((folder / "index.json").read_bytes())
            kind = "table" if path.suffix == ".parquet" else "vectors"
            data = path.read_bytes()
            for one in about["segments"]:
                if path.name.startswith(f"{one['modality']}-{one['number']:06}."):
                    digest = hashlib.sha256(data).hexdigest()
                    one[kind] = {"bytes": len(data), "sha256": digest}
            (folder / "index.json").write_text(json.dumps(about))
        where = self.random.choice(["id>=3", "text=a*", "label=x", "source!=a", "sample=?"])
        of_index, model = ["--index", str(folder)], ["-m", str(self.run)]
        verbs = ["search", "red", *of_index, *model], ["index", "update", str(folder), *model]
        verbs += ["search", "--outliers", *of_index], ["search", "--duplicates", "0.5", *of_index]
        verbs += (["search", "red", *of_index, *model, "--where", where],)
        verbs += ["index", "info", str(folder)], ["index", "info", str(folder), "--verify"]
        verbs += (["index", "remove", str(folder), "--where", where],)
        return [*self.random.choice(verbs), "--json"]

    def pair_tests(self) -> list[str]:
        images = sorted((self.shop / "data" / "flickr30k-images").iterdir())
        rows = [
            {"image": i.name, "caption": f"a {i.stem}", "negative_caption": "another"}
            for i in images * 10
        ]
        form = self.random.choice(["json", "jsonl", "csv", "tsv"])
        path = self.place / f"tests.{form}"
        if form == "json":
            tree = {str(n): row for n, row in enumerate(rows)}
            tree = self.tree(tree) if self.random.random() < 0.5 else tree
            whole = json.dumps(tree).encode()
        elif form == "jsonl":
            whole = "\n".join(json.dumps(row) for row in rows).encode()
        else:
            mark = {"csv": ",", "tsv": "\t"}[form]
            whole = "\n".join(
                mark.join(map(str, row)) for row in [rows[0], *map(dict.values, rows)]
            )
            whole = whole.encode()
        path.write_bytes(self.bytes_of(whole))
        folder = str(self.shop / "data" / "flickr30k-images")
        return ["compositional", str(path), "--images", folder, "-m", str(self.run)]

    def feature_cache(self) -> list[str]:
        cache = self.place / "cache"
        shutil.copytree(self.shop / "cache", cache)
        files = sorted(p for p in cache.rglob("*") if p.is_file())
        for _ in range(self.random.randint(1, 3)):
            path = self.random.choice(files)
            if path.is_file():
                path.write_bytes(self.bytes_of(path.read_bytes()))
            if self.random.random() < 0.1:
                path.unlink(missing_ok=True)
                path.mkdir()
        self.variables["CONTRASTIVE_CACHE"] = str(cache)
        verbs = ["evaluate", "-m", str(self.run)], ["cache", "list"], ["cache", "verify"]
        verbs += ["cache", "verify", "--repair"], ["cache", "prune", "--outdated", "--yes"]
        return [*self.random.choice(verbs), "--json"]

    def arguments(self) -> list[str]:
        verbs = [
            "train",
            "evaluate",
            "search",
            "classify",
            "validate",
            "doctor",
            "caption",
            "probe",
        ]
        verbs += [
            "compare",
            "compositional",
            "answer",
            "plugins",
            "cache",
            "init",
            "schema",
            "",
            "nosuch",
        ]
        options = [
            "-m",
            "--data",
            "--split",
            "--json",
            "-k",
            "--classes",
            "--device",
            "-o",
            "--plot",
        ]
        options += [
            "--images",
            "--texts",
            "--find",
            "--template",
            "--seed",
            "--nosuch",
            "--",
            "--top",
        ]
        good = [str(self.run), str(self.shop / "toy.yaml"), "red", "test", "3", str(self.shop)]
        args = [self.random.choice(verbs)]
        for _ in range(self.random.randint(0, 6)):
            pool: list[Any] = self.random.choice([options, good, WEIRD])
            args.append(
                str(self.random.choice(pool)).replace("\0", "").encode(errors="replace").decode()
            )
        return args

    def parquet(self) -> list[str]:
        folder = self.place / "hub"
        shutil.copytree(self.shop / "hub", folder)
        path = self.random.choice(sorted(folder.rglob("*.parquet")))
        path.write_bytes(self.bytes_of(path.read_bytes()))
        data = f"type=flickr30k,source=hub,repo={folder}"
        return ["search", "red", "-m", str(self.run), "--data", data, "--split", "test"]

    def environment(self) -> list[str]:
        names = ["CONTRASTIVE_CACHE", "CONTRASTIVE_MODEL", "COLUMNS", "CONTRASTIVE_PLUGINS", "HOME"]
        names += ["XDG_CACHE_HOME", "TERM", "NO_COLOR", "LANG"]
        value = str(self.random.choice(WEIRD)).replace("\0", "").encode(errors="replace").decode()
        self.variables[self.random.choice(names)] = value
        if self.random.random() < 0.5:
            self.variables.pop("CONTRASTIVE_CACHE", None)
        return ["evaluate", "--json", "-m", str(self.run)]

    def log(self) -> list[str]:
        run = self.place / "run"
        shutil.copytree(self.run, run)
        path = run / "log.jsonl"
        lines = path.read_text().splitlines()
        if self.random.random() < 0.5:
            number = self.random.randrange(len(lines))
            lines[number] = json.dumps(self.tree(json.loads(lines[number])))
            path.write_text("\n".join(lines) + "\n")
        else:
            path.write_bytes(self.bytes_of(path.read_bytes()))
        if self.random.random() < 0.5:
            return ["doctor", str(run)]
        return ["train", str(self.shop / "toy.yaml"), "-o", str(run), "--resume"]

    def bytes_of(self, whole: bytes) -> bytes:
        """Return bytes after a few edits."""
        data = bytearray(whole)
        for _ in range(self.random.randint(1, 4)):
            start = self.random.randrange(len(data) + 1)
            stop = min(len(data), start + self.random.choice([1, 1, 2, 8, 64]))
            match self.random.randrange(7):
                case 0:
                    data[start:stop] = b""
                case 1:
                    data[start:start] = data[start:stop] * self.random.choice([1, 2, 40])
                case 2:
                    data[start:stop] = self.random.randbytes(stop - start)
                case 3:
                    del data[start:]
                case 4:
                    odd = json.dumps(self.random.choice(WEIRD)).encode()
                    data[start:stop] = odd
                case 5:
                    data[start:start] = self.random.choice(
                        [b"\xef\xbb\xbf", b"\0", b"\r", b'"', b"\n\n", b"\xff", b"\t", b"{", b"]"]
                    )
                case _:
                    if data:
                        data[start % len(data)] ^= 1 << self.random.randrange(8)
        return bytes(data)

    def tree(self, value: Any) -> Any:
        """Return a copy of plain data after a few edits."""
        copy = json.loads(json.dumps(value))
        for _ in range(self.random.randint(1, 3)):
            places = list(_places(copy))
            if not places:
                return self.random.choice(WEIRD)
            holder, key = self.random.choice(places)
            match self.random.randrange(4):
                case 0:
                    del holder[key]
                case 1 if isinstance(holder, dict):
                    holder[str(key)[:-1] + "x"] = holder.pop(key)
                case 2 if isinstance(holder, dict):
                    holder[str(self.random.choice(WEIRD))] = self.random.choice(WEIRD)
                case _:
                    holder[key] = self.random.choice(WEIRD)
        return copy


def _places(value: Any) -> Any:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in list(inner):
        yield value, key
        if isinstance(part, (dict, list)):
            yield from _places(part)


def make_shop(folder: Path) -> Path:
    """Train a tiny model; write its data in every form."""
    from contrastive import RunSpec, build_index, load_model, train
    from contrastive.indexes.index_file import DataOf
    from tests.toys import toy_dict

    spec = toy_dict(folder / "data", images=24, epochs=2)
    (folder / "toy.yaml").write_text(json.dumps(spec))
    write_flickr30k(folder / "forms", images=24, forms=tuple(FORMS))
    write_hub_copy(folder / "hub", images=12)
    run = RunSpec.model_validate(spec)
    train(run, folder / "runs" / "toy")
    model, place = (
        load_model(folder / "runs" / "toy"),
        DataOf(name="toy", text=str(folder / "data")),
    )
    build_index(model, run.data.build("test"), folder / "index", data=place)
    shutil.rmtree(folder / "forms" / "flickr30k-images")
    return folder


def ended(args: list[str], variables: dict[str, str]) -> tuple[int, str, str]:
    """Call the command line in this process; return its code and what it wrote.

    Raises:
        Hang: it took too long.
    """
    from contrastive import cli

    def stop(*_: object) -> None:
        raise Hang

    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    argv, environment = sys.argv, dict(os.environ)
    sys.argv = ["contrastive", *args]
    os.environ.update(variables)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    finally:
        signal.alarm(0)
        sys.argv = argv
        os.environ.clear()
        os.environ.update(environment)
    for stream in (out, err):
        stream.flush()
    return code, *(cast_bytes(stream).decode("utf-8", "replace") for stream in (out, err))


def cast_bytes(stream: io.TextIOWrapper) -> bytes:
    """Return what was written to a stream over bytes in memory."""
    held = stream.buffer
    assert isinstance(held, io.BytesIO)
    return held.getvalue()


def fault_of(args: list[str], code: int, out: str, err: str) -> str:
    """Return what is wrong with how a command ended, or nothing."""
    if "Traceback" in err or "Traceback" in out:
        return "a traceback was printed"
    if code not in CODES:
        return f"exit code {code}"
    if code == 1 and args[0] not in ("doctor", "plugins", "cache", "index"):
        return "exit code 1"
    if code == 2 and not err.strip():
        return "nothing was said"
    if code in (0, 3) and "--json" in args and args[0] not in ("", "nosuch", "train"):
        try:
            json.loads(out, parse_constant=_refused)
        except ValueError:
            return "what was printed is not JSON"
    return ""


def _refused(name: str) -> None:
    raise ValueError(name)


def try_cases(seed: int, cases: int, shop: Path, place: Path) -> Result:
    """Try cases of each kind, in the shares of ``SHARES``."""
    result = Result()
    made = Malformed(seed, shop, place)
    before = Path.cwd()
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, share * cases // 2000))]
    for number, kind in enumerate(kinds):
        args = made.case(kind)
        work = place / "cwd"
        work.mkdir(exist_ok=True)
        os.chdir(work)  # where runs/ may be written
        try:
            code, out, err = ended(args, made.variables)
            fault = fault_of(args, code, out, err)
            result.codes[kind, code] += 1
        except Hang:
            fault, err = f"no end after {LIMIT} s", ""
        except BaseException:  # a user would see a traceback
            fault, err = "a traceback", traceback.format_exc()
        finally:
            os.chdir(before)
        result.cases[kind] += 1
        if fault:
            kept = place.parent / f"case-{seed}-{number}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(place, kept, symlinks=True)
            told = f"{fault}: {kind}: contrastive {' '.join(args)} (files: {kept})\n{err[-1500:]}"
            result.faults.append(told)
    return result


def main() -> None:
    """Try cases and print what came of them; exit with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    (folder / "shop").mkdir()
    os.environ["CONTRASTIVE_CACHE"] = str(folder / "shop" / "cache")
    found = try_cases(given.seed, given.cases, make_shop(folder / "shop"), folder / "place")
    for fault in found.faults:
        print(fault)
    for kind, count in found.cases.items():
        codes = ", ".join(
            f"{code}: {n}" for (of, code), n in sorted(found.codes.items()) if of == kind
        )
        print(f"{kind}: {count} cases; exit codes {codes}")
    print(f"seed {given.seed}: {found.cases.total()} cases, {len(found.faults)} faults")
    sys.exit(bool(found.faults))


if __name__ == "__main__":
    main()
