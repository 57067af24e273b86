"""Types of fields with bounds on both sides: what is larger is a typing error."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def _not_empty(name: str) -> str:
    if not name:
        msg = "is empty; give a name"
        raise ValueError(msg)
    return name


Name = Annotated[str, AfterValidator(_not_empty)]
"""Of a split or a device."""
Width = Annotated[int, Field(gt=0, le=65_536)]
"""Channels, units or dimensions."""
Layers = Annotated[int, Field(gt=0, le=1_000)]
Side = Annotated[int, Field(gt=0, le=8_192)]
"""Pixels along a side."""
Tokens = Annotated[int, Field(gt=0, le=1_048_576)]
Entries = Annotated[int, Field(ge=0, le=2**27)]
"""Of a table or a queue in memory."""
Rows = Annotated[int, Field(gt=0, le=2**24)]
"""Of a batch."""
Count = Annotated[int, Field(gt=0, le=2**31)]
Rate = Annotated[float, Field(gt=0, le=1_000)]
"""A learning rate, a temperature."""
Factor = Annotated[float, Field(gt=0, le=1_000_000)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Probability = Annotated[float, Field(ge=0, lt=1)]
