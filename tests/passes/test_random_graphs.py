"""Both pipelines on random graphs: valid after every pass, text that reads back, equal numbers; gradients too."""

import numpy as np
import pytest
from ops.random_graphs import random_graph, random_inputs

from graphc.backends.reference import run
from graphc.ir import parse, show, verify
from graphc.passes import INFERENCE, TRAINING, infer, run_passes


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_pipelines_keep_the_numbers(seed, gradients):
    graph = verify(random_graph(seed, gradients=gradients))
    assert show(parse(show(graph))) == show(graph)
    assert infer(graph) is graph
    want, _ = run(graph, random_inputs(graph))
    for pipeline in (INFERENCE, TRAINING):
        new = run_passes(graph, pipeline)
        assert show(parse(show(new))) == show(new)
        got, _ = run(new, random_inputs(graph))
        for a, b in zip(got, want, strict=True):
            # weights folded with others are rounded to f32 once more, 6e-8, a dozen ops in a row
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(np.abs(b).max(initial=0.0), 1e-6))
