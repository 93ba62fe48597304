"""A CPU that speaks CUDA: compiles the text of kernels with a host compiler, runs and checks it."""
