"""A graph in inference form as an ONNX model, so that peers run the same network with the same weights.

Enters: a Graph whose ops are those the zoo's networks use. Leaves: an onnx.ModelProto (opset 17).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphc.ir import Graph, Node, array_of

OPSET = 17
TYPES = {"f32": TensorProto.FLOAT, "i32": TensorProto.INT32, "u8": TensorProto.UINT8, "i1": TensorProto.BOOL}


class Writer:
    """ONNX nodes and initializers as they come; values are named by their place in the graph."""

    def __init__(self, graph: Graph):
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.names = {v: v.name or f"v{i}" for i, v in enumerate(graph.values())}
        self.fresh = 0

    def constant(self, array: np.ndarray, name: str = "") -> str:
        self.fresh += not name
        name = name or f"constant{self.fresh}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def emit(self, kind: str, inputs: Sequence[str], output: str = "", **attributes) -> str:
        self.fresh += not output
        output = output or f"temporary{self.fresh}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output


Rule = Callable[[Writer, Node, list[str], str], object]


def plain(kind: str) -> Rule:
    return lambda w, node, inputs, out: w.emit(kind, inputs, out)


def convolution(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    op = node.op
    w.emit("Conv", inputs, out, strides=op.stride, pads=op.padding * 2, dilations=op.dilation, group=op.groups)


def linear(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    w.emit("Gemm", inputs, out, transB=1)


def matmul(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    sides = zip(inputs, node.inputs, (node.op.transpose_a, node.op.transpose_b), strict=True)
    operands = []
    for name, value, swap in sides:
        order = [*range(value.type.rank - 2), value.type.rank - 1, value.type.rank - 2]
        operands.append(w.emit("Transpose", [name], perm=order) if swap else name)
    w.emit("MatMul", operands, out)


def pool(kind: str, **more) -> Rule:
    def rule(w: Writer, node: Node, inputs: list[str], out: str) -> str:
        op = node.op
        ceil = int(op.ceil_mode)
        return w.emit(
            kind, inputs, out, kernel_shape=op.kernel, strides=op.stride, pads=op.padding * 2, ceil_mode=ceil, **more
        )

    return rule


def sum_pool(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    """ONNX has no sum pool: the average with its zeros counted, times the window."""
    average = pool("AveragePool", count_include_pad=1)(w, node, inputs, "")
    w.emit("Mul", [average, w.constant(np.float32(np.prod(node.op.kernel)))], out)


def batch_norm(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    w.emit("BatchNormalization", inputs, out, epsilon=node.op.eps)


def reduce_sum(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    """Over a whole image as a global pool, the form that peers know from other exporters and have kernels for."""
    op, x = node.op, node.inputs[0].type
    if x.rank == 4 and op.axes == (2, 3) and op.keepdim:
        average = w.emit("GlobalAveragePool", inputs)
        w.emit("Mul", [average, w.constant(np.float32(x.shape[2] * x.shape[3]))], out)
    else:
        w.emit("ReduceSum", [*inputs, w.constant(np.array(op.axes, np.int64))], out, keepdims=int(op.keepdim))


def with_shape(kind: str) -> Rule:
    return lambda w, node, inputs, out: w.emit(kind, [*inputs, w.constant(np.array(node.op.shape, np.int64))], out)


def constant(w: Writer, node: Node, inputs: list[str], out: str) -> None:
    w.constant(node.op.reference()[0].astype(np.float32 if node.op.dtype == "f32" else np.int32), out)


RULES: dict[str, Rule] = {
    "conv2d": convolution,
    "linear": linear,
    "matmul": matmul,
    "max_pool2d": pool("MaxPool"),
    "sum_pool2d": sum_pool,
    "batch_norm_inference": batch_norm,
    "reshape": with_shape("Reshape"),
    "expand": with_shape("Expand"),
    "transpose": lambda w, node, inputs, out: w.emit("Transpose", inputs, out, perm=node.op.axes),
    "concat": lambda w, node, inputs, out: w.emit("Concat", inputs, out, axis=node.op.axis),
    "softmax": lambda w, node, inputs, out: w.emit("Softmax", inputs, out, axis=node.op.axis),
    "sum": reduce_sum,
    "constant": constant,
    **{
        name: plain(kind)
        for name, kind in (
            ("relu", "Relu"),
            ("sigmoid", "Sigmoid"),
            ("tanh", "Tanh"),
            ("add", "Add"),
            ("sub", "Sub"),
            ("mul", "Mul"),
            ("div", "Div"),
        )
    },
}


def export(graph: Graph) -> onnx.ModelProto:
    """The model. Raises ValueError, naming every op that has no rule here."""
    unknown = sorted({node.op.name for node in graph.nodes} - RULES.keys())
    if unknown:
        raise ValueError(f"{graph.name}: no ONNX rule for {', '.join(unknown)}")
    w = Writer(graph)
    for value in (*graph.weights, *graph.state):
        if graph.users[value]:
            w.constant(array_of(graph.data[value.name]), value.name)
    for node in graph.nodes:
        RULES[node.op.name](w, node, [w.names[v] for v in node.inputs], w.names[node.output])
    infos = [
        [helper.make_tensor_value_info(w.names[v], TYPES[v.dtype], v.shape) for v in values]
        for values in (graph.inputs, graph.outputs)
    ]
    body = helper.make_graph(w.nodes, graph.name, *infos, w.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model
