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
from llvmlite import ir

from graphc.schedule.roofline import Limits

from . import jit
from .emit import F32, I64, PTR, const, fma, function, load_, loop, loop_carry, store_, vec
from .target import Target, cache_bytes

CHAINS = 12  # independent sums: more than two units of four or five cycles' latency need
STEPS = 300_000
STREAMS = 8  # vectors read in one iteration, each into a sum of its own
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
        module, self.lanes, self.threads = ir.Module("peak"), machine.vl, threads
        made, b = function(module, "k", [PTR, I64], ["p", "n"], linkage="external")
        x = load_(b, made.args[0], F32, self.lanes, 0)
        # chains that begin alike would be found equal, and only one of them computed
        starts = [load_(b, made.args[0], F32, self.lanes, (k + 1) * self.lanes) for k in range(CHAINS)]
        with loop_carry(b, 0, made.args[1], 1, starts) as (_, sums, carried):
            carried.yield_([fma(b, x, x, s) for s in sums])
        store_(b, total(b, carried.values), made.args[0], 0)
        b.ret_void()
        self.call, self.best = loaded(module, machine, 1, 1), 0.0
        self.memory = [np.zeros((CHAINS + 1) * self.lanes, np.float32) for _ in range(threads)]

    def measure(self) -> None:
        seconds = together([lambda m=m: self.call(m.ctypes.data, STEPS) for m in self.memory])
        self.best = max(self.best, 2 * self.lanes * CHAINS * STEPS * self.threads / seconds)


class Reader:
    """Bytes/s of summing a buffer again and again, each thread its own."""

    def __init__(self, machine: Target):
        module, lanes = ir.Module("reader"), machine.vl
        self.step = STREAMS * lanes
        made, b = function(module, "k", [PTR, PTR, I64, I64], ["to", "p", "n", "times"], linkage="external")
        to, p, n, times = made.args
        with loop(b, 0, times):
            zeros = [const(vec(F32, lanes), 0)] * STREAMS
            with loop_carry(b, 0, n, self.step, zeros) as (i, sums, carried):
                place = [b.add(i, const(I64, s * lanes)) for s in range(STREAMS)]
                carried.yield_([b.fadd(s, load_(b, p, F32, lanes, at)) for s, at in zip(sums, place, strict=True)])
            store_(b, total(b, carried.values), to, 0)
        b.ret_void()
        self.call, self.lanes = loaded(module, machine, 2, 2), lanes

    def measure(self, size: int, threads: int) -> float:
        """Best of a few rounds over `size` bytes in all."""
        count = size // 4 // threads // self.step * self.step
        times = max(READ_BYTES // (4 * count), 1)
        buffers = [(np.zeros(self.lanes, np.float32), np.ones(count, np.float32)) for _ in range(threads)]
        calls = [lambda t=t, x=x: self.call(t.ctypes.data, x.ctypes.data, count, times) for t, x in buffers]
        return 4.0 * count * times * threads / min(together(calls) for _ in range(ROUNDS))


def total(b: ir.IRBuilder, values: list[ir.Value]) -> ir.Value:
    result = values[0]
    for v in values[1:]:
        result = b.fadd(result, v)
    return result


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
