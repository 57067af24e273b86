"""Time this toolkit in turn with other packages: ``python -m benchmarks.peers``."""

from __future__ import annotations

import sys

from benchmarks.losses.wheels import missing, wheels_on_path

if __name__ == "__main__":
    with wheels_on_path(sys.argv[1:]) as arguments:
        try:
            from benchmarks.peers.command import main
        except ImportError as error:
            sys.exit(missing(error))
        main(arguments)
