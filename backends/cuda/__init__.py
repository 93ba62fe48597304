"""The GPU backend: planned schedules become CUDA C, compiled by NVRTC and launched as one CUDA graph by CuPy."""
