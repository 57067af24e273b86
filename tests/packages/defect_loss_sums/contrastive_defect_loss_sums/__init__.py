"""Sums over the rows of a batch, instead of averaging them."""

import math

from contrastive_healthy import Contrast


class Broken(Contrast):
    """Contrast, with a mistake."""

    def build(self):
        """Return the loss with the mistake."""
        from contrastive_defect_loss_sums.module import Module

        return Module(-math.log(self.temperature))
