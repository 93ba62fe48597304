"""Winograd's filtering: which convolutions take it, that it is the same convolution, and what precision it costs."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.backends import llvm
from graphc.backends.reference import run
from graphc.ir import TensorType
from graphc.ops import graph_of, input, leaf
from graphc.ops.contraction import Conv2d
from graphc.ops.winograd import MATRICES, apply_rows
from graphc.passes import FAST_INFERENCE, INFERENCE, run_passes, use_winograd
from graphc.passes.use_winograd import best_tile
from graphc.schedule import make_schedule


def conv(x: tuple[int, ...], out: int, kernel: int = 3, **settings):
    """A graph of one convolution with He-initialised weights."""
    channels = x[1] // settings.get("groups", 1)
    rng = np.random.default_rng(0)
    shape = (out, channels, kernel, kernel)
    w = (rng.standard_normal(shape) * (2 / (channels * kernel**2)) ** 0.5).astype(np.float32)
    weight = leaf("weight", "w", TensorType("f32", shape), w, True)
    return graph_of("g", [input(x, "x").apply(Conv2d(**settings), weight)])


def ops_of(graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def test_a_convolution_becomes_a_product_between_two_transforms():
    graph = use_winograd(conv((1, 32, 28, 28), 64, padding=(1, 1)))
    assert ops_of(graph) == ["winograd_input", "winograd_weights", "matmul", "winograd_output"]
    assert graph.outputs[0].shape == (1, 64, 28, 28)


def test_weights_are_transformed_at_compile_time():
    graph = run_passes(conv((1, 32, 28, 28), 64, padding=(1, 1)), FAST_INFERENCE)
    assert ops_of(graph) == ["winograd_input", "matmul", "winograd_output"]
    assert [v.shape for v in graph.weights] == [(36, 64, 32)]


@pytest.mark.parametrize(
    ("x", "out", "settings"),
    [
        ((1, 32, 28, 28), 64, {"stride": (2, 2), "padding": (1, 1)}),
        ((1, 32, 28, 28), 64, {"dilation": (2, 2)}),
        ((1, 32, 28, 28), 64, {"groups": 2}),
        ((1, 32, 28, 28), 64, {"kernel": 5}),
        ((1, 3, 224, 224), 64, {}),  # too few channels
        ((1, 512, 3, 3), 512, {"padding": (1, 1)}),  # one tile: the weights' transform costs more than it saves
    ],
)
def test_other_convolutions_stay(x, out, settings):
    graph = conv(x, out, **settings)
    assert use_winograd(graph) is graph


def test_small_maps_take_small_tiles():
    """At 7x7 with 512 channels the weights' stream decides: 16 frequencies are less of it than 36."""
    assert best_tile(conv((1, 512, 7, 7), 512, padding=(1, 1)).nodes[0]) == 2
    assert best_tile(conv((8, 512, 7, 7), 512, padding=(1, 1)).nodes[0]) == 4
    assert best_tile(conv((1, 64, 56, 56), 64, padding=(1, 1)).nodes[0]) == 4


@pytest.mark.parametrize("tile", MATRICES)
def test_shared_halves_change_nothing(tile):
    for matrix in MATRICES[tile]:
        values = np.random.default_rng(0).standard_normal((len(matrix[0]), 5))
        np.testing.assert_allclose(np.array(apply_rows(matrix, list(values))), np.array(matrix) @ values, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "out", "padding"),
    [
        ((1, 16, 6, 6), 16, (1, 1)),
        ((3, 17, 13, 9), 37, (1, 1)),
        ((1, 64, 28, 28), 64, (1, 1)),
        ((2, 20, 9, 14), 33, (0, 2)),
    ],
)
def test_compiled_convolutions_agree_with_the_reference(x, out, padding):
    graph = conv(x, out, padding=padding)
    array = np.maximum(np.random.default_rng(1).standard_normal(x), 0).astype(np.float32)
    ((want,), _) = run(graph, [array])
    errors = []
    for pipeline in (INFERENCE, FAST_INFERENCE):
        made = run_passes(graph, pipeline)
        program = llvm.compile(make_schedule(made), made)
        program.poison()
        (got,) = program(array)
        errors.append(float(np.sqrt(((got - want) ** 2).mean()) / np.sqrt((want**2).mean())))
    # F(4x4) at these points loses about twice what the direct sum does; short direct sums are nearly exact
    assert errors[1] <= max(2.5 * errors[0], 1e-6)


@pytest.mark.parametrize("x", [(1, 32, 16, 16), (2, 33, 13, 18)])
def test_compiled_bias_residual_and_activation_agree_with_the_reference(x):
    """All three are done where the output transform stores its pixels: nothing runs after it."""
    rng = np.random.default_rng(2)
    w, b = (rng.standard_normal(s).astype(np.float32) for s in ((x[1], x[1], 3, 3), (1, x[1], 1, 1)))
    image = input(x, "x")
    conv = image.apply(Conv2d(padding=(1, 1)), leaf("weight", "w", TensorType("f32", w.shape), w, True))
    y = (conv + leaf("weight", "b", TensorType("f32", b.shape), b, True) + image).relu()
    made = run_passes(graph_of("g", [y]), FAST_INFERENCE)
    program = llvm.compile(make_schedule(made), made)
    assert program.schedule.kernels[-1].name.endswith("winograd_output")
    program.poison()
    array = rng.standard_normal(x).astype(np.float32)
    ((want,), _) = run(made, [array])
    (got,) = program(array)
    np.testing.assert_allclose(got, want, atol=2e-6 * abs(want).max())
