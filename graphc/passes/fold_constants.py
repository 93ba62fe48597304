"""A graph enters; the graph whose arithmetic on constants and frozen weights is done leaves.

What depends on constants alone becomes a constant; what depends on weights becomes a new frozen weight whose numbers
are computed (in float64, rounded once) when somebody first asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphc.ir import NUMPY, Deferred, Graph, Node, Value, array_of
from graphc.ops import Tensor, apply, interpret, leaf
from graphc.ops.graphs import keep
from graphc.ops.shape import Constant

# Results with more elements than this and than the operands hold are computed by the program: an expansion costs more
# to store and read than to make again.
SMALL = 1024


def fold_constants(graph: Graph) -> Graph:
    """`op(constant, ...) -> constant`, `op(weight, ...) -> weight.folded` for frozen weights that have data and are not
    updated. Views of weights stay: they cost nothing. Weights that are read no more are left to `eliminate_dead`."""
    updated = {target for target, _ in graph.updates}
    fixed = {v for v in graph.weights if v.name in graph.frozen and v.name in graph.data and v not in updated}
    known = known_values(graph, fixed)
    names = {v.name for v in graph.leaves}
    results = set(graph.results)

    def needed(v: Value) -> bool:
        return v in known and (v in results or any(n.output not in known for n in graph.users[v]))

    def rule(node, inputs):
        if isinstance(node.op, Constant) or not any(map(needed, node.outputs)) or is_view(graph, node, fixed):
            return None
        kept = keep(node, inputs)
        return tuple(evaluated(graph, v, names) if needed(v) else t for v, t in zip(node.outputs, kept, strict=True))

    return interpret(graph, rule)


def known_values(graph: Graph, fixed: set[Value]) -> set[Value]:
    """Fixed weights, constants, and what is computed from them without growing (unless its op is made for that)."""
    size = {v: v.type.elements for v in fixed}
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            size[node.output] = len(node.op.values)
        elif all(v in size for v in node.inputs):
            limit = max(SMALL, sum(size[v] for v in node.inputs))
            if node.op.precompute or all(v.type.elements <= limit for v in node.outputs):
                size.update((v, v.type.elements) for v in node.outputs)
    return set(size)


def is_view(graph: Graph, node: Node, fixed: set[Value]) -> bool:
    """The node, and all between it and a weight, only rename indices."""
    while node.op.view is not None:
        if node.inputs[0] in fixed:
            return True
        node = graph.producer[node.inputs[0]]
    return False


def evaluated(graph: Graph, value: Value, names: set[str]) -> Tensor:
    """The value as a constant or, where it depends on weights or is large, as a new frozen weight."""
    steps = steps_to(graph, value)
    weights = list(dict.fromkeys(v for n in steps for v in n.inputs if v not in graph.producer))
    data = {v: graph.data[v.name] for v in weights}

    def make() -> np.ndarray:
        return evaluate(steps, data)[value].astype(NUMPY[value.dtype])

    if not weights and value.type.elements <= SMALL:
        return apply(Constant.of(make(), value.dtype))
    # named after the largest weight that goes in; among equals the last, which is the bias of a folded norm
    base = max(reversed(weights), key=lambda v: v.type.elements).name if weights else "constant"
    name, number = f"{base}.folded", 1
    while name in names:
        number += 1
        name = f"{base}.folded{number}"
    names.add(name)
    return leaf("weight", name, value.type, Deferred(make))


def steps_to(graph: Graph, value: Value) -> tuple[Node, ...]:
    """The nodes that compute the value, in order."""
    steps: set[Node] = set()
    stack = [value]
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None and node not in steps:
            steps.add(node)
            stack.extend(node.inputs)
    return tuple(n for n in graph.nodes if n in steps)


def evaluate(steps: Iterable[Node], data: dict[Value, object]) -> dict[Value, np.ndarray]:
    """All values of the steps, f32 held in float64."""
    env = {v: precise(array_of(d), v) for v, d in data.items()}
    with np.errstate(all="ignore"):
        for node in steps:
            results = node.op.reference(*(env[v] for v in node.inputs))
            env.update((v, precise(np.asarray(a), v)) for v, a in zip(node.outputs, results, strict=True))
    return env


def precise(array: np.ndarray, v: Value) -> np.ndarray:
    return array.astype(np.float64 if v.dtype == "f32" else NUMPY[v.dtype], copy=False)
