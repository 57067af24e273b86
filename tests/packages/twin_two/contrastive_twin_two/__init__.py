from typing import Any

from contrastive.heads import Head


class Twin(Head):
    """One of two heads of the same name."""

    def build(self, in_dim: int, out_dim: int) -> Any:
        raise NotImplementedError
