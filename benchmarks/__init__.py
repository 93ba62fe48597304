"""Side by side with peers on this machine: `python -m benchmarks.inference`, `.training`, `.startup`, `.layers` (single
kernels), `.calibrate` (limits of the machine), and `.report`, which runs them all and writes docs/performance.md."""
