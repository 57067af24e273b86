"""How a loss goes through all pairs of a batch without holding them."""
