"""How long each kernel of a program takes, and how near that is to what the machine can do.

Every kernel is run as a program of its own, over the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from time import perf_counter

import numpy as np

from graphc.schedule.kernels import Kernel
from graphc.schedule.roofline import KernelTime, drawn, works

from .program import LlvmProgram


def profile(program: LlvmProgram, runs: int = 30) -> list[KernelTime]:
    """The kernels of a program in order, on random inputs. Weights and state are copied: the program's own stay."""
    schedule, found = program.schedule, []
    inputs = [drawn(schedule.buffers[name]) for name in schedule.inputs]

    def seconds(kernels: tuple[Kernel, ...]) -> float:
        state = program.state.copy()
        one = LlvmProgram(schedule.replace(kernels=kernels), program.weights, state, program.target, program.threads)
        return timed(one, inputs, runs)

    empty = seconds(())
    for work, kernel in zip(works(schedule), schedule.kernels, strict=True):
        found.append(KernelTime(*vars(work).values(), max(seconds((kernel,)) - empty, 0.0)))
    return found


def timed(program: LlvmProgram, inputs: Sequence[np.ndarray], runs: int, warm: int = 3) -> float:
    """Median seconds of a call."""
    samples = []
    for _ in range(runs + warm):
        start = perf_counter()
        program(*inputs)
        samples.append(perf_counter() - start)
    return median(samples[warm:])
