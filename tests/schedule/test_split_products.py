"""Cutting contractions along their sums: what is cut, into how many chunks, and that the product stays the product."""

from __future__ import annotations

import numpy as np
import pytest

from graphc import nn
from graphc.ops import graph_of, input
from graphc.schedule import CPU, GPU, lower, make_schedule, plan_memory, split_products
from graphc.schedule.kernels import Contraction

from .harness import run_schedule
from .networks import draw, training


def parts(graph, traits=GPU) -> list[int]:
    """The chunks of each contraction that is cut."""
    kernels = split_products(lower(graph, traits)).kernels
    return [k.par[0][1] for k in kernels if isinstance(k, Contraction) and k.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("m", "k", "n", "chunks"),
    [
        (64, 4096, 64, [16]),  # one tile: as many chunks of 256 as there are
        (64, 4099, 64, []),  # a prime sum stays whole
        (1, 4096, 1024, []),  # weights are streamed
        (512, 4096, 512, [4]),  # 64 tiles: 4 chunks keep 264 busy
        (1100, 4096, 1100, []),  # tiles enough
        (8, 300, 8, []),  # a short sum
    ],
)
def test_matrix_products_are_cut_by_shape(m, k, n, chunks):
    graph = graph_of("g", [input((m, k), "x") @ input((k, n), "w")])
    assert parts(graph) == chunks
    assert parts(graph, CPU) == []


def test_results_are_the_same_and_the_epilogue_goes_with_the_sum():
    x, w, b = input((9, 1536), "x"), input((1536, 37), "w"), input((37,), "b")
    graph = graph_of("g", [(x @ w + b).relu()])
    schedule = make_schedule(graph, GPU)
    partial, together = schedule.kernels
    assert partial.par[0] == ("k_chunk", 6) and together.par[-1] == ("n", 37)
    arrays = draw(graph)
    got, _ = run_schedule(schedule, *arrays, real=np.float64)
    want, _ = run_schedule(plan_memory(lower(graph)), *arrays, real=np.float64)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12, atol=1e-12)


def test_weight_gradients_of_a_convolution_are_cut_along_the_axis_with_the_most_chunks():
    graph = training(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AvgPool2d(30), nn.Flatten()), (12, 3, 32, 32))
    assert parts(graph) == [30]  # rows of the images; of the batch only 12
