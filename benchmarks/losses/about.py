"""What a result has to say of where it comes from."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
from pathlib import Path
from typing import Any

import torch

PACKAGES = ["torch", "triton", "contrastive-kit", "numpy"]


def versions(packages: list[str]) -> dict[str, str]:
    """Return the versions of what is installed of some packages."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue  # not installed, or no name
    return found


def device_name(device: str) -> str:
    """Return the maker's name of a GPU, or of the CPU and how many of its cores are ours."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = re.findall(r"model name\s*: (.+)", text) or [platform.processor() or "unknown CPU"]
    flags = [flag for flag in ("avx2", "avx512f", "amx_bf16") if f" {flag}" in text]
    return f"{names[0]}, threads: {torch.get_num_threads()} ({', '.join(flags)})"


def about(
    arguments: list[str], *, module: str = "benchmarks.losses", packages: list[str] = PACKAGES
) -> dict[str, Any]:
    """Return the command and the versions of a run."""
    return {
        "command": shlex.join(["python", "-m", module, *_public(arguments)]),
        "versions": versions(packages),
    }


def about_device(device: str) -> dict[str, Any]:
    """Return what the device is.

    Raises:
        SystemExit: there is none; one line.
    """
    if device == "cpu":
        return {"device": device_name(device)}
    if not torch.cuda.is_available():
        msg = "--device cuda: torch finds no GPU here; take --device cpu"
        raise SystemExit(msg)
    return {
        "device": device_name(device),
        "capability": list(torch.cuda.get_device_capability()),
        "cuda": torch.version.cuda,
        "gpu_bytes": torch.cuda.get_device_properties(0).total_memory,
    }


def _public(arguments: list[str]) -> list[str]:
    """Leave out where the output went, which is of no use to others."""
    kept = list(arguments)
    if "--output" in kept:
        at = kept.index("--output")
        del kept[at : at + 2]
    return [x for x in kept if not x.startswith("--output=")]
