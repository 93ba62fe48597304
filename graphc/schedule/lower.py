"""Graph -> Schedule: each node becomes kernels over named buffers, with logical indices and plain layouts.

Nodes that only rename indices (transpose, slice, splits) become no kernel at all: consumers read the operand through
them. A reshape that merges dimensions is an alias, a second name with another shape for the same memory, or a copy
where its operand is such a view. Axes of extent 1 do not exist: their index is the constant 0.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from graphc.ir import Graph, GraphcError, Node
from graphc.ops.elementwise import Elementwise
from graphc.ops.shape import Constant, Reshape

from .expr import Aff, const
from .kernel_builder import Draft, KernelBuilder, Source
from .kernels import Schedule
from .traits import CPU, Traits


class Lowering(Draft):
    """The schedule of one graph in the making."""

    def __init__(self, graph: Graph):
        super().__init__(set(graph.results) | {v for n in graph.nodes for v in n.inputs})
        self.graph = graph
        self.aliases: dict[str, str] = {}
        self.data: dict[str, np.ndarray] = {}

    def leaves(self) -> None:
        """Inputs, weights and state. A weight that some update changes is state too, and so is every other weight of a
        graph with updates: the caller may write them between two runs."""
        stored = "state" if self.graph.updates else "weight"
        for values, place in ((self.graph.inputs, "input"), (self.graph.weights, stored), (self.graph.state, "state")):
            for v in values:
                self.sources[v] = Source(v.type, self.buffer(v.name, v.type, place))

    def node(self, node: Node) -> None:
        op = node.op
        if isinstance(op, Constant):
            self.constant(node)
        elif op.view is not None:
            self.rename(node)
        elif isinstance(op, Elementwise):
            self.elementwise(node)
        elif op.lower is not None:
            op.lower(KernelBuilder(self, node))
        else:
            raise GraphcError(f"{node.where}  {node.scope or op.name}: {op.name} has no lowering; decompose it first")

    def constant(self, node: Node) -> None:
        op, v = node.op, node.output
        if op.scalar is not None:
            self.sources[v] = Source(v.type, constant=const(op.scalar, v.dtype))
            return
        name = self.buffer("const", v.type, "const")
        self.data[name] = op.array
        self.sources[v] = Source(v.type, name)

    def rename(self, node: Node) -> None:
        """A view where indices stay affine; else a copy of a view in the new shape, which fusion can make its writers
        store, or an alias of the operand under the new shape."""
        op, v, source = node.op, node.output, self.sources[node.inputs[0]]
        probe = tuple(Aff.of(f"d{i}") if n > 1 else Aff() for i, n in enumerate(v.shape))
        if source.constant is not None:
            self.sources[v] = Source(v.type, constant=source.constant)
        elif op.view(node.inputs[0].type, probe) is not None:
            self.sources[v] = Source(v.type, source.buffer, views=((op, node.inputs[0].type), *source.views))
        elif source.views and (pieces := common_pieces(node.inputs[0].shape, v.shape)):
            self.sources[v] = Source(v.type, self.reshaped(node, source, pieces))
        else:
            root = self.materialise(node.inputs[0], node)
            name = self.buffer(f"{root}.flat", v.type, self.buffers[root].place)
            self.aliases[name] = self.aliases.get(root, root)
            self.sources[v] = Source(v.type, name)

    def reshaped(self, node: Node, source: Source, pieces: tuple[int, ...]) -> str:
        """A copy of what is read through a view, in the shape of the reshape's result; `pieces` are a shape that both
        sides only merge dimensions of."""
        split, v = Reshape(pieces), node.output
        k = KernelBuilder(self, node, "copy")
        made = self.buffer("copy", v.type, "arena")
        at = k.axes(pieces)
        k.store_in(made, split.view(v.type, at), source.read(split.view(node.inputs[0].type, at)))
        k.finish(at)
        return made

    def elementwise(self, node: Node) -> None:
        k = KernelBuilder(self, node)
        at = k.axes(node.output.shape)
        operands = []
        for i, t in enumerate(k.inputs):
            tail = at[len(at) - t.rank :]
            operands.append(k.load(i, [0 if n == 1 else a for n, a in zip(t.shape, tail, strict=True)]))
        k.store(0, at, node.op.expr(*operands))
        k.finish(at)

    def finish(self, traits: Traits) -> Schedule:
        """Outputs and updates as copies (fusion makes most of them vanish), and the schedule."""
        outputs = tuple(self.materialise(v, None, f"out{i}", "output") for i, v in enumerate(self.graph.outputs))
        changed = {self.sources[target].buffer for target, _ in self.graph.updates}
        sources = {new: self.sources[new] for _, new in self.graph.updates}
        for new, source in sources.items():
            if source.buffer in changed:  # it takes what another leaf holds, which must not have been updated by then
                sources[new] = Source(new.type, self.copy(source, None, "before"))
        for target, new in self.graph.updates:
            k = KernelBuilder(self, None, f"{target.name}.update")
            at = k.axes(target.shape)
            k.store_in(self.sources[target].buffer, at, sources[new].read(at))
            k.finish(at)
        return Schedule(
            self.graph.name,
            self.buffers,
            tuple(self.kernels),
            tuple(self.sources[v].buffer for v in self.graph.inputs),
            outputs,
            aliases=self.aliases,
            data={**self.graph.data, **self.data},
            leaves={self.sources[v].buffer: v.name for v in (*self.graph.weights, *self.graph.state)},
            traits=traits,
        )


def common_pieces(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...] | None:
    """The coarsest shape of which products of neighbouring dimensions make both shapes, `[2, 12], [4, 6] -> [2, 2, 6]`;
    None where there is none, as for `[2, 3], [3, 2]`."""
    ends = sorted({math.prod(shape[d:]) for shape in (a, b) for d in range(len(shape) + 1)})
    if ends[0] == 0 or any(larger % smaller for smaller, larger in pairwise(ends)):
        return None
    return tuple(larger // smaller for smaller, larger in reversed(list(pairwise(ends))))


def lower(graph: Graph, traits: Traits = CPU) -> Schedule:
    """The graph as a schedule for a kind of machine, in which every node is its own kernel, in the graph's order."""
    lowering = Lowering(graph)
    lowering.leaves()
    for node in graph.nodes:
        lowering.node(node)
    return lowering.finish(traits)
