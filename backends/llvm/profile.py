"""How long each kernel of a program takes: every kernel is run as a program of its own, over the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from statistics import median
from time import perf_counter

import numpy as np

from graphc.schedule.kernels import Contraction, reads, writes

from .program import LlvmProgram


@dataclass(frozen=True)
class KernelTime:
    """One kernel: `seconds` (median of the runs, less the cost of an empty call), multiply-adds, bytes it touches."""

    name: str
    kind: str
    seconds: float
    macs: int
    bytes: int

    @property
    def gflops(self) -> float:
        """GFLOP/s of a contraction, 0 for other kernels."""
        return 2e-9 * self.macs / self.seconds if self.seconds > 0 else 0.0

    @property
    def gigabytes(self) -> float:
        """GB/s of all buffers read and written once."""
        return 1e-9 * self.bytes / self.seconds if self.seconds > 0 else 0.0


def profile(program: LlvmProgram, *inputs, runs: int = 30) -> list[KernelTime]:
    """The kernels of a program in order. Weights and state are copied, so the program's own do not change."""
    schedule = program.schedule
    buffers, found = schedule.buffers, []
    empty = timed(
        LlvmProgram(schedule.replace(kernels=()), program.weights, program.state.copy(), program.target), inputs, runs
    )
    for kernel in schedule.kernels:
        one = LlvmProgram(schedule.replace(kernels=(kernel,)), program.weights, program.state.copy(), program.target)
        one.threads = program.threads
        touched = {schedule.root(b) for b in (*reads(kernel), *writes(kernel))}
        contraction = isinstance(kernel, Contraction)
        found.append(
            KernelTime(
                kernel.name,
                kernel.kind if contraction else "loops",
                max(timed(one, inputs, runs) - empty, 0.0),
                prod(n for _, n in kernel.par + kernel.red) if contraction else 0,
                sum(buffers[b].bytes for b in touched),
            )
        )
    return found


def timed(program: LlvmProgram, inputs: Sequence[np.ndarray], runs: int) -> float:
    """Median seconds of a call, after a warm-up."""
    samples = []
    for _ in range(runs + 3):
        start = perf_counter()
        program(*inputs)
        samples.append(perf_counter() - start)
    return median(samples[3:])
