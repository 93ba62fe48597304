"""The sample table of all ops on the compiled backend: values, and gradients of everything differentiable."""

from __future__ import annotations

import pytest
from ops.comparator import check, check_gradient, differentiable
from ops.samples import SAMPLES

from graphc.backends import llvm
from graphc.passes import TRAINING, run_passes
from graphc.schedule import make_schedule


def run(graph, arrays):
    """The graph compiled and called; the arena is poisoned first, so that nothing reads what no kernel wrote."""
    graph = run_passes(graph, TRAINING)
    program = llvm.compile(make_schedule(graph), graph)
    program.poison()
    return program(*arrays)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_value(sample):
    check(sample, run)


@pytest.mark.parametrize("sample", [s for s in SAMPLES if differentiable(s)], ids=str)
def test_gradient(sample):
    check_gradient(sample, run)
