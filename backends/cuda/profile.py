"""How long each kernel of a program takes on the device, and how near that is to what the device can do.

Every launch is recorded many times over as one CUDA graph and timed by events, so that neither Python nor the launch
counts. A kernel that reads little finds it in the second-level cache, where it would be in a step too.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from graphc.schedule.roofline import KernelTime, Limits, Work, works

from .device import CupyDevice
from .program import Bound, CudaProgram

REPEATS = 20  # launches in one record
RUNS = 7
COPY_BYTES = 256 << 20  # beyond any cache
CORES = 128  # float32 multiply-adds of a multiprocessor in a cycle, from compute capability 8.6 on and in 9.0
OLD_CORES = 64  # in 8.0


def time_kernels(program: CudaProgram) -> list[KernelTime]:
    """The launches of a program in order, on what lies in its memories. The state is as it was afterwards."""
    device, found, all_works = program.device, [], works(program.schedule)
    before = program.save_state()
    for launch, bound in zip(program.module.launches, program.bound(), strict=True):
        work = together([all_works[k] for k in launch.kernels])
        found.append(KernelTime(*vars(work).values(), seconds(device, program.loaded, [bound] * REPEATS) / REPEATS))
    program.restore_state(before)
    return found


def together(parts: Sequence[Work]) -> Work:
    """What a launch does that runs several kernels."""
    if len(parts) == 1:
        return parts[0]
    name = f"{parts[0].name} and {len(parts) - 1} more"
    return Work(name, "several", sum(p.macs for p in parts), sum(p.bytes for p in parts))


def seconds(device: CupyDevice, loaded: object, launches: Sequence[Bound]) -> float:
    """Median time of the launches as one record."""
    run, taken = device.record(loaded, launches), []
    for _ in range(RUNS):
        with device.timed() as time:
            run()
        taken.append(time.seconds)
    return median(taken[1:])


def limits(device: CupyDevice) -> Limits:
    """Multiply-adds of all cores at the clock the device says it has, and the bandwidth of a copy in this run."""
    runtime = device.cupy.cuda.runtime
    facts = runtime.getDeviceProperties(device.handle.id)
    hertz = 1e3 * runtime.deviceGetAttribute(runtime.cudaDevAttrClockRate, device.handle.id)
    cores = OLD_CORES if device.capability == "80" else CORES
    memory = device.allocate(2 * COPY_BYTES)
    taken = []
    for _ in range(RUNS):
        with device.timed() as time:
            half = memory.address + COPY_BYTES
            runtime.memcpyAsync(half, memory.address, COPY_BYTES, runtime.memcpyDeviceToDevice, device.stream.ptr)
        taken.append(time.seconds)
    rate = 2 * COPY_BYTES / median(taken[1:])
    return Limits(0, 2.0 * cores * facts["multiProcessorCount"] * hertz, (("memory", None, rate),))
