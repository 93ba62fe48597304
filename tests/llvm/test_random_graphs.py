"""Random graphs, forward and gradients, compiled and compared with the float64 reference."""

import numpy as np
import pytest
from ops.random_graphs import random_graph, random_inputs

from graphc.backends import llvm
from graphc.backends.reference import run
from graphc.passes import INFERENCE, TRAINING, run_passes
from graphc.schedule import make_schedule


def check(seed: int, pipeline) -> None:
    for gradients in (False, True):
        graph = run_passes(random_graph(seed, gradients=gradients), pipeline)
        inputs = random_inputs(graph)
        want, _ = run(graph, inputs)
        got = llvm.compile(make_schedule(graph), graph, threads=1, cpu="native")(*inputs)
        for a, b in zip(got, want, strict=True):
            assert np.asarray(a).shape == b.shape
            # a dozen f32 ops in a row, each exact to a few 1e-7 of its scale; scales below 1e-3 come from cancellation
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(np.abs(b).max(initial=0.0), 1e-3))


@pytest.mark.parametrize("seed", [1, 2, 6, 7])
def test_random_graphs(seed):
    check(seed, INFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("pipeline", [INFERENCE, TRAINING], ids=["inference", "training"])
def test_many_random_graphs(seed, pipeline):
    check(seed, pipeline)
