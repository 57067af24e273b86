"""Parts that fail where they are asked to."""

import errno
import os
import sys
from typing import Any, ClassVar

from pydantic import model_validator

from contrastive.interface import Dataset, Encoder, Head, Loss


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self):
        raise AttributeError


class Fails:
    """Fails at one place."""

    def at(self, place: str) -> None:
        """Fail, if it is here."""
        where = getattr(self, "where", "")
        if where == place:
            raise KeyError(place)
        if where == f"{place}, full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "scratch.bin")
        if where == f"{place}, full disk, by a library":
            raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")
        if where == f"{place}, exit":
            sys.exit()
        if where == f"{place}, pipe":
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if where == f"{place}, mute":
            raise MuteError


class Text(Encoder, Fails):
    """Counts letters."""

    modality: ClassVar[str] = "text"
    where: str = ""

    @model_validator(mode="after")
    def _is_checked(self):
        self.at("validator")
        return self

    def build(self) -> Any:
        from contrastive_fails.modules import TextModule

        self.at("build")
        return TextModule(self)


class Narrow(Head, Fails):
    """A linear layer."""

    where: str = ""

    def build(self, in_dim: int, out_dim: int) -> Any:
        from torch import nn

        self.at("build")
        return nn.Linear(in_dim, out_dim)


class Apart(Loss, Fails):
    """A distance."""

    where: str = ""

    def build(self) -> Any:
        from contrastive_fails.modules import ApartModule

        self.at("build")
        return ApartModule(self)


class Rows(Dataset, Fails):
    """Letters, twice."""

    where: str = ""

    def build(self, split: str, *, purpose: str = "evaluation") -> Any:
        self.at("build")
        return Items(self)


class Items:
    """Rows."""

    def __init__(self, config: Rows):
        self.config = config

    def __len__(self):
        return 8

    def __getitem__(self, index: int):
        self.config.at("item")
        return {"text": "abcdefgh"[index], "id": index, "source": f"letters:{index}"}
