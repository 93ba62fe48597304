"""A graph enters; the graph without nodes, weights and state that no output and no update needs leaves."""

from __future__ import annotations

from graphc.ir import Graph
from graphc.ops import interpret


def eliminate_dead(graph: Graph) -> Graph:
    """Inputs stay, read or not: they are the graph's interface."""
    return interpret(graph, lambda node, inputs: None, keep_leaves=False)
