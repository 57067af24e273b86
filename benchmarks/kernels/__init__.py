"""What the compiler makes of the fused kernels, for those who write them: no GPU is needed."""
