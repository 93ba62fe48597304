"""A graph enters; the graph in which only what is read of each tensor is computed leaves.

`f(x)[part] -> f(x[part])`, over any number of ops between a slice and what it leaves out. A vision transformer whose
head reads the class token alone computes, in its last block, keys and values of all tokens, and queries, attention and
the layers after it of that token only. Parts of one tensor, such as these, are computed apart where that is clearly
less.

Done before gradients are built, the backward half is narrow too: what is not computed has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir import Graph, Node, Value
from graphc.ops import Tensor, apply, interpret
from graphc.ops.random import Dropout
from graphc.ops.regions import Part, Region, count, extents, holds, hull, whole
from graphc.ops.shape import Slice

# Two regions are computed apart if they have together no more than this share of the elements of the smallest region
# with both; else the elements saved are not worth another kernel.
APART = 0.8


def narrow(graph: Graph) -> Graph:
    opened = interpret(graph, open_dropout)
    parts = parts_read(opened)
    if all(isinstance(node.op, Slice) or all_at_once(node, found) for node, found in parts.items()):
        return graph
    made: dict[Value, list[tuple[Region, Tensor]]] = {}

    def rule(node: Node, inputs: tuple[Tensor, ...]):
        if node not in parts:
            return None
        for part in parts[node]:
            operands = [
                cut(made.get(v, [(whole(v.shape), t)]), region)
                for v, t, region in zip(node.inputs, inputs, part.operands, strict=True)
            ]
            results = operands[0] if part.op is None else apply(part.op, *operands)
            for v, t in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
                made.setdefault(v, []).append((part.result, t))
        return [made[v][0][1] for v in node.outputs]

    return interpret(opened, rule)


def open_dropout(node: Node, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Dropout with its random numbers, which go by places in the whole tensor, as a tensor of their own: of that parts
    can be taken."""
    return node.op.decompose(*inputs) if isinstance(node.op, Dropout) else None


def parts_read(graph: Graph) -> dict[Node, list[Part]]:
    """What is computed by the nodes that can compute parts of their results."""
    read: dict[Value, list[Region]] = {v: [whole(v.shape)] for v in graph.results}
    parts: dict[Node, list[Part]] = {}
    for node in reversed(graph.nodes):
        types = [v.type for v in node.inputs]
        asked = [region for v in node.outputs for region in read.get(v, ())]
        if node.op.part is not None and asked and node.output.type.elements:
            asked = together(node.op.part(region, *types).result for region in together(asked))
            parts[node] = [node.op.part(region, *types) for region in asked]
            for part in parts[node]:
                for v, region in zip(node.inputs, part.operands, strict=True):
                    read.setdefault(v, []).append(region)
        else:
            for v in node.inputs:
                read.setdefault(v, []).append(whole(v.shape))
    return parts


def together(regions: Iterable[Region]) -> list[Region]:
    """Few regions that hold all of these: the smallest with both of two that are not worth computing apart."""
    found: list[Region] = []
    for region in regions:
        while (near := next((r for r in found if not worth_apart(r, region)), None)) is not None:
            found.remove(near)
            region = hull(near, region)
        found.append(region)
    return found


def worth_apart(a: Region, b: Region) -> bool:
    return count(a) + count(b) <= APART * count(hull(a, b))


def all_at_once(node: Node, parts: list[Part]) -> bool:
    return [part.result for part in parts] == [whole(node.output.shape)]


def cut(made: list[tuple[Region, Tensor]], region: Region) -> Tensor:
    """A region of a tensor of which these regions are there, from the first that holds it."""
    have, t = next((have, t) for have, t in made if holds(have, region))
    if have == region:
        return t
    start = tuple(h.index(r[0]) for h, r in zip(have, region, strict=True))
    step = tuple(r.step // h.step if len(r) > 1 else 1 for h, r in zip(have, region, strict=True))
    stop = tuple(a + (n - 1) * s + 1 for a, n, s in zip(start, extents(region), step, strict=True))
    return t.apply(Slice(start, stop, step))
