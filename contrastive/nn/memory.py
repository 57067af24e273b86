"""Memory that is not there: which errors say so, in their many ways."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from contrastive.errors import ContrastiveError

if TYPE_CHECKING:
    from collections.abc import Generator

SIGNS = (
    "can't allocate memory",  # torch's CPU allocator
    "out of memory",
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "Storage size calculation overflowed",
    "Overflow when unpacking long",
)
ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.IGNORECASE)


class OutOfMemory(ContrastiveError):  # noqa: N818
    """There is no memory left for what was asked."""


@contextmanager
def told_memory(what: str, remedy: str) -> Generator[None]:
    """Within a block, tell in one line that memory is not there for something.

    Raises:
        OutOfMemory: it is not; with the remedy.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, ContrastiveError) and (problem := out_of_memory(error)):
            msg = f"{what}: {problem}; {remedy}"
            raise OutOfMemory(msg) from error
        raise


def out_of_memory(error: BaseException) -> str:
    """Return a line about the memory that an error says is not there; empty if it is another."""
    is_of_memory = isinstance(error, (MemoryError, OverflowError, torch.OutOfMemoryError))
    if not is_of_memory and not isinstance(error, (RuntimeError, TypeError)):
        return ""
    text = str(error)
    if not is_of_memory and not any(sign in text for sign in SIGNS):
        return ""
    if not (asked := ASKED.search(text)):
        return "out of memory"
    number, unit = asked.groups()
    amount = f"{float(number) / 2**30:,.1f} GiB" if unit == "bytes" else f"{number} {unit}"
    return f"out of memory ({amount} more were asked for)"
