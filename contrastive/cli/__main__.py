"""``python -m contrastive.cli``, as scripts of release 0.1 call ``python -m contrastive``."""

from contrastive.cli import main

if __name__ == "__main__":
    main()
