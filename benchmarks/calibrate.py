"""What this machine can do now: peak of fused multiply-adds, and reading from caches and memory.

python -m benchmarks.calibrate [--threads 1 2] [--json]
"""

from __future__ import annotations

from graphc.backends.llvm import target
from graphc.backends.llvm.calibrate import measured
from graphc.schedule.roofline import Limits

from .measure import arguments, cores, pin, show


def row(limits: Limits) -> dict[str, object]:
    reads = {f"{name}_GB/s": rate / 1e9 for name, _, rate in limits.reads}
    return {"threads": limits.threads, "FMA_GFLOP/s": limits.flops / 1e9, **reads}


def main() -> None:
    options = arguments(__doc__, threads=[1, 2])
    available, rows = cores(), []
    for threads in options.threads:
        if threads <= len(available):
            pin(available, threads)
            rows.append(row(measured(target.host(), threads)))
    show("limits of this machine, all threads together", rows, options.json)


if __name__ == "__main__":
    main()
