"""``python -m contrastive``, and where the ``contrastive`` command starts."""

import gc
import signal
import sys

NANOBIND = {"triton", "jaxlib"}
"""Libraries whose types say that they leak if they are not collected as garbage."""


def main() -> None:
    """Run the command line; Ctrl-C is no traceback while it is imported or ends, either."""
    try:
        from contrastive.cli import main as run

        run()
    except KeyboardInterrupt:  # the second one comes while the first is told
        sys.exit(130)
    finally:  # what is left is the end of Python, which it may cut short
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not NANOBIND & sys.modules.keys():
            gc.freeze()  # else Python looks through all of torch for garbage before it ends


if __name__ == "__main__":
    main()
