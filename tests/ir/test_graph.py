"""Graphs and the builder: users, producers, the DAG, provenance of nodes, placed errors, arrays made late."""

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import graphc.ops as ops
from graphc.ir import Deferred, GraphcError, Op, ShapeError, TensorType, array_of, located, origin, scope


def diamond():
    x = ops.input((3,), "x")
    a = x.exp()
    return ops.graph_of("diamond", [a * (a + x)], [x])


def test_users_and_producers():
    graph = diamond()
    exp, add, mul = graph.nodes
    assert [n.op.name for n in graph.nodes] == ["exp", "add", "mul"]
    assert graph.users[exp.output] == (add, mul)
    assert graph.users[graph.inputs[0]] == (exp, add)
    assert graph.users[mul.output] == ()
    assert graph.producer[mul.output] is mul
    assert list(graph.values()) == [graph.inputs[0], exp.output, add.output, mul.output]


def test_dag_is_a_networkx_graph():
    graph = diamond()
    exp, add, mul = graph.nodes
    dag = graph.dag()
    assert set(dag.edges) == {(exp, add), (exp, mul), (add, mul)}
    assert dag.edges[exp, mul]["value"] is exp.output
    assert list(nx.topological_sort(dag)) == [exp, add, mul]


def test_nodes_remember_module_and_line():
    x = ops.input((3,), "x")
    with scope("layer1"), scope("0"):
        y = x.exp()
    assert y.node.scope == "layer1.0"
    file, _, line = y.node.where.rpartition(":")
    assert file.endswith("test_graph.py")
    assert Path(__file__).read_text(encoding="utf-8").splitlines()[int(line) - 1] == "        y = x.exp()"
    with origin(y.node):
        z = y * 2.0
    assert (z.node.scope, z.node.where) == (y.node.scope, y.node.where)


def test_shape_errors_are_placed_once():
    x, y = ops.input((3,), "x"), ops.input((4,), "y")
    with (
        pytest.raises(ShapeError, match=r"test_graph.py:\d+  classifier: add: shapes 3 and 4") as error,
        scope("classifier"),
    ):
        x + y
    assert located(error.value, "elsewhere", "else") is error.value


def test_two_ops_of_one_name_are_refused():
    with pytest.raises(TypeError, match="two ops named 'add'"):
        type("Plus", (Op,), {"name": "add"})


def test_deferred_arrays_are_made_once_and_late():
    made = []

    def make():
        made.append(1)
        return np.ones(3)

    data = Deferred(make)
    assert not made
    assert array_of(data) is array_of(data)
    assert made == [1]
    array = np.zeros(2)
    assert array_of(array) is array


def test_inputs_are_ordered_as_made_or_as_asked():
    b, a = ops.input((), "b"), ops.input((), "a")
    unused = ops.input((), "unused")
    assert [v.name for v in ops.graph_of("g", [a + b]).inputs] == ["b", "a"]
    assert [v.name for v in ops.graph_of("g", [a + b], [a, unused, b]).inputs] == ["a", "unused", "b"]
    with pytest.raises(GraphcError, match="which is not among its inputs"):
        ops.graph_of("g", [a + b], [a])


def test_trainable_and_frozen_weights():
    x = ops.input((3,), "x")
    w, m = (ops.leaf("weight", n, TensorType("f32", (3,)), np.ones(3), n == "w") for n in "wm")
    graph = ops.graph_of("g", [x * w + m], [x])
    assert graph.frozen == {"m"}
    assert set(graph.data) == {"w", "m"}


def test_an_input_name_the_text_cannot_hold_is_refused():
    for name in ("a b", "0", "x,y", "%x"):
        with pytest.raises(GraphcError, match="input name"):
            ops.input((3,), name)
