"""A graph enters; the graph in which equal expressions are computed once leaves."""

from __future__ import annotations

from graphc.ir import Graph, Value
from graphc.ops import Tensor, interpret
from graphc.ops.elementwise import Add, And, Equal, Mul, Or
from graphc.ops.graphs import keep

# Ops whose result has the same bits with the operands swapped.
COMMUTATIVE = (Add, Mul, And, Or, Equal)


def eliminate_common(graph: Graph) -> Graph:
    """`a = op(x); b = op(x); f(a, b) -> a = op(x); f(a, a)`. Random numbers too: they depend on key and stream only."""
    number: dict[Value, int] = {}
    seen: dict[tuple, tuple[Tensor, ...]] = {}

    def rule(node, inputs):
        order = [number.setdefault(t.value, len(number)) for t in inputs]
        # repr, not ==, tells 0.0 from -0.0 and 1 from True
        key = (repr(node.op), *(sorted(order) if isinstance(node.op, COMMUTATIVE) else order))
        if key in seen:
            return seen[key]
        seen[key] = keep(node, inputs)
        return None if tuple(t.value for t in inputs) == node.inputs else seen[key]

    return interpret(graph, rule)
