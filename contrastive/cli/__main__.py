"""``python -m contrastive.cli``."""

from contrastive.cli import main

if __name__ == "__main__":
    main()
