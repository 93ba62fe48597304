"""Gradients as graph construction: closed forms, broadcasting, shared and unused tensors, errors, whole graphs."""

import numpy as np
import pytest

import graphc.ops as ops
from graphc.backends.reference import run
from graphc.ir import GraphcError, Op, TensorType, parse, scope, show, verify
from graphc.ops.norm import BatchNorm
from graphc.passes import build_backward, decompose, grad


def values(outputs, inputs, *arrays):
    graph = verify(ops.graph_of("g", outputs, inputs))
    assert show(parse(show(graph))) == show(graph)
    return run(graph, [np.asarray(a, np.float64) for a in arrays])[0]


def test_course_exercise():
    x0, x1, y0, y1 = (ops.input((), name=n) for n in ("x0", "x1", "y0", "y1"))
    f = x0 / (-(x0 * y0 + x1 * y1)).exp()
    e3 = np.exp(3.0)
    got = values([f, *grad(f, [x0, x1, y0, y1])], [x0, x1, y0, y1], 1.0, -1.0, 1.0, -2.0)
    np.testing.assert_allclose(got, [e3, 2 * e3, -2 * e3, e3, -e3], rtol=1e-14)


def test_one_tensor_gives_a_list_of_one():
    x = ops.input((3,), "x")
    (g,) = grad((x * x).sum(), x)
    np.testing.assert_array_equal(values([g], [x], [1.0, 2.0, 3.0])[0], [2.0, 4.0, 6.0])


def test_broadcast_operands_get_summed_gradients():
    x, row, scalar = ops.input((3, 2), "x"), ops.input((2,), "row"), ops.input((1, 1), "scalar")
    f = (x * row * scalar).sum()
    got = values(grad(f, [x, row, scalar]), [x, row, scalar], np.ones((3, 2)), [2.0, 3.0], [[5.0]])
    np.testing.assert_array_equal(got[0], [[10.0, 15.0]] * 3)
    np.testing.assert_array_equal(got[1], [15.0, 15.0])
    np.testing.assert_array_equal(got[2], [[15.0]])


def test_tensors_used_twice_collect_all_their_gradients():
    x = ops.input((), "x")
    a = x * x
    f = a * a + a * x + x
    np.testing.assert_allclose(values(grad(f, x), [x], 2.0), [4 * 8 + 3 * 4 + 1])


def test_what_does_not_matter_has_a_zero_gradient():
    x, unused, discrete = ops.input((2,), "x"), ops.input((3,), "unused"), ops.input((2,), "d")
    f = (x * (discrete > 0.0).cast("f32")).sum()
    got = values(grad(f, [x, unused, discrete]), [x, unused, discrete], [1.0, 2.0], np.ones(3), [5.0, -5.0])
    np.testing.assert_array_equal(got[0], [1.0, 0.0])
    np.testing.assert_array_equal(got[1], np.zeros(3))
    np.testing.assert_array_equal(got[2], np.zeros(2))


def test_intermediate_tensors_have_gradients_too():
    x = ops.input((), "x")
    h = x * 3.0
    got = values(grad(h * h, [x, h]), [x], 2.0)
    np.testing.assert_array_equal(got, [36.0, 12.0])


def test_gradient_of_itself_is_one():
    x = ops.input((), "x")
    np.testing.assert_array_equal(values(grad(x, x), [x], 7.0), [1.0])


def test_third_derivative():
    x = ops.input((), "x")
    f = x * x * x * x
    for _ in range(3):
        (f,) = grad(f, x)
    np.testing.assert_array_equal(values([f], [x], 5.0), [120.0])


def test_ops_without_a_rule_are_decomposed_and_only_they():
    """Operands that depend on each other: the gradient must not pass twice through what made them."""
    x = ops.input((4, 2), "x")
    mean = x.mean(0)
    var = (x * x).mean(0)
    y = x.apply(ops.norm.BatchNormInference(eps=1e-2), ops.constant([1.0, 2.0]), ops.constant([0.0, 1.0]), mean, var)
    f = (y * y).sum()
    (direct,) = grad(f, x)
    whole = decompose(ops.graph_of("f", [f], [x]))
    assert not any(n.op.name == "batch_norm_inference" for n in whole.nodes)
    through = build_backward(whole, ["x"])
    data = np.random.default_rng(0).normal(size=(4, 2))
    got, want = values([direct], [x], data)[0], run(through, [data])[0][1]
    np.testing.assert_allclose(got, want, rtol=1e-7)  # eps is f32 in graphs


def test_running_statistics_carry_no_gradient():
    x = ops.input((4, 2), "x")
    vectors = [ops.input((2,), n) for n in ("w", "b", "m", "v")]
    _, mean, _ = x.apply(BatchNorm(), *vectors)
    got = values(grad(mean.sum(), [x, vectors[2]]), [x, *vectors], np.ones((4, 2)), *[np.ones(2)] * 4)
    assert not got[0].any() and not got[1].any()


def test_gradient_nodes_belong_to_the_module_of_their_forward_node():
    x = ops.input((3,), "x")
    with scope("layer1"):
        y = x.tanh()
    graph = ops.graph_of("g", grad(y.sum(), x), [x])
    forward = next(n for n in graph.nodes if n.op.name == "tanh")
    backward = [n for n in graph.nodes if n.op.name in ("sub", "mul")]
    assert backward and all((n.scope, n.where) == ("layer1", forward.where) for n in backward)


def test_a_scalar_is_needed():
    x = ops.input((3,), "x")
    with pytest.raises(GraphcError, match=r"grad needs a scalar\n  expected f32\[\], got f32\[3\]\n  reduce it first"):
        grad(x, x)
    with pytest.raises(GraphcError, match="only f32 tensors have gradients"):
        grad(x.sum(), ops.input((3,), "i", "i32"))


class Opaque(Op):
    """Neither a gradient nor a decomposition."""

    def infer(self, x):
        return (x,)

    def attributes(self):
        return {}


def test_an_op_without_gradient_is_named_with_its_layer():
    opaque = Opaque()
    opaque.name = "opaque"
    x = ops.input((3,), "x")
    with scope("features"), scope("3"):
        y = x.apply(opaque)
    with pytest.raises(GraphcError, match=r"test_build_backward.py:\d+  features.3: opaque has no gradient"):
        grad(y.sum(), x)
    # where nothing is asked of it, it does not matter
    assert len(grad((y * x).sum() + x.sum(), ops.input((2,), "z"))) == 1


def test_build_backward_appends_gradients_of_trainable_weights_in_order():
    x = ops.input((2,), "x")
    a, fixed, b = (
        ops.leaf("weight", n, TensorType("f32", (2,)), np.full(2, i + 1.0), n != "fixed")
        for i, n in enumerate(("a", "fixed", "b"))
    )
    graph = ops.graph_of("net", [(x * a * fixed * b).sum(), x + a], [x], [(fixed, fixed * 0.5)])
    new = verify(build_backward(graph))
    assert [v.type for v in new.outputs] == [*(v.type for v in graph.outputs), a.type, b.type]
    (f, _, da, db), updates = run(new, [np.array([1.0, 10.0])])
    assert f == 66.0
    np.testing.assert_array_equal(da, [6.0, 60.0])
    np.testing.assert_array_equal(db, [2.0, 20.0])
    np.testing.assert_array_equal(updates["fixed"], [1.0, 1.0])
    assert [v.shape for v in build_backward(graph, ["x"]).outputs] == [(), (2,), (2,)]
    with pytest.raises(GraphcError, match=r"has no leaves \['c'\]"):
        build_backward(graph, ["c"])
