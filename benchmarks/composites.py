"""What several of the graph's small operations are together, so that peers get them in the form they know best.

Enters: a graph as the user's network was traced. Leaves: its steps in order, where GELU, layer norm, means, average
pools, attention and transposed convolutions, which the tracer writes in simpler operations, are one step each. A peer
that would run the simple operations one by one, or would fail to recognise them, would be slower for no fault of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from graphc.ir import Graph, Node, Value, array_of
from graphc.ops.shape import Constant


@dataclass(frozen=True)
class Step:
    """One operation of a peer's network: `op` the graph's own (of a composite: its last), `more` what a composite has
    beside it."""

    kind: str
    op: object
    inputs: tuple[Value, ...]
    output: Value
    more: Mapping[str, object] = field(default_factory=dict)


class Reading:
    """A graph and who makes each of its values."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.makers: dict[Value, Node] = {v: node for node in graph.nodes for v in node.outputs}
        self.leaves = {*graph.inputs, *graph.weights, *graph.state}

    def made(self, value: Value, kind: str) -> Node | None:
        """The node of this op that makes a value."""
        node = self.makers.get(value)
        return node if node is not None and node.op.name == kind else None

    def number(self, value: Value) -> float | None:
        """The number that a constant holds in all its elements."""
        node = self.makers.get(value)
        if node is None or not isinstance(node.op, Constant):
            return None
        array = np.asarray(node.op.reference()[0])
        return float(array.flat[0]) if array.size and (array == array.flat[0]).all() else None

    def scaled(self, node: Node | None) -> tuple[Value, float] | None:
        """x and c of x * c, x / c or either way round."""
        if node is None or node.op.name not in ("mul", "div"):
            return None
        a, b = node.inputs
        if (c := self.number(b)) is not None:
            return a, c if node.op.name == "mul" else 1.0 / c
        c = self.number(a) if node.op.name == "mul" else None
        return None if c is None else (b, c)

    def sides(self, node: Node | None, kind: str) -> Iterator[tuple[Value, Value]]:
        """Both orders of the operands of a node of this op."""
        if node is not None and node.op.name == kind:
            a, b = node.inputs
            yield from ((a, b), (b, a))


def gelu(r: Reading, node: Node) -> Step | None:
    """x * 0.5 * (1 + erf(x / sqrt(2)))"""
    for half, rest in r.sides(node, "mul"):
        for one, erf in r.sides(r.makers.get(rest), "add"):
            found, inner = r.scaled(r.makers.get(half)), r.made(erf, "erf")
            if r.number(one) != 1.0 or inner is None or found is None:
                continue
            arg = r.scaled(r.makers.get(inner.inputs[0]))
            if arg and arg[0] == found[0] and found[1] == 0.5 and math.isclose(arg[1], math.sqrt(0.5), rel_tol=1e-6):
                return Step("gelu", node.op, (found[0],), node.output)
    return None


def layer_norm(r: Reading, node: Node) -> Step | None:
    """standardize(x) * weight + bias over the last axis"""
    for scaled, bias in r.sides(node, "add"):
        for standard, weight in r.sides(r.makers.get(scaled), "mul"):
            maker = r.made(standard, "standardize")
            last = maker is not None and maker.op.axes == (standard.type.rank - 1,)
            if last and {weight, bias} <= r.leaves and weight.shape == bias.shape == standard.shape[-1:]:
                return Step("layer_norm", node.op, (maker.inputs[0], weight, bias), node.output, {"eps": maker.op.eps})
    return None


def mean(r: Reading, node: Node) -> Step | None:
    """A sum over axes or over windows, times one over how many there are."""
    found = r.scaled(node)
    maker = r.makers.get(found[0]) if found else None
    if maker is None:
        return None
    if maker.op.name == "sum":
        x = maker.inputs[0]
        count = math.prod(x.shape[a] for a in maker.op.axes)
        kind, op = "mean", maker.op
    elif maker.op.name == "sum_pool2d" and not maker.op.ceil_mode:
        x, count = maker.inputs[0], maker.op.taps
        kind, op = "avg_pool2d", maker.op
    else:
        return None
    return Step(kind, op, (x,), node.output) if math.isclose(found[1] * count, 1.0, rel_tol=1e-6) else None


def attention(r: Reading, node: Node) -> Step | None:
    """softmax(q k^T * scale) v"""
    if node.op.name != "matmul" or node.op.transpose_a or node.op.transpose_b:
        return None
    soft = r.made(node.inputs[0], "softmax")
    found = r.scaled(r.makers.get(soft.inputs[0])) if soft and soft.op.axis == soft.output.type.rank - 1 else None
    scores = r.made(found[0], "matmul") if found else None
    if scores is None or scores.op.transpose_a or not scores.op.transpose_b:
        return None
    return Step("attention", node.op, (*scores.inputs, node.inputs[1]), node.output, {"scale": found[1]})


def conv_transpose(r: Reading, node: Node) -> Step | None:
    """The gradient of a convolution with respect to its image, plus a bias by channel"""
    for product, bias in r.sides(node, "add"):
        maker, shaped = r.made(product, "conv2d_input_grad"), r.made(bias, "reshape")
        if maker and shaped and shaped.inputs[0] in r.leaves and shaped.inputs[0].shape == product.shape[1:2]:
            return Step("conv_transpose", maker.op, (*maker.inputs, shaped.inputs[0]), node.output)
    return None


PATTERNS: dict[str, Callable[[Reading, Node], Step | None]] = {
    "gelu": gelu, "layer_norm": layer_norm, "mean": mean, "attention": attention, "conv_transpose": conv_transpose,
}  # fmt: skip


def steps(graph: Graph, composites: tuple[str, ...] = tuple(PATTERNS)) -> list[Step]:
    """What the graph's outputs need, in order; of nodes with several results the first is the one that counts."""
    reading, order = Reading(graph), {node: i for i, node in enumerate(graph.nodes)}
    found: dict[Node, Step] = {}
    wanted = list(graph.outputs)
    while wanted:
        value = wanted.pop()
        node = reading.makers.get(value)
        if node is None or node in found:
            continue
        matches = (PATTERNS[name](reading, node) for name in composites)
        step = next((m for m in matches if m), None) or Step(node.op.name, node.op, node.inputs, node.outputs[0])
        found[node] = step
        wanted += step.inputs
    return [found[node] for node in sorted(found, key=order.__getitem__)]


def weights_of(graph: Graph, made: list[Step]) -> dict[Value, np.ndarray]:
    """The arrays of the weights and state that the steps read."""
    used = {v for step in made for v in step.inputs}
    return {v: array_of(graph.data[v.name]) for v in (*graph.weights, *graph.state) if v in used}
