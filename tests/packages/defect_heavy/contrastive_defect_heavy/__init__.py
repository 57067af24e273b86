"""Imports torch with its menu."""

import torch
from contrastive_healthy import Letters


class Broken(Letters):
    """Letters, of a menu that is slow to read."""

    def build(self):
        """Return the module, in evaluation mode."""
        with torch.no_grad():
            return super().build().eval()
