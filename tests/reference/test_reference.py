"""The reference backend: values, updates over steps, and errors."""

import numpy as np
import pytest

import graphc.ops as ops
from graphc.backends.reference import ReferenceProgram, run
from graphc.ir import GraphcError, TensorType
from graphc.passes import grad


def exercise():
    x0, x1, y0, y1 = (ops.input((), name=n) for n in ("x0", "x1", "y0", "y1"))
    f = x0 / (-(x0 * y0 + x1 * y1)).exp()
    return ops.graph_of("exercise", [f, *grad(f, [x0, x1, y0, y1])])


def test_course_exercise_and_its_gradients():
    outputs, updates = run(exercise(), [1.0, -1.0, 1.0, -2.0])
    e3 = np.exp(3.0)
    np.testing.assert_allclose(outputs, [e3, 2 * e3, -2 * e3, e3, -e3], rtol=1e-14)
    assert updates == {}


def test_inputs_by_name_equal_inputs_in_order():
    by_name, _ = run(exercise(), {"y1": -2.0, "y0": 1.0, "x0": 1.0, "x1": -1.0})
    assert by_name == run(exercise(), [1.0, -1.0, 1.0, -2.0])[0]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_precision_of_results_is_the_one_asked_for(dtype):
    x = ops.input((3,), name="x")
    graph = ops.graph_of("g", [x.exp() * 0.1, x > 0.0, x.cast("i32")])
    outputs, _ = run(graph, [np.array([0.5, -1.5, 2.5])], dtype)
    assert [o.dtype for o in outputs] == [dtype, np.bool_, np.int32]
    assert outputs[2].tolist() == [0, -1, 2]


def counter():
    step = ops.leaf("state", "step", TensorType("i32", ()), np.array(0, np.int32))
    w = ops.leaf("weight", "w", TensorType("f32", (2,)), np.ones(2, np.float32), True)
    x = ops.input((2,), name="x")
    return ops.graph_of("counter", [(w * x).sum()], updates=[(step, step + 1), (w, w + x)])


def test_program_keeps_updates_and_leaves_the_graphs_data_alone():
    graph = counter()
    program = ReferenceProgram(graph)
    assert [float(program(np.array([1.0, 2.0]))[0]) for _ in range(3)] == [3.0, 8.0, 13.0]
    assert program.data["step"] == 3
    assert graph.data["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([1.0], "expected 4 .*got 1"),
        ({"x0": 1.0, "x9": 1.0}, r"missing \['x1', 'y0', 'y1'\], unknown \['x9'\]"),
        ([np.ones(2), 1.0, 1.0, 1.0], "x0: wrong shape\n  expected scalar, got 2"),
    ],
)
def test_wrong_inputs_are_named(inputs, message):
    with pytest.raises(GraphcError, match=message):
        run(exercise(), inputs)


def test_weights_without_data_are_named():
    graph = counter().replace(data={})
    with pytest.raises(GraphcError, match=r"no data for %w: f32\[2\]"):
        run(graph, [np.ones(2)])
