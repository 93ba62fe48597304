"""An inference graph enters; the graph whose batch norms are folded into the convolution or linear layer before leaves.

The factors are written as graph arithmetic on the weights; `fold_constants` evaluates it.
"""

from __future__ import annotations

from graphc.ir import Graph, Node, Value, origin
from graphc.ops import Tensor, apply, interpret
from graphc.ops.contraction import Conv2d, Linear
from graphc.ops.norm import BatchNormInference
from graphc.ops.shape import Constant


def fold_batch_norm(graph: Graph) -> Graph:
    """`bn(conv(x, w, b)) -> conv(x, w * scale, b * scale + shift)`, likewise for linear.

    scale = gamma / sqrt(var + eps), shift = beta - mean * scale. Only where nothing else reads the convolution and all
    operands are weights."""

    def rule(node, inputs):
        if isinstance(node.op, BatchNormInference) and foldable(graph, node) and all_weights(inputs):
            return (folded(node.op, inputs),)
        return None

    return interpret(graph, rule)


def foldable(graph: Graph, norm: Node) -> bool:
    """The norm is the only reader of a convolution's or a matrix-shaped linear's result."""
    x: Value = norm.inputs[0]
    source = graph.producer.get(x)
    if source is None or graph.users[x] != (norm,) or x in graph.results:
        return False
    return isinstance(source.op, Conv2d) or (isinstance(source.op, Linear) and len(x.shape) == 2)


def all_weights(inputs: tuple[Tensor, ...]) -> bool:
    """All operands but the image are weights or constants, so that the arithmetic is done before the program runs."""
    operands = (*inputs[0].parents[1:], *inputs[1:])
    return all(t.kind == "weight" or (t.node is not None and isinstance(t.node.op, Constant)) for t in operands)


def folded(norm: BatchNormInference, inputs: tuple[Tensor, ...]) -> Tensor:
    source = inputs[0]
    x, w, *bias = source.parents
    scale, shift = norm.scale_shift(*inputs[1:])
    new_weight = w * scale.reshape((-1,) + (1,) * (w.ndim - 1))
    new_bias = bias[0] * scale + shift if bias else shift
    with origin(source.node):
        return apply(source.node.op, x, new_weight, new_bias)
