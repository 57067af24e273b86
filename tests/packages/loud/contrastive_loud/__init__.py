"""A menu that greets whoever imports it; our results on stdout must survive that."""

from typing import Any

from contrastive.heads import Head

print("contrastive-loud says hello")


class Loud(Head):
    """A head that talks."""

    def build(self, in_dim: int, out_dim: int) -> Any:
        raise NotImplementedError
