"""Every registry of components."""

from __future__ import annotations

from contrastive.datasets import datasets
from contrastive.encoders import encoders
from contrastive.heads import heads
from contrastive.losses import losses
from contrastive.pretrained import sources
from contrastive.recipe.trackers import trackers

REGISTRIES = (encoders, heads, losses, datasets, sources, trackers)
"""Every kind of component."""
