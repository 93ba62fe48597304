"""What the kernels of a schedule have to do, and how near their times are to what the machine can do.

The roofline of a kernel is the time in which its multiply-adds run at the peak and what it touches is read once from
the nearest memory that holds it all, whichever is longer. Backends measure; tables and JSON are made here.
"""

from __future__ import annotations

import math

import numpy as np

from graphc.ir.frozen import frozen

from .expr import E
from .kernels import Kernel, Schedule, accesses, bodies, extents, reads, writes
from .layout import NUMPY, Buffer


@frozen
class Limits:
    """Of `threads` threads together, or of a whole device (0): FLOP/s of multiply-adds, and bytes/s of reading buffers
    of up to so many bytes (in all; None for any size), the nearest memory first."""

    threads: int
    flops: float
    reads: tuple[tuple[str, int | None, float], ...]

    def bandwidth(self, touched: int) -> float:
        """Bytes/s from the nearest memory that holds so many bytes."""
        return next(rate for _, most, rate in self.reads if most is None or touched <= most)

    def seconds(self, macs: int, touched: int) -> float:
        """The least time of so many multiply-adds over so many bytes, each read or written once."""
        return max(2 * macs / self.flops, touched / self.bandwidth(touched))


@frozen
class Work:
    """One kernel: its multiply-adds, and the bytes that it reads or writes, each once."""

    name: str
    kind: str
    macs: int
    bytes: int


@frozen
class KernelTime(Work):
    """A kernel and its `seconds`: median of the runs, less the cost of an empty call."""

    seconds: float

    @property
    def gflops(self) -> float:
        """GFLOP/s of a contraction, 0 for other kernels."""
        return 2e-9 * self.macs / self.seconds if self.seconds > 0 else 0.0

    @property
    def gigabytes(self) -> float:
        """GB/s of all buffers read and written once."""
        return 1e-9 * self.bytes / self.seconds if self.seconds > 0 else 0.0


def works(schedule: Schedule) -> list[Work]:
    """What each kernel has to do."""
    found = []
    for kernel in schedule.kernels:
        kind = getattr(kernel, "kind", type(kernel).__name__.lower())
        found.append(Work(kernel.name, kind, getattr(kernel, "macs", 0), touched(kernel, schedule)))
    return found


def touched(kernel: Kernel, schedule: Schedule) -> int:
    """Bytes of what the kernel reads and writes outside of itself: of each buffer as many elements as the axes of its
    indices can reach, and no more than it has. So the margins that a kernel zeroes count, not the image within."""
    outside, reached = {*reads(kernel), *writes(kernel)}, dict[str, int]()
    for body in bodies(kernel):
        sizes = extents(body)
        for name, indices, _ in accesses(body):
            if name not in outside:
                continue
            root = schedule.root(name)
            b, whole = schedule.buffers[root], schedule.buffers[root].bytes
            computed = any(isinstance(i, E) for i in indices)
            axes = () if computed else {a for i in indices for a in i.axes}
            size = whole if computed else math.prod(sizes[a] for a in axes) * whole // b.elements
            reached[root] = min(whole, reached.get(root, 0) + size)
    return sum(reached.values())


def drawn(b: Buffer) -> np.ndarray:
    """Standard normal numbers, or zeros for integers (labels)."""
    if b.dtype == "f32":
        return np.random.Generator(np.random.Philox(0)).standard_normal(b.shape, np.float32)
    return np.zeros(b.shape, NUMPY[b.dtype])


@frozen
class Profile:
    """Times of a program's kernels, and the limits of the machine in the same run."""

    times: tuple[KernelTime, ...]
    limits: Limits

    def least(self, t: KernelTime) -> float:
        """Seconds by the roofline."""
        return self.limits.seconds(t.macs, t.bytes)

    def data(self) -> dict[str, object]:
        """For JSON: `kernels` in order, and `limits`; microseconds, GFLOP/s and GB/s."""
        kernels = [
            {
                "name": t.name,
                "kind": t.kind,
                "us": t.seconds * 1e6,
                "macs": t.macs,
                "bytes": t.bytes,
                "gflops": t.gflops,
                "gigabytes_per_second": t.gigabytes,
                "of_roofline": self.least(t) / t.seconds if t.seconds else None,
            }
            for t in self.times
        ]
        reads = {name: rate / 1e9 for name, _, rate in self.limits.reads}
        limits = {"threads": self.limits.threads, "gflops": self.limits.flops / 1e9, "gigabytes_per_second": reads}
        return {"kernels": kernels, "limits": limits}

    def __str__(self) -> str:
        """A table: microseconds, share of the whole, GFLOP/s of contractions, bytes, GB/s, share of the roofline;
        below it the limits."""
        whole = sum(t.seconds for t in self.times) or 1.0
        width = max((len(t.name) for t in self.times), default=6)
        columns = f"{'us':>9}  {'share':>6}  {'GFLOP/s':>7}  {'kB':>9}  {'GB/s':>6}  {'of roofline':>11}"
        lines = [f"{'kernel':{width}}  {'kind':9}  {columns}"]
        for t in self.times:
            rate = f"{t.gflops:7.1f}" if t.macs else " " * 7
            took = f"{t.seconds * 1e6:9.1f}  {t.seconds / whole:6.1%}"
            share = f"{self.least(t) / t.seconds:11.0%}" if t.seconds else " " * 11
            moved = f"{t.bytes / 1e3:9.1f}  {t.gigabytes:6.1f}"
            lines.append(f"{t.name:{width}}  {t.kind:9}  {took}  {rate}  {moved}  {share}")
        floor, macs = sum(map(self.least, self.times)), sum(t.macs for t in self.times)
        sums = f"{whole * 1e6:9.1f}  {1:6.1%}  {2e-9 * macs / whole:7.1f}  {'':9}  {'':6}"
        lines.append(f"{'all kernels':{width}}  {len(self.times):<9}  {sums}  {floor / whole:11.0%}")
        reads = ", ".join(f"{name} {rate / 1e9:.0f} GB/s" for name, _, rate in self.limits.reads)
        threads = self.limits.threads
        many = f"{threads} thread{'s' * (threads > 1)}" if threads else "the whole device"
        return "\n".join([*lines, f"roofline, {many}: {self.limits.flops / 1e9:.0f} GFLOP/s of multiply-adds, {reads}"])
