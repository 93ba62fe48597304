"""The graph: a static, single-assignment list of nodes over typed values. Frozen data; a pass builds a new one.

One inference, or one whole training step, is one graph: `updates` says which new value each weight or state takes when
the step ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import numpy as np

from .frozen import frozen
from .lazy import networkx as nx
from .op import Op
from .types import TensorType


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """A typed tensor, equal only to itself. `name` is what the user calls it (inputs, weights, state), else ''."""

    type: TensorType
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def dtype(self) -> str:
        return self.type.dtype

    def __repr__(self) -> str:
        return f"%{self.name or '?'}: {self.type}"


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """`outputs = op(inputs)`. `scope` is the module path (`layer1.0.conv1`), `where` the user's `file:line`."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    scope: str = ""
    where: str = ""

    @property
    def output(self) -> Value:
        return self.outputs[0]


class Deferred:
    """An array that is made when somebody first asks for it, so that counting and printing allocate nothing. Several
    threads may ask."""

    def __init__(self, make):
        self._make, self._array, self._lock = make, None, Lock()

    def array(self) -> np.ndarray:
        with self._lock:
            if self._array is None:
                self._array = np.asarray(self._make())
            return self._array


def array_of(data) -> np.ndarray:
    """The array behind a weight's data: an ndarray itself, or anything with `array()` (a Deferred, a parameter)."""
    return data if isinstance(data, np.ndarray) else data.array()


@frozen(eq=False)
class Graph:
    """`nodes` are in topological order. `weights` come from the user's parameters and buffers, `state` is made by
    passes (moments, step counter, random key); `frozen` names the weights that are not trained. `updates` pairs a
    weight or state with its next value. `data` maps names of weights and state to arrays (or deferred ones); a graph
    without data, e.g. one parsed from text, is still a whole graph."""

    name: str
    inputs: tuple[Value, ...]
    weights: tuple[Value, ...]
    state: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    updates: tuple[tuple[Value, Value], ...] = ()
    frozen: frozenset[str] = frozenset()
    data: Mapping[str, object] = field(default_factory=dict, repr=False)

    def replace(self, **changes) -> Graph:
        return replace(self, **changes)

    @property
    def leaves(self) -> tuple[Value, ...]:
        return self.inputs + self.weights + self.state

    @property
    def results(self) -> tuple[Value, ...]:
        """Everything the graph must compute: outputs, then new values of updates."""
        return self.outputs + tuple(new for _, new in self.updates)

    def values(self) -> Iterator[Value]:
        yield from self.leaves
        for node in self.nodes:
            yield from node.outputs

    @cached_property
    def producer(self) -> Mapping[Value, Node]:
        return {v: n for n in self.nodes for v in n.outputs}

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        out: dict[Value, list[Node]] = {v: [] for v in self.values()}
        for node in self.nodes:
            for v in dict.fromkeys(node.inputs):
                out[v].append(node)
        return {v: tuple(ns) for v, ns in out.items()}

    def dag(self) -> nx.DiGraph:
        """Nodes and the values between them as a networkx graph: vertices are Node objects, edges carry `value`."""
        g = nx.DiGraph()
        g.add_nodes_from(self.nodes)
        for node in self.nodes:
            for v in node.inputs:
                if v in self.producer:
                    g.add_edge(self.producer[v], node, value=v)
        return g
