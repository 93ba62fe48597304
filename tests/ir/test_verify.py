"""The verifier finds every planted defect, and lists them all."""

from dataclasses import replace

import numpy as np
import pytest

import graphc.ops as ops
from graphc.ir import InvalidGraph, Node, TensorType, Value, verify
from graphc.ops.elementwise import Add


def good():
    x = ops.input((3,), "x")
    w = ops.leaf("weight", "w", TensorType("f32", (3,)), np.ones(3, np.float32), True)
    y = x * w
    return ops.graph_of("good", [y.exp()], [x], [(w, w - y)])


def with_node(graph, i, **changes):
    nodes = list(graph.nodes)
    nodes[i] = replace(nodes[i], **changes)
    return graph.replace(nodes=tuple(nodes))


def value(shape=(3,), name=""):
    return Value(TensorType("f32", shape), name)


def leaf_twice(g):
    return g.replace(inputs=(*g.inputs, value(name="w")))


def unnamed_leaf(g):
    return g.replace(inputs=(*g.inputs, value()))


def numeric_name(g):
    return g.replace(inputs=(*g.inputs, value(name="0")))


def blank_in_name(g):
    return g.replace(name="my net")


def disorder(g):
    return g.replace(nodes=g.nodes[::-1])


def foreign_operand(g):
    return with_node(g, 0, inputs=(value(), g.nodes[0].inputs[1]))


def defined_twice(g):
    return with_node(g, 1, outputs=g.nodes[0].outputs)


def wrong_type(g):
    wrong = value((4,))
    return with_node(g, 1, outputs=(wrong,)).replace(outputs=(wrong,))


def refused_operands(g):
    return with_node(g, 0, op=Add(), inputs=(g.inputs[0], g.weights[0], g.weights[0]))


def wrong_count(g):
    return with_node(g, 1, inputs=())


def undefined_output(g):
    return g.replace(outputs=(value(),))


def update_of_input(g):
    return g.replace(updates=((g.inputs[0], g.weights[0]),))


def updated_twice(g):
    return g.replace(updates=g.updates * 2)


def update_of_other_type(g):
    return g.replace(inputs=(*g.inputs, extra := value((4,), "extra")), updates=((g.weights[0], extra),))


def undefined_update(g):
    return g.replace(updates=((g.weights[0], value()),))


def frozen_stranger(g):
    return g.replace(frozen=frozenset({"v"}))


def data_of_stranger(g):
    return g.replace(data={"v": np.ones(3)})


def data_of_other_shape(g):
    return g.replace(data={"w": np.ones(4)})


DEFECTS = {
    leaf_twice: "2 leaves are called %w",
    unnamed_leaf: "has no name",
    numeric_name: "the text cannot hold the name '0'",
    blank_in_name: "the text cannot hold the name 'my net'",
    disorder: "reads a value that is not defined before it",
    foreign_operand: "node 0 (mul) reads a value that is not defined",
    defined_twice: "a second time",
    wrong_type: "has result types f32[4], its rule says f32[3]",
    refused_operands: "node 0 (add)",
    wrong_count: "node 1 (",
    undefined_output: "is not defined",
    update_of_input: "neither weight nor state",
    updated_twice: "is updated 2 times",
    update_of_other_type: "takes a value of type f32[4]",
    undefined_update: "takes an undefined value",
    frozen_stranger: "%v is frozen but no weight",
    data_of_stranger: "there is data for %v",
    data_of_other_shape: "the data of %w: f32[3] has shape (4,)",
}


def test_a_good_graph_passes():
    graph = good()
    assert verify(graph) is graph


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda f: f.__name__)
def test_defect_is_found(plant):
    with pytest.raises(InvalidGraph) as error:
        verify(plant(good()), "some_pass")
    assert DEFECTS[plant] in str(error.value)
    assert "after some_pass" in str(error.value)


def test_all_defects_are_listed():
    with pytest.raises(InvalidGraph) as error:
        verify(data_of_stranger(frozen_stranger(disorder(good()))))
    assert len(str(error.value).splitlines()) >= 4


def test_nodes_are_named_by_their_module():
    graph = good()
    node = graph.nodes[0]
    bad = graph.replace(nodes=(Node(node.op, node.inputs, (value((4,)),), "layer1.0"), *graph.nodes[1:]))
    with pytest.raises(InvalidGraph, match=r"node 0 \(mul, layer1.0\)"):
        verify(bad)
