"""``python -m contrastive``, and where the ``contrastive`` command starts."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback while it is still imported, too."""
    try:
        from contrastive.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
