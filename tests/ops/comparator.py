"""The one comparator for all backends: `check(sample, run)` and `check_gradient(sample, run)`.

`run(graph, arrays)` is a backend: it takes a graph and its inputs in order and gives its outputs. What it gives is
compared with the reference in float64 on the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ops.samples import Sample

import graphc.ops as ops
from graphc.backends.reference import run as reference
from graphc.ir import NUMPY, Graph
from graphc.ops.tensor import leaf
from graphc.passes import grad

Run = Callable[[Graph, Sequence[np.ndarray]], Sequence[np.ndarray]]

# Errors of f32 results against float64, as a share of the greatest result. A sum of n products loses at most about
# n/2 * 2**-24, and in blocks far less; the samples have n < 1000. Issue 2 asks for this bound of whole networks.
TOLERANCE = 1e-5


def check(sample: Sample, run: Run, tolerance: float = TOLERANCE) -> None:
    """The backend's results for a sample have the right shapes, element types and values."""
    compare(sample.graph(), sample.arrays(), run, tolerance)


def check_gradient(sample: Sample, run: Run, tolerance: float = TOLERANCE) -> None:
    """The same for the gradients of a random projection of the sample's results."""
    graph = gradient_graph(sample)
    compare(graph, gradient_arrays(sample), run, tolerance)


def compare(graph: Graph, arrays: Sequence[np.ndarray], run: Run, tolerance: float) -> None:
    want, _ = reference(graph, arrays)
    got = run(graph, arrays)
    assert len(got) == len(want)
    for value, a, b in zip(graph.outputs, got, want, strict=True):
        a = np.asarray(a)
        assert a.shape == value.shape
        if value.dtype != "f32":
            assert a.dtype == NUMPY[value.dtype]
            np.testing.assert_array_equal(a, b)
            continue
        assert a.dtype.kind == "f"
        finite = np.isfinite(b)
        np.testing.assert_array_equal(a[~finite], b[~finite].astype(a.dtype))
        scale = np.abs(b[finite]).max(initial=0.0)
        error = np.abs(a[finite] - b[finite]).max(initial=0.0)
        assert error <= tolerance * scale, f"error {error:.3g} at scale {scale:.3g}"


def differentiable(sample: Sample) -> bool:
    """Whether some result and some operand are f32, the op says how gradients pass, and the sample asks for them."""
    op = sample.op
    passes = op.vjp is not None or op.decompose is not None
    return (
        passes
        and sample.projected != ()
        and any(t.dtype == "f32" for t in sample.types)
        and op.infer(*sample.types)[0].dtype == "f32"
    )


def projection(sample: Sample, inputs: list[ops.Tensor]) -> tuple[ops.Tensor, list[ops.Tensor]]:
    """A scalar, the sum of the f32 results times random weights, and these weights as further inputs."""
    results = sample.apply(inputs)
    chosen = sample.projected if sample.projected is not None else range(len(results))
    total, weights = ops.constant(0.0), []
    for i in chosen:
        if results[i].dtype == "f32":
            weights.append(leaf("input", f"p{i}", results[i].type))
            total = total + (results[i] * weights[-1]).sum()
    return total, weights


def gradient_graph(sample: Sample) -> Graph:
    """Inputs: operands, then projection weights. Outputs: the projected scalar, then the gradients of f32 operands."""
    inputs = sample.inputs()
    f, weights = projection(sample, inputs)
    wrt = [t for t in inputs if t.dtype == "f32"]
    return ops.graph_of("gradient", [f, *grad(f, wrt)], [*inputs, *weights])


def gradient_arrays(sample: Sample) -> list[np.ndarray]:
    """Inputs for `gradient_graph`."""
    return sample.arrays() + random_like(gradient_graph(sample).inputs[len(sample.types) :])


def random_like(values, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.uniform(-1.0, 1.0, v.shape)).astype(np.float32) for v in values]
