"""A graph enters, perhaps with other input types (a new batch); the graph with every type inferred again leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from graphc.ir import Graph, GraphcError, Op, TensorType, Value, origin
from graphc.ops import Tensor, apply, graph_of
from graphc.ops.graphs import lift_leaves
from graphc.ops.shape import Expand, Reshape, Slice


def infer(graph: Graph, inputs: Mapping[str, TensorType] | None = None) -> Graph:
    """Types by each op's own rule, from the given types of inputs (by name; the others keep theirs).

    Shapes written into ops follow a changed leading extent (the batch) where they contained it: a reshape or expand
    that kept it, a slice that took all of it. Raises ShapeError with the user's line where new shapes do not fit.
    """
    changed = dict(inputs or {})
    if unknown := sorted(set(changed) - {v.name for v in graph.inputs}):
        raise GraphcError(f"graph {graph.name} has no inputs {unknown}; it has {[v.name for v in graph.inputs]}")
    env = lift_leaves(graph)
    for v in graph.inputs:
        if changed.get(v.name, v.type) != v.type:
            env[v] = Tensor(Value(changed[v.name], v.name), kind="input")
    leaves = list(env.values())
    for node in graph.nodes:
        operands = tuple(env[v] for v in node.inputs)
        op = follow(node.op, tuple(v.type for v in node.inputs), tuple(t.type for t in operands))
        with origin(node):
            results = apply(op, *operands)
        results = results if isinstance(results, tuple) else (results,)
        if op is node.op and all(t.value is v for t, v in zip(operands, node.inputs, strict=True)):
            known = tuple(Tensor(v, node, operands) for v in node.outputs)
            results = known if [t.type for t in known] == [t.type for t in results] else results
        env.update(zip(node.outputs, results, strict=True))
    if all(env[v].value is v for v in graph.values()):
        return graph
    return graph_of(
        graph.name,
        [env[v] for v in graph.outputs],
        [env[v] for v in graph.inputs],
        [(env[target], env[new]) for target, new in graph.updates],
        leaves,
    )


def follow(op: Op, old: tuple[TensorType, ...], new: tuple[TensorType, ...]) -> Op:
    """The op with a changed leading extent of its first operand put into its own shape."""
    if type(op) not in FOLLOW or not old[0].shape or not new[0].shape or old[0].shape[0] == new[0].shape[0]:
        return op
    return FOLLOW[type(op)](op, old[0].shape, new[0].shape[0])


def keep_leading(op: Reshape, old: tuple[int, ...], n: int) -> Reshape:
    """Reshape that keeps the leading extent."""
    return replace(op, shape=(n, *op.shape[1:])) if op.shape[:1] == old[:1] else op


def expand_leading(op: Expand, old: tuple[int, ...], n: int) -> Expand:
    """Expand over a tensor of equal rank that does not expand the leading extent."""
    return replace(op, shape=(n, *op.shape[1:])) if len(op.shape) == len(old) and op.shape[0] == old[0] else op


def slice_leading(op: Slice, old: tuple[int, ...], n: int) -> Slice:
    """Slice that takes the whole leading extent."""
    whole = (op.start[0], op.stop[0], op.step[0]) == (0, old[0], 1)
    return replace(op, stop=(n, *op.stop[1:])) if whole else op


FOLLOW: Mapping[type[Op], Callable[[Op, tuple[int, ...], int], Op]] = {
    Reshape: keep_leading,
    Expand: expand_leading,
    Slice: slice_leading,
}
