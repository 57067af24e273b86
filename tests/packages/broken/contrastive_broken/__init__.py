"""Every module of this package fails in its own way when it is imported."""
