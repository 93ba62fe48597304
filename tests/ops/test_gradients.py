"""Gradients of every differentiable op by central differences in float64 along random directions.

df = (f(x + h d) - f(x - h d)) / 2h with h = 1e-5 errs by about h**2 f'''/6 = 1e-11 and by rounding of 1e-16 / h = 1e-11
of f, both far below the tolerance of 1e-6 of |gradient| |d|. What is left are constants rounded to f32 inside graphs,
such as 1/n or 2/sqrt(pi): 6e-8.
"""

import numpy as np
import pytest
from ops.comparator import differentiable, gradient_arrays, gradient_graph, projection, random_like
from ops.samples import SAMPLES

import graphc.ops as ops
from graphc.backends.reference import run
from graphc.ir import Op
from graphc.ops.tensor import leaf
from graphc.passes import grad

DIFFERENTIABLE = [s for s in SAMPLES if differentiable(s)]
STEP = 1e-5
TOLERANCE = 1e-6


def check_by_differences(graph, arrays, wrt):
    """graph gives a scalar and then its gradients with respect to the inputs numbered in wrt."""
    arrays = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    (_, *gradients), _ = run(graph, arrays)
    value = graph.replace(outputs=graph.outputs[:1])
    for i, gradient in zip(wrt, gradients, strict=True):
        assert gradient.shape == arrays[i].shape
        direction = np.random.default_rng(i).normal(size=arrays[i].shape)
        moved = [
            run(value, [a + sign * STEP * direction if j == i else a for j, a in enumerate(arrays)])[0][0]
            for sign in (1, -1)
        ]
        numeric = (moved[0] - moved[1]) / (2 * STEP)
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        # the scalar itself carries rounding errors of 1e-16 of its terms, which the division by 2h makes 1e-11
        assert abs(numeric - (gradient * direction).sum()) <= TOLERANCE * scale + 1e-9


@pytest.mark.parametrize("sample", DIFFERENTIABLE, ids=str)
def test_gradient(sample):
    graph = gradient_graph(sample)
    check_by_differences(graph, gradient_arrays(sample), [i for i, t in enumerate(sample.types) if t.dtype == "f32"])


def test_every_op_with_f32_operands_is_differentiated():
    discrete = {"less", "less_equal", "equal", "argmax", "constant", "uniform", "one_hot", "not", "and", "or"}
    # by a pass that runs after differentiation
    made_later = {n for n in Op.registry if n.startswith("winograd")} | {"space_to_depth"}
    assert {s.op.name for s in DIFFERENTIABLE} | discrete | made_later == {
        name for name, op in Op.registry.items() if op.__module__.startswith("graphc.")
    }


# Ops with a curved meaning, and one of each kind that moves or selects.
TWICE = """
    mul div exp log sqrt tanh erf gelu sigmoid relu select sum max reshape slice pad concat expand matmul linear conv2d
    conv2d_input_grad conv2d_weight_grad max_pool2d max_pool2d_grad sum_pool2d sum_pool2d_grad batch_norm
    batch_norm_inference clip standardize softmax log_softmax cross_entropy dropout
"""


@pytest.mark.parametrize("name", TWICE.split())
def test_gradient_of_gradient(name):
    sample = next(s for s in DIFFERENTIABLE if s.op.name == name)
    inputs = sample.inputs()
    f, weights = projection(sample, inputs)
    wrt = [i for i, t in enumerate(sample.types) if t.dtype == "f32"]
    first = grad(f, [inputs[i] for i in wrt])
    again = [leaf("input", f"q{i}", g.type) for i, g in enumerate(first)]
    h = ops.constant(0.0)
    for g, q in zip(first, again, strict=True):
        h = h + (g * g * q).sum()
    second = grad(h, [inputs[i] for i in wrt])
    graph = ops.graph_of("second", [h, *second], [*inputs, *weights, *again])
    arrays = sample.arrays() + random_like(t.value for t in (*weights, *again))
    check_by_differences(graph, arrays, wrt)
