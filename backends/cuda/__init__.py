"""The GPU backend: planned schedules become CUDA C, compiled by NVRTC and launched as one CUDA graph by CuPy."""

from __future__ import annotations

from graphc.ir import Graph
from graphc.schedule import GPU, Schedule
from graphc.schedule.image import state_image, weight_image
from graphc.schedule.roofline import Profile

from .assemble import assemble
from .device import current
from .profile import limits, time_kernels
from .program import CudaProgram
from .target import HOPPER, Target

__all__ = ["PRECISIONS", "TRAITS", "CudaProgram", "compile", "kernel_times", "source"]

TRAITS = GPU
# How contractions multiply: "fast" rounds their operands to the 10 bits of tf32, "bf16" to 7, for the tensor cores.
# Sums are float32 in all of them.
PRECISIONS = {"fast": "tf32", "exact": "f32", "bf16": "bf16"}


def compile(
    schedule: Schedule, graph: Graph, *, threads: int = 1, cpu: str = "native", precision: str = "fast"
) -> CudaProgram:
    """The schedule as a program on the current GPU. `threads` and `cpu`, which all backends take, change nothing."""
    on = current()
    return CudaProgram(schedule, weight_image(schedule), state_image(schedule), on, PRECISIONS[precision])


def kernel_times(program: CudaProgram) -> Profile:
    """Every kernel of a program timed on the device and held against its limits."""
    return Profile(tuple(time_kernels(program)), limits(program.device))


def source(schedule: Schedule, precision: str = "fast", target: Target = HOPPER) -> str:
    """The CUDA C of a schedule's kernels, each under the lines of the schedule that it runs. Needs no GPU."""
    return assemble(schedule, target, PRECISIONS[precision]).annotated(schedule)
