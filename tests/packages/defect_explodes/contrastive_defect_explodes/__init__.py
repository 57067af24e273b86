"""Ends the process that builds it."""

import sys

from contrastive_healthy import Gate


class Broken(Gate):
    """A gate, with a mistake."""

    def build(self, in_dim, out_dim):
        """Leave, as a script would."""
        sys.exit(3)
