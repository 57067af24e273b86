"""A table and plots from a run's ``results.json``, and from nothing else."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from benchmarks.losses.implementations import LEAST
from benchmarks.losses.thresholds import EXECUTIONS, threshold_lines
from benchmarks.losses.timing import paired_ratios, spread
from contrastive.console import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Data = dict[str, Any]
LISTED = 6  # kernels of a call
KIND = ("loss", "mode", "raw", "dtype", "ids")
KINDS = {False: "unit features", True: "raw features, normalised inside"}
MODES = {"both": "forward and backward", "forward": "forward alone"}


def write_report(path: Path) -> None:
    """Write, of ``x.json``, ``x.md`` and with matplotlib ``x_time.png`` and ``x_memory.png``."""
    data = json.loads(path.read_text())
    table = path.with_suffix(".md")
    table.write_text("\n".join(lines(data)) + "\n")
    made = [table]
    try:
        from benchmarks.losses.plots import plot
    except ImportError:
        say("no plots: matplotlib is not installed")
    else:
        made += plot(data, path)
    for file in made:
        say(str(file))


def lines(data: Data) -> Iterator[str]:
    """Return the report in Markdown."""
    about, options = data["about"], data["options"]
    yield f"# Losses on {about.get('device', options['device'])}"
    yield ""
    types = ", ".join(options["dtypes"])
    yield f"`{about['command']}`, seed {options['seed']}, features in {types}"
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    yield from _thresholds(data)
    yield from _compiled(data)
    yield from _ceilings(data)
    yield from _correctness(data)
    yield from _speed(data)
    yield from _host(data)
    yield from _kernels(data)
    yield from _left_out(data)


def _thresholds(data: Data) -> Iterator[str]:
    names = data["options"]["names"]
    if "eager" in names and not {*EXECUTIONS}.isdisjoint(names):
        yield ""
        yield "## From how many pairs on"
        yield ""
        yield from (f"- {line}" for line in threshold_lines(data))


def _compiled(data: Data) -> Iterator[str]:
    if found := data["compiled"]:
        yield ""
        yield (
            f"Kernels were compiled for {found['compiled']} kinds of calls in {found['seconds']} s "
            f"by {found['processes']} processes; {len(found['failed'])} failed, for "
            f"{len(found['late'])} there was no time."
        )


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _ceilings(data: Data) -> Iterator[str]:
    if not data["ceilings"]:
        return
    yield ""
    yield "## Ceilings"
    yield from _table(
        ["what", "ms", "rate"],
        (
            [
                f"{x['what']}, {x['m']} x {x['k']} x {x['n']}" if "m" in x else x["what"],
                _number(x["ms"]),
                f"{_rate(data, x['tflops'])}FLOP/s"
                if "m" in x
                else f"{x['gb_per_s']:.4g} GB/s copied",
            ]
            for x in data["ceilings"]
        ),
    )


def _rate(data: Data, tflops: float) -> str:
    """Return a rate in the unit that suits the device."""
    return f"{tflops:.3g} T" if data["options"]["device"] == "cuda" else f"{1e3 * tflops:.3g} G"


def _correctness(data: Data) -> Iterator[str]:
    """One table for each loss and type: the worst over all shapes of a regime."""
    found = data["correctness"]
    if not found:
        return
    yield ""
    yield "## Correctness"
    yield ""
    yield (
        "Errors against float64 of the loss / of the towers' gradients, the worst of all shapes. A "
        "FAIL says which bar was missed."
    )
    for loss, dtype in dict.fromkeys((x["loss"], x["dtype"]) for x in found):
        here = [x for x in found if (x["loss"], x["dtype"]) == (loss, dtype)]
        regimes = list(dict.fromkeys(x["regime"] for x in here))
        shapes = dict.fromkeys((*x["rows"], x["width"]) for x in here)
        yield ""
        yield f"### {loss}, {dtype}"
        yield ""
        yield "N x M x D: " + ", ".join(" x ".join(map(str, shape)) for shape in shapes)
        names = dict.fromkeys(x["implementation"] for x in here)
        yield from _table(
            ["", *regimes],
            (
                [
                    name,
                    *(_cell(_of(here, implementation=name, regime=regime)) for regime in regimes),
                ]
                for name in names
            ),
        )


def _cell(checks: list[Data]) -> str:
    if not checks:
        return ""
    if errors := [x for x in checks if x["status"] == "error"]:
        return _escaped(errors[0]["reason"])
    failed = dict.fromkeys(name for x in checks for name in x["failed"])
    loss, towers = (_worst(checks, name) for name in ("loss", "gradients"))
    verdict = f"**FAIL** ({', '.join(failed)})" if failed else "PASS"
    return f"{verdict} {loss} / {towers}"


def _worst(checks: list[Data], name: str) -> str:
    errors = [x["errors"][name] for x in checks if "errors" in x]
    numbers = [float(x) for x in errors if x is not None]
    if not numbers:
        return ""
    return "nan" if any(map(math.isnan, numbers)) else f"{max(numbers):.0e}"


def _speed(data: Data) -> Iterator[str]:
    speed = [x for x in data["speed"] if x["rounds"]]
    if not speed:
        return
    base = data["options"]["names"][0]
    yield ""
    yield "## Time and memory"
    yield ""
    yield (
        f"Median of the rounds, 20th to 80th percentile; the ratio to {base} is the median of the "
        "ratios within rounds, with theirs; processor time is that of all threads, without what "
        "others use. FLOP/s on the work each does, and on the least that is needed. MB "
        "at the peak beyond what was there before, returned gradients included; and those alone. "
        "The first call includes compilation, where it was the first at its shape. Passed: "
        "correctness checks in this type."
    )
    for kind in dict.fromkeys(tuple(x[key] for key in KIND) for x in speed):
        loss, mode, raw, dtype, ids = kind
        yield ""
        with_ids = "no ids" if ids == "none" else f"ids {ids}"
        yield f"### {loss}, {MODES[mode]}, {KINDS[raw]}, {dtype}, {with_ids}"
        cases = _of(speed, **dict(zip(KIND, kind, strict=True)))
        yield from _table(
            [
                "N",
                "D",
                "",
                "ms",
                "p20 to p80",
                f"/ {base}",
                *([f"processor time / {base}"] * (data["options"]["device"] == "cpu")),
                "FLOP/s own",
                "FLOP/s least",
                "MB",
                "gradients MB",
                f"MB / {base}",
                "first call, s",
                "passed",
            ],
            (row for case in cases for row in _rows(data, case, base)),
        )


def _rows(data: Data, case: Data, base: str) -> Iterator[list[str]]:
    on_cpu = data["options"]["device"] == "cpu"
    present = dict.fromkeys(name for x in case["rounds"] for name in x)
    for name in present:
        ms, low, high = spread(case["rounds"], name)
        units = data["implementations"][name]["units"][case["loss"]][case["mode"]]
        least = LEAST[case["loss"]][case["mode"]]
        rate = 2e-9 * case["n"] ** 2 * case["d"] / ms
        memory, base_memory = (case["memory"].get(x) for x in (name, base))
        yield [
            str(case["n"]),
            str(case["d"]),
            name,
            _number(ms),
            f"{_number(low)} to {_number(high)}",
            _ratio(case["rounds"], name, base),
            *([_ratio(case["processor_rounds"], name, base)] * on_cpu),
            _rate(data, units * rate),
            _rate(data, least * rate),
            _number(memory["peak"] / 1e6) if memory else "",
            _number(memory["gradients"] / 1e6) if memory else "",
            f"{memory['peak'] / base_memory['peak']:.2f}" if memory and base_memory else "",
            f"{case['first'][name] / 1e3:.2g}",
            _passed(data, case, name),
        ]
    for name, why in {**case["skipped"], **case["failed"]}.items():
        if name not in present and "no " not in why:
            yield [str(case["n"]), str(case["d"]), name, _escaped(why), *[""] * (9 + on_cpu)]


def _number(x: float) -> str:
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def _ratio(rounds: list[dict[str, float]], name: str, base: str) -> str:
    ratios = paired_ratios(rounds, name, base)
    if ratios is None or name == base:
        return "" if ratios is None else "1"
    return "{:.2f} ({:.2f} to {:.2f})".format(*ratios)


def _passed(data: Data, case: Data, name: str) -> str:
    checks = _of(data["correctness"], loss=case["loss"], dtype=case["dtype"], implementation=name)
    return f"{sum(x['status'] == 'PASS' for x in checks)} of {len(checks)}" if checks else ""


def _host(data: Data) -> Iterator[str]:
    if not data["host"]:
        return
    yield ""
    yield "## Beside the GPU"
    yield from _table(
        [
            "N",
            "D",
            "ids",
            "",
            "launches",
            "ms until return",
            "ms until done",
            "waits",
            "CUDA graph",
        ],
        (
            [
                str(x["n"]),
                str(x["d"]),
                x["ids"],
                x["implementation"],
                *(
                    [_escaped(x["reason"]), "", "", "", ""]
                    if "reason" in x
                    else [
                        _escaped(str(x["launches"])),
                        f"{x['return_ms']:.3f}",
                        f"{x['wall_ms']:.3f}",
                        _escaped(x["waits_for_gpu"]) or "no",
                        _escaped(x["graph"]),
                    ]
                ),
            ]
            for x in data["host"]
        ),
    )


def _kernels(data: Data) -> Iterator[str]:
    if not data["kernels"]:
        return
    yield ""
    yield "## Time per kernel"
    yield ""
    yield "The ms of a forward and backward, and of each kernel (on a CPU, operator) in it."
    yield from _table(
        ["", "loss", "N", "D", "features", "ids", "ms", "kernels"],
        (
            [
                x["implementation"],
                x["loss"],
                str(x["n"]),
                str(x["d"]),
                x["dtype"],
                x["ids"],
                _number(x["ms"]) if "ms" in x else _escaped(x["reason"]),
                _escaped(x["kernels_reason"])
                if "kernels_reason" in x
                else ", ".join(
                    f"{_escaped(y['name'])} {y['ms']:.3g}" for y in x.get("kernels", [])[:LISTED]
                ),
            ]
            for x in data["kernels"]
        ),
    )


def _left_out(data: Data) -> Iterator[str]:
    """Say what was not measured, and why."""
    missing = {name: x["missing"] for name, x in data["implementations"].items() if x["missing"]}
    missing |= data["ended"]
    failed = {
        f"{_case(x)}, {name}": why for x in data["speed"] for name, why in x["failed"].items()
    }
    lost = {f"{x['step']}, {x['implementation']}": x["reason"] for x in data["lost"]}
    late = dict.fromkeys(data["compiled"].get("late", []), "was not compiled in time")
    failed |= lost | data["compiled"].get("failed", {}) | late
    cut = [
        f"{_case(x)}: {len(x['rounds'])} rounds only" for x in data["speed"] if not x["complete"]
    ]
    found = [f"{name}: {_escaped(why)}" for name, why in (missing | failed).items()] + cut
    found += [f"{x['step']}: {x['reason']}" for x in data["skipped"]]
    if not found:
        return
    yield ""
    yield "## Left out"
    yield ""
    yield from (f"- {x}" for x in found)


def _case(x: Data) -> str:
    return f"{x['loss']} {x['n']} x {x['d']} {x['mode']} {x['dtype']} ids {x['ids']}"


def _of(rows: list[Data], **wanted: Any) -> list[Data]:
    return [x for x in rows if all(x[key] == value for key, value in wanted.items())]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
