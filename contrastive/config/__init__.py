"""What a spec is made of: the base class of configs, registries, files and their errors."""
