"""Suites that any implementation can be put through, a plugin's as well as the built-in ones.

Importing this module imports torch.
"""

from contrastive.testing.losses import LossCase, check_loss, loss_cases
from contrastive.testing.measure import Tolerance

__all__ = ["LossCase", "Tolerance", "check_loss", "loss_cases"]
