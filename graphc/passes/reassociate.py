"""A graph enters; the graph in which products of products are taken in the order that costs least leaves.

`(x w) a -> x (w a)` or `(x a) w`, whatever reshapes, transposes, slices and biases stand between the two products. One
query q asks for scores q (x wk)^T of all tokens x, and then for a mean p (x wv) of them. Neither needs keys and values:
(q wk^T) x^T and (p x) wv are the same numbers, but for rounding, for a fraction of the multiply-adds. With many queries
they are more, and nothing changes.

Multiply-adds are counted, by shapes alone. All readers of the inner product have to be such products, so that it goes;
what they cost is counted together, as keys and values mostly come from one product.

Done before gradients are built, the backward half is as cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from graphc.ir import Graph, Node
from graphc.ir.frozen import frozen
from graphc.ops import Tensor, interpret, lift
from graphc.ops.contraction import Linear, MatMul
from graphc.ops.elementwise import Add
from graphc.ops.graphs import keep

from .labelled import VIEWS, Dims, Labelled, Viewed, contract, labelled, own, runs_along, viewed

# The share of the multiply-adds that may be left: the products that come of it are thin, and run at a third to a half
# of the speed of large ones.
PAYS = 0.5

PRODUCTS = (MatMul, Linear)


def reassociate(graph: Graph) -> Graph:
    while readers := cheaper(graph):
        graph = interpret(graph, lambda node, inputs, readers=readers: rewritten(node, inputs, readers))
    return graph


def cheaper(graph: Graph) -> dict[Node, int]:
    """The readers of one product that are better multiplied by its operands one after the other, as `readers` has
    them; none where nothing is to be gained."""
    products = [node for node in graph.nodes if isinstance(node.op, PRODUCTS)]
    groups = [(node, found) for node in products if (found := readers(graph, node))]
    tensors = lift(graph) if groups else {}
    for node, found in groups:
        chains = [chain(tensors[outer.output], i) for outer, i in found.items()]
        if all(c is not None and c.view.product.node is node for c in chains):
            macs = macs_of(node) + sum(map(macs_of, found))
            if sum(c.cost for c in chains) <= PAYS * macs:
                return found
    return {}


def readers(graph: Graph, product: Node) -> dict[Node, int]:
    """The products that read views of this one, each as one operand; none if anything else does."""
    found: dict[Node, int] = {}
    stack = [product.output]
    while stack:
        v = stack.pop()
        if v in graph.results or not v.type.elements:
            return {}
        for node in graph.users[v]:
            at = [i for i, u in enumerate(node.inputs) if u == v]
            if isinstance(node.op, PRODUCTS) and at in ([0], [1]) and node not in found:
                found[node] = at[0]
            elif isinstance(node.op, (Add, *VIEWS)):
                stack.append(node.output)
            else:
                return {}
    return found


def macs_of(node: Node) -> int:
    return node.op.cost(*(v.type for v in node.inputs)).macs


@frozen
class Chain:
    """A product of a view of a product, over labels: `dims` of the sum of x w a, of which `view` has x, w and what is
    added to their product. `bias` is that of the outer product."""

    view: Viewed
    a: Labelled
    dims: Dims
    bias: Tensor | None = None

    @property
    def out(self) -> tuple[int, ...]:
        return tuple(n for d in self.dims for n in d)

    @property
    def best(self) -> tuple[Labelled, Labelled]:
        """What of x and w is multiplied with a first, and what then."""
        x, w = self.view.x, self.view.w
        return min(((x, w), (w, x)), key=lambda order: self.macs(*order))

    @property
    def cost(self) -> int:
        """Multiply-adds of the best order, with those for what is added."""
        sizes, a = {**self.view.sizes, **self.a.sizes}, self.a.labels
        reached = [[n for n in a if n in b.labels or n in self.out] for b in self.view.added]
        added = (extent(sizes, a) + extent(sizes, r, b.labels) for r, b in zip(reached, self.view.added, strict=True))
        return self.macs(*self.best) + sum(added)

    def macs(self, first: Labelled, second: Labelled) -> int:
        sizes = {**self.view.sizes, **self.a.sizes}
        inner = {n for n in (*self.a.labels, *first.labels) if n in second.labels or n in self.out}
        return extent(sizes, self.a.labels, first.labels) + extent(sizes, inner, second.labels)

    def result(self, shape: tuple[int, ...]) -> Tensor:
        first, second = self.best
        inner = contract(self.a, first, {*second.labels, *self.out})
        last = [n for n in self.out if (n in inner.labels) != (n in second.labels)][-1:]
        pair = (second, inner) if last and last[0] in inner.labels else (inner, second)
        y = contract(*pair, self.out).arranged(self.out)
        for b in self.view.added:
            y = y + self.times(b)
        y = y.reshape(shape)
        return y if self.bias is None else y + self.bias

    def times(self, b: Labelled) -> Tensor:
        """The product of a with what is added, which is the same along labels that it has not."""
        a = self.a.summed({*b.labels, *self.out})
        labels = (*self.out, *(n for n in a.labels if n not in self.out))
        sum_over = tuple(range(len(self.out), len(labels)))
        return (a.arranged(labels) * b.arranged(labels)).sum(sum_over)


def extent(sizes: Mapping[int, int], *labels: Iterable[int]) -> int:
    """How many points some labels have together."""
    return math.prod(sizes[n] for n in {n for group in labels for n in group})


def chain(t: Tensor, i: int) -> Chain | None:
    """A product whose operand i is a view of one."""
    view = viewed(t.parents[i])
    if view is None:
        return None
    a, bias, sides = t.parents[1 - i], t.parents[2:], runs_along(t)
    fresh = [view.unused + d for d in sides[1 - i]]
    labels = dict(zip(sides[1 - i], own(a.shape, fresh), strict=True))
    labels.update(zip(sides[i], view.dims, strict=True))
    sizes = {**dict(zip(fresh, a.shape, strict=True)), **view.sizes}
    dims = tuple(labels[d] for d in range(t.ndim))
    return Chain(view, labelled(a, [labels[d] for d in sides[1 - i]], sizes), dims, *bias)


def rewritten(node: Node, inputs: tuple[Tensor, ...], readers: Mapping[Node, int]) -> tuple[Tensor] | None:
    if node not in readers:
        return None
    found = chain(keep(node, inputs)[0], readers[node])
    return (found.result(node.output.shape),)
