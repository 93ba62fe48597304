"""Graphs from symbolic tensors, and tensors from graphs.

What enters: tensors, or a graph. What leaves: the other one. `graph_of` writes down in order what tensors depend on,
and `lift` turns a graph's values back into tensors, which makes a pass an interpreter: walk the nodes, compute with
tensors, write the result down.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphc.ir import Graph, GraphcError, Node, Value, origin

from .tensor import Tensor, apply


def graph_of(
    name: str,
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor] | None = None,
    updates: Sequence[tuple[Tensor, Tensor]] = (),
    leaves: Sequence[Tensor] = (),
) -> Graph:
    """The graph that computes `outputs` and the new values in `updates`; what neither needs is left out.

    `inputs` fixes the order (default: the order they were made in) and keeps unused ones; `leaves` are weights and
    state kept although nothing reads them.
    """
    roots = [*outputs, *(t for pair in updates for t in pair)]
    reached = reachable([*roots, *leaves, *(inputs or ())])
    found = {k: [t for t in reached if t.kind == k] for k in ("input", "weight", "state")}
    if inputs is None:
        inputs = found["input"]
    elif missing := [t for t in found["input"] if t not in set(inputs)]:
        raise GraphcError(f"graph {name} reads {missing[0]!r}, which is not among its inputs")
    stored = found["weight"] + found["state"]
    return Graph(
        name,
        tuple(t.value for t in inputs),
        tuple(t.value for t in found["weight"]),
        tuple(t.value for t in found["state"]),
        tuple(dict.fromkeys(t.node for t in reached if t.node)),
        tuple(t.value for t in outputs),
        tuple((target.value, new.value) for target, new in updates),
        frozenset(t.value.name for t in found["weight"] if not t.trainable),
        {t.value.name: t.data for t in stored if t.data is not None},
    )


def reachable(roots: Sequence[Tensor]) -> list[Tensor]:
    """Every tensor the roots depend on, in the order they were made."""
    seen: set[Tensor] = set()
    stack = list(roots)
    while stack:
        t = stack.pop()
        if t not in seen:
            seen.add(t)
            stack.extend(t.parents)
    return sorted(seen, key=lambda t: t.serial)


def lift_leaves(graph: Graph) -> dict[Value, Tensor]:
    """A tensor for each leaf of the graph."""
    kinds = {"input": graph.inputs, "weight": graph.weights, "state": graph.state}
    return {
        v: Tensor(v, kind=kind, data=graph.data.get(v.name), trainable=kind == "weight" and v.name not in graph.frozen)
        for kind, values in kinds.items()
        for v in values
    }


Rule = Callable[[Node, tuple[Tensor, ...]], "Sequence[Tensor] | None"]


def interpret(graph: Graph, rule: Rule, keep_leaves: bool = True) -> Graph:
    """Rebuild a graph node by node. `rule(node, inputs)` gives the tensors that replace the node's results, or None to
    keep the node. The same graph object comes back if nothing changed and nothing was dead."""
    env, changed = lift_leaves(graph), False
    leaves = list(env.values())
    for node in graph.nodes:
        inputs = tuple(env[v] for v in node.inputs)
        with origin(node):
            results = rule(node, inputs)
            if results is None:
                results = keep(node, inputs)
            else:
                changed = True
        env.update(zip(node.outputs, results, strict=True))
    new = graph_of(
        graph.name,
        [env[v] for v in graph.outputs],
        [env[v] for v in graph.inputs],
        [(env[target], env[value]) for target, value in graph.updates],
        leaves if keep_leaves else (),
    )
    return new if changed or len(new.nodes) < len(graph.nodes) or len(new.leaves) < len(graph.leaves) else graph


def keep(node: Node, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The node's results over possibly new inputs: the very node if none of its inputs changed."""
    if tuple(t.value for t in inputs) == node.inputs:
        return tuple(Tensor(v, node, inputs) for v in node.outputs)
    results = apply(node.op, *inputs)
    return results if isinstance(results, tuple) else (results,)


def lift(graph: Graph) -> Mapping[Value, Tensor]:
    """A tensor for every value of the graph."""
    env = lift_leaves(graph)
    for node in graph.nodes:
        env.update(zip(node.outputs, keep(node, tuple(env[v] for v in node.inputs)), strict=True))
    return env
