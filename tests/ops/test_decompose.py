"""What an op decomposes to means the same as the op, and a view reads the elements that the op would move."""

import numpy as np
import pytest
from ops.samples import SAMPLES

import graphc.ops as ops
from graphc.backends.reference import run
from graphc.passes import decompose

COMPOSITE = [s for s in SAMPLES if s.op.decompose is not None and s.op.decompose(*s.inputs()) is not None]
VIEWS = [s for s in SAMPLES if s.op.view is not None]


@pytest.mark.parametrize("sample", COMPOSITE, ids=str)
def test_decomposition_equals_reference(sample):
    inputs = sample.inputs()
    parts = ops.graph_of("parts", list(sample.op.decompose(*inputs)), inputs)
    assert [v.type for v in parts.outputs] == list(sample.op.infer(*sample.types))
    want, _ = run(sample.graph(), sample.arrays())
    got, _ = run(parts, sample.arrays())
    for a, b in zip(got, want, strict=True):
        # constants such as 1/n are rounded to f32 in graphs: 6e-8
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())


@pytest.mark.parametrize("sample", COMPOSITE, ids=str)
def test_nothing_composite_is_left(sample):
    graph = decompose(sample.graph())
    for node in graph.nodes:
        lifted = [ops.tensor.leaf("input", f"x{i}", v.type) for i, v in enumerate(node.inputs)]
        assert node.op.decompose is None or node.op.decompose(*lifted) is None
    assert decompose(graph) is graph


@pytest.mark.parametrize("sample", VIEWS, ids=str)
def test_view_reads_the_elements_the_op_moves(sample):
    (x,) = sample.arrays()
    (moved,) = sample.op.reference(x)
    for at in np.ndindex(moved.shape):
        source = sample.op.view(sample.types[0], at)
        if source is None:
            assert sample.op.name == "reshape", "only a reshape that merges dimensions has no view"
            break
        assert x[source] == moved[at]


def test_labels_that_are_no_class_give_nan_and_infinite_scores_do_not():
    scores, labels = ops.input((4, 3), "scores"), ops.input((4,), "labels", "i32")
    loss = ops.apply(ops.norm.CrossEntropy(), scores, labels)
    graph = ops.graph_of("loss", [loss], [scores, labels])
    table = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, -np.inf, 0.0], [0.0, -np.inf, 0.0]])
    for g in (graph, decompose(graph)):
        (got,), _ = run(g, [table, np.array([3, -1, 0, 1])])
        np.testing.assert_allclose(got, [np.nan, np.nan, np.log(2.0), np.inf], rtol=1e-15)
