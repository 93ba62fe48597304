"""Speed of single contraction kernels: GFLOP/s, and the share of this core's peak of fused multiply-adds.

`python -m benchmarks.kernels [--models resnet18 lenet5:64 odd]`: every different contraction of the networks' own
schedules, `NAME:BATCH` those of a training step, `odd` shapes that no tile divides. One thread, pinned, operands warm.
The peak is the best of many measurements between the kernels. A row without figures has no tiles, it runs as loops.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np
from llvmlite import ir

from graphc import nn
from graphc.backends.llvm import jit, target
from graphc.backends.llvm.emit import F32, I64, PTR, const, fma, function, load_, loop_carry, store_, vec
from graphc.backends.llvm.kernels.contraction import emit_contraction
from graphc.driver import traced_graph, training_graph
from graphc.models import get
from graphc.passes import INFERENCE, TRAINING, run_passes
from graphc.schedule import Buffer, Contraction, Schedule, make_schedule

from .measure import arguments, cores, pin, show

CHAINS = 12  # independent sums: more than two units of four or five cycles' latency need
STEPS = 300_000
ROUNDS = 7


class Odd(nn.Module):
    """Channels and extents that neither blocks nor tiles divide."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 37, 3, stride=3), nn.Conv2d(37, 17, 5, padding=2), nn.Conv2d(17, 100, 1),
            nn.Conv2d(100, 33, 3, padding=2, dilation=2), nn.Conv2d(33, 16, 7),
        )  # fmt: skip
        self.linear = nn.Linear(16 * 7 * 7, 99)

    def forward(self, x):
        return self.linear(self.convolutions(x).flatten(1))


def schedule_of(spec: str) -> Schedule:
    """`resnet18`: inference as the zoo has it; `lenet5:64`: a training step on a batch of 64; `odd` likewise."""
    name, _, batch = spec.partition(":")
    model, shape = (Odd(), (1, 3, 41, 41)) if name == "odd" else (get(name).make(), get(name).input)
    if not batch:
        return make_schedule(run_passes(traced_graph(model, shape), INFERENCE))
    step = training_graph(model, (int(batch), *shape[1:]), nn.CrossEntropyLoss(), nn.optim.SGD(lr=0.1, momentum=0.9))
    return make_schedule(run_passes(step, TRAINING))


def contractions(schedule: Schedule) -> Iterator[Contraction]:
    """One kernel of each shape."""
    seen = set()
    for kernel in schedule.kernels:
        if isinstance(kernel, Contraction):
            layouts = [str(schedule.buffers[n].layout) for n in (kernel.x.buffer, kernel.w.buffer)]
            key = kernel.kind, kernel.par, kernel.red, kernel.x.indices, kernel.w.indices, *layouts
            if key not in seen:
                seen.add(key)
                yield kernel


def loaded(module: ir.Module, machine: target.Target, pointers: int, integers: int) -> Callable:
    """Function `k` of the module, callable."""
    code = jit.load_object([jit.compile_object(module, machine)], ["k"])
    types = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * integers
    call = ctypes.CFUNCTYPE(None, *types)(code.address("k"))
    call.code = code  # lives as long as the function
    return call


class Peak:
    """GFLOP/s of fused multiply-adds between registers: the best seen so far."""

    def __init__(self, machine: target.Target):
        module, self.lanes = ir.Module("peak"), machine.vl
        made, b = function(module, "k", [PTR, I64], ["p", "n"], linkage="external")
        x = load_(b, made.args[0], F32, self.lanes, 0)
        # chains that begin alike would be found equal, and only one of them computed
        starts = [load_(b, made.args[0], F32, self.lanes, (k + 1) * self.lanes) for k in range(CHAINS)]
        with loop_carry(b, 0, made.args[1], 1, starts) as (_, sums, carried):
            carried.yield_([fma(b, x, x, s) for s in sums])
        total = const(vec(F32, self.lanes), 0)
        for s in carried.values:
            total = b.fadd(total, s)
        store_(b, total, made.args[0], 0)
        b.ret_void()
        self.call, self.best = loaded(module, machine, 1, 1), 0.0
        self.memory = np.zeros((CHAINS + 1) * self.lanes, np.float32)

    def measure(self) -> None:
        start = perf_counter()
        self.call(self.memory.ctypes.data, STEPS)
        self.best = max(self.best, 2e-9 * self.lanes * CHAINS * STEPS / (perf_counter() - start))


def memory_of(buffer: Buffer, random: np.random.Generator) -> np.ndarray:
    """Room for a buffer, aligned as programs align it, with small random numbers in it."""
    room = np.zeros(buffer.bytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    if buffer.dtype == "f32":
        room[start : start + buffer.bytes].view(np.float32)[:] = random.random(buffer.elements, np.float32) * 0.1
    return room[start:]


def measured(kernel: Contraction, schedule: Schedule, machine: target.Target, peak: Peak) -> dict:
    """A row of the table, best of several runs; the peak is measured between them."""
    module, random = ir.Module(kernel.name), np.random.default_rng(0)
    start = perf_counter()
    try:
        code = emit_contraction(module, "k", kernel, schedule.buffers, machine)
    except ValueError:  # programs run it as plain loops
        return described(kernel) | dict.fromkeys(("us", "GFLOP/s", "%_peak", "compile_ms"))
    code.function.linkage = "external"
    call = loaded(module, machine, len(code.arguments), 2)
    compiling = perf_counter() - start
    memory = [memory_of(schedule.buffers[name], random) for name in code.arguments]
    pointers = [m.ctypes.data for m in memory]
    call(*pointers, 0, code.units)
    best = float("inf")
    for _ in range(ROUNDS):
        peak.measure()
        start = perf_counter()
        call(*pointers, 0, code.units)
        best = min(best, perf_counter() - start)
    return described(kernel) | {
        "us": best * 1e6,
        "GFLOP/s": 2e-9 * kernel.macs / best,
        "%_peak": None,
        "compile_ms": compiling * 1e3,
    }


def described(kernel: Contraction) -> dict:
    par, red = ("x".join(str(e) for _, e in axes) for axes in (kernel.par, kernel.red))
    return {"layer": kernel.scope or kernel.name, "kernel": kernel.kind, "outputs_over_summed": f"{par} / {red}"}


def main() -> None:
    options = arguments(
        __doc__.splitlines()[0], models=["lenet5", "lenet5:64", "resnet18", "vgg16", "odd"], cpu="native"
    )
    pin(cores(), 1)
    machine = target.by_name(options.cpu)
    peak = Peak(machine)
    for spec in options.models:
        schedule = schedule_of(spec)
        rows = [measured(kernel, schedule, machine, peak) for kernel in contractions(schedule)]
        for row in rows:
            row["%_peak"] = row["GFLOP/s"] and 100 * row["GFLOP/s"] / peak.best
        show(f"contractions of {spec}, {machine.cpu}, 1 thread, peak {peak.best:.0f} GFLOP/s", rows, options.json)


if __name__ == "__main__":
    main()
