import threading
from dataclasses import dataclass, field
from typing import Any

from contrastive_healthy.squares import Painted


@dataclass(frozen=True)
class Rows(Painted):
    lock: Any = field(default_factory=threading.Lock)

    def __getitem__(self, index):
        with self.lock:
            return super().__getitem__(index)
