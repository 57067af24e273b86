"""The losses as GPU kernels, in Triton; nothing here imports it but the modules that need it."""
