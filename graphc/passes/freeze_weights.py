"""A graph that trains nothing enters; the same graph with its weights marked as fixed leaves, so they can be folded."""

from __future__ import annotations

from graphc.ir import Graph


def freeze_weights(graph: Graph) -> Graph:
    """Every weight that the graph does not update becomes frozen. Only for graphs that are not differentiated after."""
    updated = {target for target, _ in graph.updates}
    frozen = graph.frozen | {v.name for v in graph.weights if v not in updated}
    return graph if frozen == graph.frozen else graph.replace(frozen=frozen)
