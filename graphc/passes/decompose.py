"""A graph enters; the same computation in ops that need no further rewriting (primitives) leaves."""

from __future__ import annotations

from graphc.ir import Graph
from graphc.ops import interpret


def decompose(graph: Graph) -> Graph:
    """`op(x, ...) -> op.decompose(x, ...)`, again and again until every op that is left is simple."""

    def rule(node, inputs):
        return node.op.decompose(*inputs) if node.op.decompose is not None else None

    while (new := interpret(graph, rule)) is not graph:
        graph = new
    return graph
