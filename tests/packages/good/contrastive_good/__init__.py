"""A menu that re-exports, as many packages do."""

from contrastive_good.towers import GoodImage, GoodText

__all__ = ["GoodImage", "GoodText"]
