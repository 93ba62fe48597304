"""A graph in inference form as an ONNX model, so that peers run the same network with the same weights.

Enters: a Graph whose ops are those the zoo's networks use. Leaves: an onnx.ModelProto (opset 17). Composites go as the
operators, or the forms of them, that every importer knows; arithmetic on weights alone is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphc.ir import Graph, Value

from .composites import Step, steps, weights_of

OPSET = 17
TYPES = {"f32": TensorProto.FLOAT, "i32": TensorProto.INT32, "u8": TensorProto.UINT8, "i1": TensorProto.BOOL}
# Attention has no operator of its own in this opset.
COMPOSITES = ("gelu", "layer_norm", "mean", "conv_transpose")


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
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name))
        return name

    def emit(self, kind: str, inputs: Sequence[str], output: str = "", **attributes) -> str:
        self.fresh += not output
        output = output or f"temporary{self.fresh}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output


Rule = Callable[[Writer, Step, list[str], str], object]


def plain(kind: str) -> Rule:
    return lambda w, step, inputs, out: w.emit(kind, inputs, out)


def convolution(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    op = step.op
    w.emit("Conv", inputs, out, strides=op.stride, pads=op.padding * 2, dilations=op.dilation, group=op.groups)


def transposed_convolution(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    """The gradient of a convolution with respect to its image, whose extents the output padding completes."""
    op, (image, weight, *_) = step.op, step.inputs
    sizes = zip(op.size, image.shape[2:], weight.shape[2:], op.stride, op.padding, op.dilation, strict=True)
    more = [n - ((o - 1) * s - 2 * p + d * (k - 1) + 1) for n, o, k, s, p, d in sizes]
    settings = {"strides": op.stride, "pads": op.padding * 2, "dilations": op.dilation, "group": op.groups}
    w.emit("ConvTranspose", inputs, out, output_padding=more, **settings)


def linear(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    """Gemm for matrices, the product and a sum for more dimensions."""
    x, weight, *bias = inputs
    if step.inputs[0].type.rank == 2:
        w.emit("Gemm", inputs, out, transB=1)
        return
    product = w.emit("MatMul", [x, w.emit("Transpose", [weight], perm=[1, 0])], "" if bias else out)
    if bias:
        w.emit("Add", [product, *bias], out)


def matmul(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    sides = zip(inputs, step.inputs, (step.op.transpose_a, step.op.transpose_b), strict=True)
    operands = []
    for name, value, swap in sides:
        order = [*range(value.type.rank - 2), value.type.rank - 1, value.type.rank - 2]
        operands.append(w.emit("Transpose", [name], perm=order) if swap else name)
    w.emit("MatMul", operands, out)


def pool(kind: str, **more) -> Rule:
    def rule(w: Writer, step: Step, inputs: list[str], out: str) -> str:
        op = step.op
        ceil = int(op.ceil_mode)
        return w.emit(
            kind, inputs, out, kernel_shape=op.kernel, strides=op.stride, pads=op.padding * 2, ceil_mode=ceil, **more
        )

    return rule


average = pool("AveragePool", count_include_pad=1)


def sum_pool(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    """ONNX has no sum pool: the average with its zeros counted, times the window."""
    w.emit("Mul", [average(w, step, inputs, ""), w.constant(np.float32(np.prod(step.op.kernel)))], out)


def batch_norm(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    w.emit("BatchNormalization", inputs, out, epsilon=step.op.eps)


def layer_norm(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    w.emit("LayerNormalization", inputs, out, axis=-1, epsilon=step.more["eps"])


def gelu(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    """x * (1 + erf(x / sqrt(2))) * 0.5 in the order that PyTorch's exporter writes and importers look for."""
    inner = w.emit("Erf", [w.emit("Div", [*inputs, w.constant(np.float32(math.sqrt(2.0)))])])
    outer = w.emit("Mul", [*inputs, w.emit("Add", [inner, w.constant(np.float32(1.0))])])
    w.emit("Mul", [outer, w.constant(np.float32(0.5))], out)


