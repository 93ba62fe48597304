"""The CPU backend: planned schedules become machine code by LLVM, run in this process or linked into an executable."""

from __future__ import annotations

import os
import re
from functools import partial

import numpy as np

from graphc.ir import Graph, GraphcError
from graphc.ir.lazy import lazily
from graphc.schedule import CPU, Schedule
from graphc.schedule.image import state_image, weight_image
from graphc.version import __version__

from . import target
from .objects import compile_objects
from .probes import peak_flops, reader_floats
from .program import LlvmProgram

__all__ = ["PRECISIONS", "TRAITS", "LlvmProgram", "build", "compile", "kernel_times"]

TRAITS = CPU
PRECISIONS = ("fast", "exact")  # the graph differs, not the code

# most programs do without these, and load in two thirds of the time
executable, profiling, calibrate = (lazily(f"graphc.backends.llvm.{n}") for n in ("executable", "profile", "calibrate"))
roofline = lazily("graphc.schedule.roofline")

PORTABLE = ("x86-64-v3", "x86-64-v4")  # one object each; the program picks the best that its processor runs
SELFTESTS = 2


def compile(
    schedule: Schedule, graph: Graph, *, threads: int = 1, cpu: str = "native", precision: str = "fast"
) -> LlvmProgram:
    """The schedule as a program in this process. Weights are packed while its last code is compiled."""
    return LlvmProgram(schedule, partial(weight_image, schedule), state_image(schedule), target_of(cpu), threads)


def kernel_times(program: LlvmProgram) -> roofline.Profile:
    """Every kernel of a program timed on random inputs and held against this machine's limits."""
    limits = calibrate.measured(program.target, program.threads)
    return roofline.Profile(tuple(profiling.profile(program)), limits)


def target_of(cpu: str) -> target.Target:
    try:
        return target.by_name(cpu)
    except ValueError as error:
        raise GraphcError(f"cpu: {error}") from None


def build(path: str | os.PathLike, schedule: Schedule, graph: Graph, *, summary: str, cpu: str = "portable",
          threads: int = 1, labels: tuple[str, ...] = (), cc: str | None = None) -> None:  # fmt: skip
    """Write the schedule as a static executable with the text of its report.

    `cpu` "portable" holds the kernels once for each of `PORTABLE`; the packed weights and the results' bits are the
    same for all, also for the processor of another machine, such as "aarch64", which ziglang links for. The executable
    carries test vectors that the in-process program computed, and can run its kernels one by one to time them.
    """
    prefix = re.sub(r"\W", "_", f"graphc_{schedule.name}", flags=re.ASCII)
    objects = []
    for level in PORTABLE if cpu == "portable" else (cpu,):
        made = target_of(level)
        name = f"{prefix}_{re.sub(r'[^a-z0-9]', '_', level)}"
        code = compile_objects(schedule, made, name, stepwise=True).code
        features = made.features if level == "native" else ""
        probes = peak_flops(made), reader_floats(made)
        objects.append(executable.CpuObject(name, level, code, features, *probes))
    program = compile(schedule, graph)
    inputs = tensors(schedule, schedule.inputs, [v.name for v in graph.inputs])
    names = ["output"] if len(schedule.outputs) == 1 else [f"output{i}" for i in range(len(schedule.outputs))]
    parts = executable.ExecutableParts(
        name=os.path.basename(os.fspath(path)),
        version=__version__,
        target=", ".join(o.level for o in objects),
        summary=summary,
        inputs=inputs,
        outputs=tensors(schedule, schedule.outputs, names),
        weights=program.weights,
        objects=tuple(objects),
        state=state_image(schedule),
        arena_bytes=schedule.arena_bytes,
        labels=labels,
        selftest=tuple(self_test(program, inputs, seed) for seed in range(SELFTESTS)),
        threads=threads,
        kernels=tuple(roofline.works(schedule)),
    )
    executable.build(path, parts, cc=cc, triple=made.triple)


def tensors(schedule: Schedule, buffers: tuple[str, ...], names: list[str]) -> tuple[executable.TensorInfo, ...]:
    shown = (schedule.buffers[b] for b in buffers)
    return tuple(executable.TensorInfo(n, b.dtype, b.shape) for n, b in zip(names, shown, strict=True))


def self_test(program: LlvmProgram, inputs: tuple[executable.TensorInfo, ...], seed: int) -> tuple[tuple, tuple]:
    """Inputs drawn by the seed, and what the in-process program answers."""
    draw = np.random.Generator(np.random.Philox(seed))
    kinds = {
        "f32": lambda shape: draw.random(shape, np.float32),
        "u8": lambda shape: draw.integers(0, 256, shape, np.uint8),
        "i32": lambda shape: np.zeros(shape, np.int32),
    }
    arrays = tuple(kinds[t.dtype](t.shape) for t in inputs)
    return arrays, program(*arrays)
