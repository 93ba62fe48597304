"""Graph text: what is printed, that it is read back, and what is said about text that is no graph."""

import numpy as np
import pytest

import graphc.ops as ops
from graphc.ir import Node, ParseError, TensorType, parse, scope, show
from graphc.ops.contraction import Conv2d
from graphc.ops.shape import Constant
from graphc.ops.window import MaxPool2d


def network():
    x = ops.input((1, 3, 8, 8), "x")
    w = ops.leaf("weight", "features.0.weight", TensorType("f32", (4, 3, 3, 3)), None, True)
    mean = ops.leaf("weight", "features.0.mean", TensorType("f32", (4,)))
    step = ops.leaf("state", "step", TensorType("i32", ()))
    with scope("features"), scope("0"):
        y = x.apply(Conv2d(padding=(1, 1)), w)
    pooled, _ = y.apply(MaxPool2d((2, 2), (2, 2)))
    updates = [(step, step + 1), (mean, mean * 0.5)]
    return ops.graph_of("net", [pooled, y.relu()], [x], updates)


TEXT = """\
graph @net(%x: f32[1,3,8,8]) {
  weight %features.0.weight: f32[4,3,3,3]
  weight %features.0.mean: f32[4] frozen
  state %step: i32[]
  %0 = conv2d(%x, %features.0.weight, stride=[1,1], padding=[1,1], dilation=[1,1], groups=1) : f32[1,4,8,8]
  %1, %2 = max_pool2d(%0, kernel=[2,2], stride=[2,2], padding=[0,0], dilation=[1,1], ceil_mode=false) : \
f32[1,4,4,4], u8[1,4,4,4]
  %3 = constant(values=[1], dtype="i32", shape=[]) : i32[]
  %4 = add(%step, %3) : i32[]
  %5 = constant(values=[0.5], dtype="f32", shape=[]) : f32[]
  %6 = mul(%features.0.mean, %5) : f32[4]
  %7 = relu(%0) : f32[1,4,8,8]
  update %step = %4
  update %features.0.mean = %6
  return %1, %7
}
"""


def test_text_is_as_designed():
    lines = show(network()).splitlines()
    assert [line.split("  # ")[0] for line in lines] == TEXT.splitlines()
    path, where = lines[4].split("  # ")[1].split("  ")
    assert path == "features.0"
    assert where.rpartition(":")[0].endswith("test_text.py")


def test_round_trip():
    graph = network()
    again = parse(show(graph))
    assert show(again) == show(graph)
    assert again.frozen == {"features.0.mean"}
    assert again.nodes[0].op == Conv2d(padding=(1, 1))
    assert (again.nodes[0].scope, again.nodes[0].where) == (graph.nodes[0].scope, graph.nodes[0].where)


@pytest.mark.parametrize(
    "op",
    [
        Constant((float("inf"), float("-inf"), -0.0, 1e-40, 0.1), "f32", (5,)),
        Constant((True, False), "i1", (2,)),
        Constant((-5,), "i32", (3, 3)),
        Constant((), "f32", (0, 3)),
    ],
    ids=lambda op: op.dtype,
)
def test_attributes_survive(op):
    graph = ops.graph_of("c", [ops.apply(op)])
    again = parse(show(graph)).nodes[0].op
    assert repr(again) == repr(op)  # repr tells -0.0 from 0.0 and 1 from True


def test_nan_survives():
    again = parse(show(ops.graph_of("c", [ops.constant([1.0, np.nan])])))
    assert np.isnan(again.nodes[0].op.values[1])


@pytest.mark.parametrize(("path", "where"), [("", "a/b.py:3"), ("layer1.0", ""), ("", ""), ("layer1.0", "a b/c.py:7")])
def test_provenance_survives(path, where):
    graph = ops.graph_of("g", [ops.input((3,), "x").exp()])
    node = graph.nodes[0]
    placed = graph.replace(nodes=(Node(node.op, node.inputs, node.outputs, path, where),))
    again = parse(show(placed)).nodes[0]
    assert (again.scope, again.where) == (path, where)


GOOD = """\
graph @g(%x: f32[3,7], %y: f32[7]) {
  weight %w: f32[7]
  %0 = add(%x, %y) : f32[3,7]
  %1 = mul(%0, %w) : f32[3,7]
  update %w = %y
  return %1
}
"""


def test_the_good_text_is_good():
    assert show(parse(GOOD)) == GOOD


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("graph @g(", "graph g(", 1, "expected `graph @name"),
        ("%x: f32[3,7]", "x f32[3,7]", 1, "expected an input such as"),
        ("%y: f32[7]", "%y: f99[7]", 1, "no element type 'f99'"),
        ("%y: f32[7]", "%x: f32[7]", 1, "%x is defined twice"),
        ("%y: f32[7]", "%0: f32[7]", 1, "%0 is no name for a leaf"),
        ("weight %w", "wait %w", 2, "expected a weight, state, call"),
        ("add(%x, %y)", "adt(%x, %y)", 3, "no op named 'adt'"),
        ("add(%x, %y)", "add(%x, %z)", 3, "%z is not defined"),
        ("add(%x, %y)", "add(%x)", 3, "add takes 2 operands, got 1"),
        ("add(%x, %y) : f32[3,7]", "add(%x, %y) : f32[3,8]", 3, r"add gives f32\[3,7\]"),
        ("add(%x, %y)", "reshape(%x, shape=[4,5])", 3, "cannot reshape 3x7"),
        ("add(%x, %y)", "reshape(%x)", 3, "shape"),
        ("add(%x, %y)", "add(%x, %y, alpha=2)", 3, "alpha"),
        ("%1 = mul", "%0 = mul", 4, "%0 is defined twice"),
        ("%1 = mul", "%1, %2 = mul", 4, "zip"),
        ("update %w = %y", "update %v = %y", 5, "%v is not defined"),
        ("return %1", "return 1", 6, "expected a value such as %0, got `1`"),
        ("  return %1\n", "", 6, "ends without `return"),
        ("}\n", "", 6, "ends without `return"),
        ("}\n", "}\n}\n", 8, "nothing after the closing brace"),
    ],
)
def test_errors_name_the_line(old, new, line, message):
    assert old in GOOD
    with pytest.raises(ParseError, match=message) as error:
        parse(GOOD.replace(old, new, 1))
    assert str(error.value).startswith(f"line {line}: ")


def test_empty_text():
    with pytest.raises(ParseError, match=r"line 1: the text ends without `graph @name"):
        parse("\n")
