"""Sizes and times as people write them: 50GB, 30d."""

from __future__ import annotations

import re

from contrastive.errors import SpecError

GB = 10**9
UNITS = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate("kmgt", 1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate("kmgt", 1)},
}
LARGEST_SIZE = 1e18  # bytes; more are a slip of the finger
LONGEST_TIME = 1e12  # seconds
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]i?)?b?", re.IGNORECASE)
_AGE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([smhdw])")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def byte_count(name: str, given: int | str) -> int:
    """Return a number of bytes, such as ``"50GB"`` (10^9 each) or ``"50GiB"`` (2^30 each).

    Raises:
        SpecError: it is none; names the argument.
    """
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    if isinstance(given, str) and (match := _SIZE.fullmatch(given.strip())):
        count = float(match[1]) * UNITS[(match[2] or "").lower()]
        if count < LARGEST_SIZE:
            return int(count)
    msg = f"{name} is {given!r:.60}; give bytes, or a size such as 50GB"
    raise SpecError(msg)


def seconds_of(name: str, given: float | str) -> float:
    """Return a time in seconds, such as ``"30d"``; units are s, m, h, d, w.

    Raises:
        SpecError: it is none; names the argument.
    """
    if (
        isinstance(given, (int, float))
        and not isinstance(given, bool)
        and 0 <= given < LONGEST_TIME
    ):
        return float(given)
    if isinstance(given, str) and (match := _AGE.fullmatch(given.strip().lower())):
        seconds = float(match[1]) * SECONDS[match[2]]
        if seconds < LONGEST_TIME:
            return seconds
    units = "a time with its unit, such as 30d (s, m, h, d, w)"
    what = "" if isinstance(given, str) else "seconds, or "
    msg = f"{name} is {given!r:.60}; give {what}{units}"
    raise SpecError(msg)


def shown_bytes(count: int) -> str:
    """Return a number of bytes for people: ``12.3 MB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"
