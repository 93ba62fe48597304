"""How long each kernel of a program takes: every kernel is run as a program of its own, over the same memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np

from graphc.schedule.kernels import Contraction, Kernel, reads, writes
from graphc.schedule.layout import NUMPY, Buffer

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


def profile(program: LlvmProgram, runs: int = 30) -> list[KernelTime]:
    """The kernels of a program in order, on random inputs. Weights and state are copied: the program's own stay."""
    schedule, found = program.schedule, []
    inputs = [drawn(schedule.buffers[name]) for name in schedule.inputs]

    def seconds(kernels: tuple[Kernel, ...]) -> float:
        state = program.state.copy()
        one = LlvmProgram(schedule.replace(kernels=kernels), program.weights, state, program.target, program.threads)
        return timed(one, inputs, runs)

    empty = seconds(())
    for kernel in schedule.kernels:
        touched = {schedule.root(b) for b in (*reads(kernel), *writes(kernel))}
        contraction = isinstance(kernel, Contraction)
        found.append(
            KernelTime(
                kernel.name,
                kernel.kind if contraction else "loops",
                max(seconds((kernel,)) - empty, 0.0),
                kernel.macs if contraction else 0,
                sum(schedule.buffers[b].bytes for b in touched),
            )
        )
    return found


def drawn(b: Buffer) -> np.ndarray:
    """Standard normal numbers, or zeros for integers (labels)."""
    if b.dtype == "f32":
        return np.random.Generator(np.random.Philox(0)).standard_normal(b.shape, np.float32)
    return np.zeros(b.shape, NUMPY[b.dtype])


def timed(program: LlvmProgram, inputs: Sequence[np.ndarray], runs: int, warm: int = 3) -> float:
    """Median seconds of a call."""
    samples = []
    for _ in range(runs + warm):
        start = perf_counter()
        program(*inputs)
        samples.append(perf_counter() - start)
    return median(samples[warm:])


def show(times: Sequence[KernelTime]) -> str:
    """The kernels as a table: microseconds, share of the whole, GFLOP/s of contractions, GB/s."""
    whole = sum(t.seconds for t in times) or 1.0
    width = max((len(t.name) for t in times), default=6)
    lines = [f"{'kernel':{width}}  {'kind':9}  {'us':>9}  {'share':>6}  {'GFLOP/s':>7}  {'GB/s':>6}"]
    for t in times:
        rate = f"{t.gflops:7.1f}" if t.macs else " " * 7
        took = f"{t.seconds * 1e6:9.1f}  {t.seconds / whole:6.1%}"
        lines.append(f"{t.name:{width}}  {t.kind:9}  {took}  {rate}  {t.gigabytes:6.1f}")
    return "\n".join([*lines, f"{'all kernels':{width}}  {len(times):<9}  {whole * 1e6:9.1f}"])
