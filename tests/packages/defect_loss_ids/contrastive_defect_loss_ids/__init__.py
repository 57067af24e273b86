"""Takes the captions of one image for negatives of each other."""

import math

from contrastive_healthy import Contrast


class Broken(Contrast):
    """Contrast, with a mistake."""

    def build(self):
        """Return the loss with the mistake."""
        from contrastive_defect_loss_ids.module import Module

        return Module(-math.log(self.temperature))
