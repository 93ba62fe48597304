"""What this machine can do at most: fused multiply-adds between registers, and reading from caches and from memory.

What enters: a target and a number of threads. What leaves: `Limits`, the roofline that kernels are held against.
Measured by small emitted kernels on the cores this process may use, so the figures share a run, a clock and a
neighbourhood with whatever is compared with them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import perf_counter

import numpy as np

from graphc.schedule.roofline import Limits

from . import ir, jit
from .probes import emit_peak, emit_reader, peak_floats, peak_flops, reader_floats
from .target import Target, cache_bytes

STEPS = 300_000
READ_BYTES = 32 << 20  # how much one measurement reads, at least
ROUNDS = 5
DRAM_BYTES = 192 << 20


def loaded(module: ir.Module, machine: Target, pointers: int, integers: int) -> Callable:
    """Function `k` of the module, callable; other Python threads run meanwhile."""
    code = jit.load_object([jit.compile_object(module, machine)], ["k"])
    types = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * integers
    call = ctypes.CFUNCTYPE(None, *types)(code.address("k"))
    call.code = code  # lives as long as the function
    return call


class Peak:
    """FLOP/s of fused multiply-adds between registers: the best seen so far."""

    def __init__(self, machine: Target, threads: int = 1):
        module = ir.Module("peak")
        emit_peak(module, "k", machine)
        self.call, self.best, self.work = loaded(module, machine, 1, 1), 0.0, peak_flops(machine) * STEPS * threads
        self.memory = [np.zeros(peak_floats(machine), np.float32) for _ in range(threads)]

    def measure(self) -> None:
        seconds = together([lambda m=m: self.call(m.ctypes.data, STEPS) for m in self.memory])
        self.best = max(self.best, self.work / seconds)


class Reader:
    """Bytes/s of summing a buffer again and again, each thread its own."""

    def __init__(self, machine: Target):
        module = ir.Module("reader")
        emit_reader(module, "k", machine)
        self.call, self.lanes, self.step = loaded(module, machine, 2, 2), machine.vl, reader_floats(machine)

    def measure(self, size: int, threads: int) -> float:
        """Best of a few rounds over `size` bytes in all."""
        count = size // 4 // threads // self.step * self.step
        times = max(READ_BYTES // (4 * count), 1)
        buffers = [(np.zeros(self.lanes, np.float32), np.ones(count, np.float32)) for _ in range(threads)]
        calls = [lambda t=t, x=x: self.call(t.ctypes.data, x.ctypes.data, count, times) for t, x in buffers]
        return 4.0 * count * times * threads / min(together(calls) for _ in range(ROUNDS))


def together(calls: list[Callable[[], None]]) -> float:
    """Seconds until calls that begin at the same moment, each on a thread and, where there are as many, on a core of
    its own, have all ended."""
    if len(calls) == 1:
        start = perf_counter()
        calls[0]()
        return perf_counter() - start
    cores, gate = sorted(os.sched_getaffinity(0)), Barrier(len(calls))

    def one(index: int) -> tuple[float, float]:
        if len(cores) >= len(calls):
            os.sched_setaffinity(0, {cores[index]})
        gate.wait()
        start = perf_counter()
        calls[index]()
        return start, perf_counter()

    with ThreadPoolExecutor(len(calls)) as pool:
        spans = list(pool.map(one, range(len(calls))))
    return max(end for _, end in spans) - min(start for start, _ in spans)


def measured(machine: Target, threads: int = 1) -> Limits:
    """The limits of this machine now; takes about a second."""
    peak, reader = Peak(machine, threads), Reader(machine)
    for _ in range(ROUNDS):
        peak.measure()
    # Half of a cache's size, as the other half may hold something else; the last level is shared.
    second, third = machine.l2_bytes * threads, cache_bytes(3, 0)
    levels = [("L2", second, second // 2)]
    levels += [("L3", third, max(third // 2, 2 * second))] if third > 2 * second else []
    reads = [(name, most, reader.measure(size, threads)) for name, most, size in levels]
    return Limits(threads, peak.best, (*reads, ("DRAM", None, reader.measure(max(DRAM_BYTES, 4 * third), threads))))
