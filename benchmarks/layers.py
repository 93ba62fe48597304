"""Speed of single contraction kernels: GFLOP/s, and the share of this core's peak of fused multiply-adds.

`python -m benchmarks.layers [--models resnet18 lenet5:64]`: every different contraction of the networks' own
schedules, `NAME:BATCH` those of a training step. One thread, pinned, operands warm. The peak is the best of many
measurements between the kernels. A row without figures has no tiles, it runs as loops. With `--odd` the convolutions of
`odd.py` instead, as programs, beside the same work at a multiple of 16 channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

import numpy as np

from graphc import nn
from graphc.backends.llvm import ir, target
from graphc.backends.llvm.calibrate import Peak, loaded
from graphc.backends.llvm.kernels.contraction import emit_contraction
from graphc.driver import traced_graph, training_graph
from graphc.models import get
from graphc.passes import INFERENCE, TRAINING, run_passes
from graphc.schedule import Buffer, Contraction, Schedule, make_schedule

from .measure import arguments, cores, pin, show
from .odd import SHAPES, rows

ROUNDS = 7


def schedule_of(spec: str) -> Schedule:
    """`resnet18`: inference as the zoo has it; `lenet5:64`: a training step on a batch of 64."""
    name, _, batch = spec.partition(":")
    model, shape = get(name).make(), get(name).input
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
        __doc__.splitlines()[0],
        models=["lenet5", "lenet5:64", "resnet18", "vgg16"],
        cpu="native",
        odd=False,
        shapes=list(SHAPES),
    )
    pin(cores(), 1)
    if options.odd:
        notes = []
        show("odd shapes, 1 thread; share of what the same work costs at the nearest multiple of 16 channels",
             rows(options.shapes, notes), options.json, notes)  # fmt: skip
        return
    machine = target.by_name(options.cpu)
    peak = Peak(machine)
    found = {}
    for spec in options.models:
        schedule = schedule_of(spec)
        found[spec] = [measured(kernel, schedule, machine, peak) for kernel in contractions(schedule)]
    for row in (row for made in found.values() for row in made):  # the peak is the best of the whole run
        row["%_peak"] = row["GFLOP/s"] and 100e9 * row["GFLOP/s"] / peak.best
    told = f"{machine.cpu}, 1 thread, peak {peak.best / 1e9:.0f} GFLOP/s"
    if options.json:
        show(f"contractions, {told}", [{"network": s, "kernels": made} for s, made in found.items()], True)
        return
    for spec, made in found.items():
        show(f"contractions of {spec}, {told}", made, False)


if __name__ == "__main__":
    main()
