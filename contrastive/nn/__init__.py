"""Networks of any library: their layers, modes, weights and randomness."""
