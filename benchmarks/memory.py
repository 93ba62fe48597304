"""How much memory a PyTorch training step needs, measured in a process of its own.

python -m benchmarks.memory lenet5      (a case of benchmarks.training; eager)

Prints megabytes: the growth of the resident set, at its peak, from before the network is made to after three steps:
weights, gradients, moments and activations. Another small network has run before, so that the library's own start is
not counted. Linux only: the peak is read from /proc. graphc needs no such run, since its plan is exact.
"""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np

STEPS = 3


def of_peer(case: str) -> float | None:
    """Megabytes of an eager step, None where it cannot be measured."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", case],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    return float(done.stdout) if done.returncode == 0 else None


def resident(field: str) -> float:
    """`VmRSS` or `VmHWM` (the peak) of this process, in megabytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def measure(name: str) -> float:
    # the case's module imports this one
    from .training import CASES, peer_step

    rng = np.random.default_rng(0)

    def steps(case) -> None:
        images = rng.random(case.shape, np.float32)
        labels = rng.integers(0, case.classes, case.shape[0]).astype(np.int32)
        step = peer_step("eager", case.network(), case, images, labels)
        for _ in range(STEPS):
            step()

    steps(CASES["lenet5" if name == "mlp" else "mlp"])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what the small network has left free would be used again, and not be seen
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    steps(CASES[name])
    return resident("VmHWM") - before


if __name__ == "__main__":
    print(f"{measure(sys.argv[1]):.1f}")