def mean(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    """Over a whole image as a global pool, the form that peers know from other exporters and have kernels for."""
    op = step.op
    if step.inputs[0].type.rank == 4 and op.axes == (2, 3) and op.keepdim:
        w.emit("GlobalAveragePool", inputs, out)
    else:
        w.emit("ReduceMean", inputs, out, axes=op.axes, keepdims=int(op.keepdim))


def reduce_sum(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    w.emit("ReduceSum", [*inputs, w.constant(np.array(step.op.axes, np.int64))], out, keepdims=int(step.op.keepdim))


def sliced(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    op = step.op
    ranges = (op.start, op.stop, range(len(op.start)), op.step)
    w.emit("Slice", [*inputs, *(w.constant(np.array(r, np.int64)) for r in ranges)], out)


def padded(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    op = step.op
    if any(op.interior):
        raise ValueError("ONNX has no padding between elements")
    w.emit("Pad", [*inputs, w.constant(np.array(op.before + op.after, np.int64))], out)


def standardize(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    centred = w.emit("Sub", [*inputs, w.emit("ReduceMean", inputs, axes=step.op.axes)])
    variance = w.emit("ReduceMean", [w.emit("Mul", [centred, centred])], axes=step.op.axes)
    width = w.emit("Sqrt", [w.emit("Add", [variance, w.constant(np.float32(step.op.eps))])])
    w.emit("Div", [centred, width], out)


def clip(w: Writer, step: Step, inputs: list[str], out: str) -> None:
    w.emit("Clip", [*inputs, *(w.constant(np.float32(end)) for end in (step.op.low, step.op.high))], out)


def with_shape(kind: str) -> Rule:
    return lambda w, step, inputs, out: w.emit(kind, [*inputs, w.constant(np.array(step.op.shape, np.int64))], out)


RULES: dict[str, Rule] = {
    "conv2d": convolution,
    "conv_transpose": transposed_convolution,
    "conv2d_input_grad": transposed_convolution,
    "linear": linear,
    "matmul": matmul,
    "max_pool2d": pool("MaxPool"),
    "avg_pool2d": average,
    "sum_pool2d": sum_pool,
    "batch_norm_inference": batch_norm,
    "layer_norm": layer_norm,
    "standardize": standardize,
    "gelu": gelu,
    "mean": mean,
    "sum": reduce_sum,
    "reshape": with_shape("Reshape"),
    "expand": with_shape("Expand"),
    "clip": clip,
    "slice": sliced,
    "pad": padded,
    "transpose": lambda w, step, inputs, out: w.emit("Transpose", inputs, out, perm=step.op.axes),
    "concat": lambda w, step, inputs, out: w.emit("Concat", inputs, out, axis=step.op.axis),
    "softmax": lambda w, step, inputs, out: w.emit("Softmax", inputs, out, axis=step.op.axis),
    **{
        name: plain(kind)
        for name, kind in (
            ("relu", "Relu"),
            ("sigmoid", "Sigmoid"),
            ("tanh", "Tanh"),
            ("erf", "Erf"),
            ("exp", "Exp"),
            ("log", "Log"),
            ("abs", "Abs"),
            ("floor", "Floor"),
            ("sqrt", "Sqrt"),
            ("neg", "Neg"),
            ("maximum", "Max"),
            ("minimum", "Min"),
            ("add", "Add"),
            ("sub", "Sub"),
            ("mul", "Mul"),
            ("div", "Div"),
        )
    },
}


def export(graph: Graph) -> onnx.ModelProto:
    """The model. Raises ValueError, naming every op that has no rule here."""
    made = steps(graph, COMPOSITES)
    known: dict[Value, np.ndarray] = weights_of(graph, made)
    rest: list[Step] = []
    for step in made:
        if all(v in known for v in step.inputs) and step.output not in graph.outputs and step.kind == step.op.name:
            known[step.output] = step.op.reference(*(known[v] for v in step.inputs))[0]
        else:
            rest.append(step)
    unknown = sorted({step.kind for step in rest} - RULES.keys())
    if unknown:
        raise ValueError(f"{graph.name}: no ONNX rule for {', '.join(unknown)}")
    w = Writer(graph)
    for value in dict.fromkeys(v for step in rest for v in step.inputs if v in known):
        w.constant(known[value].astype(np.float32 if value.dtype == "f32" else np.int32), w.names[value])
    for step in rest:
        RULES[step.kind](w, step, [w.names[v] for v in step.inputs], w.names[step.output])
    infos = [
        [helper.make_tensor_value_info(w.names[v], TYPES[v.dtype], v.shape) for v in values]
        for values in (graph.inputs, graph.outputs)
    ]
    body = helper.make_graph(w.nodes, graph.name, *infos, w.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model
