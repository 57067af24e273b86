"""The command line: finds what it needs to import, then hands over."""

from __future__ import annotations

import sys
import time

from benchmarks.losses.wheels import missing, wheels_on_path

if __name__ == "__main__":
    started = time.time()
    with wheels_on_path(sys.argv[1:]) as arguments:
        try:
            from benchmarks.losses.command import main
        except ImportError as error:
            sys.exit(missing(error))
        main(arguments, started=started)
