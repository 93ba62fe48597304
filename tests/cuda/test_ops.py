"""The sample table of all ops on the GPU backend: values and gradients, with every access of the kernels watched; and
the same kernels compiled for two generations of GPUs.

The samples are those of every backend, none is left out. They go in groups, each compiled as one library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
from compiled import check_resources
from on_shim import ShimDevice, program_of
from ops.comparator import TOLERANCE, compare, differentiable, gradient_arrays, gradient_graph
from ops.samples import SAMPLES, Sample
from shim.build import compile_kernels

from graphc.backends.cuda.assemble import Module, assemble
from graphc.backends.cuda.target import AMPERE, HOPPER
from graphc.ir import Graph
from graphc.passes import TRAINING, run_passes
from graphc.schedule import GPU, Schedule, make_schedule

GROUP = 29
STARTS = range(0, len(SAMPLES), GROUP)


@dataclass(frozen=True)
class Case:
    """A graph with inputs, and its kernels."""

    name: str
    graph: Graph
    arrays: list[np.ndarray]

    @cached_property
    def schedule(self) -> Schedule:
        return make_schedule(run_passes(self.graph, TRAINING), GPU)

    @cached_property
    def module(self) -> Module:
        return assemble(self.schedule, HOPPER, "f32")


def group(start: int) -> list[Sample]:
    return SAMPLES[start : start + GROUP]


def title(start: int) -> str:
    return f"{group(start)[0].op.name}-{group(start)[-1].op.name}"


def values(start: int) -> list[Case]:
    return [Case(str(s), s.graph(), s.arrays()) for s in group(start)]


def gradients(start: int) -> list[Case]:
    return [Case(str(s), gradient_graph(s), gradient_arrays(s)) for s in group(start) if differentiable(s)]


def kernels(cases: Sequence[Case]) -> str:
    """The text of all kernels of the cases, each once."""
    return "\n".join({code.name: code.text for case in cases for code in case.module.codes.values()}.values())


def check(cases: Sequence[Case], on) -> None:
    """Every case gives the reference's numbers; all that do not are told."""
    library = compile_kernels(kernels(cases), checked=True) if on is ShimDevice else None
    failed = []
    for case in cases:
        program = program_of(case.schedule, on(checked=True, library=library))
        if on is not ShimDevice:
            program.poison()  # the shim's memory is
        try:
            compare(case.graph, case.arrays, lambda _, arrays, program=program: program(*arrays), TOLERANCE)
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("start", STARTS, ids=title)
def test_values(start, on):
    check(values(start), on)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS, ids=title)
def test_gradients(start, on):
    check(gradients(start), on)


@pytest.mark.slow
@pytest.mark.parametrize("target", [AMPERE, HOPPER], ids=lambda t: t.arch)
@pytest.mark.parametrize("start", STARTS, ids=title)
def test_kernels_compile(start, target):
    check_resources([case.module for case in (*values(start), *gradients(start))], target)
