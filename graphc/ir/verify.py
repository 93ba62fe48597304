"""The verifier: what must hold of every graph, checked after every pass with the same type rules as the builder."""

from __future__ import annotations

from collections import Counter

import numpy as np

from .errors import GraphcError
from .graph import Graph, Value
from .text import legal_name, plain_name


class InvalidGraph(GraphcError):
    """A graph that breaks the rules: a defect of a pass, never of the user's network."""


def verify(graph: Graph, after: str = "") -> Graph:
    """Returns the graph, or raises InvalidGraph listing every broken rule at once."""
    problems: list[str] = []
    known: set[Value] = set(graph.leaves)
    names = Counter(v.name for v in graph.leaves)
    problems += [f"{n} leaves are called %{name}" for name, n in names.items() if n > 1]
    problems += [f"a leaf of type {v.type} has no name" for v in graph.leaves if not v.name]
    problems += [f"the text cannot hold the name {n!r}" for n in names if n and not legal_name(n)]
    if graph.name != plain_name(graph.name):
        problems.append(f"the text cannot hold the name {graph.name!r}")
    problems += data_problems(graph)

    for i, node in enumerate(graph.nodes):
        what = f"node {i} ({node.op.name}{', ' + node.scope if node.scope else ''})"
        problems += [f"{what} reads a value that is not defined before it: {v}" for v in node.inputs if v not in known]
        problems += [f"{what} defines {v} a second time" for v in node.outputs if v in known]
        known.update(node.outputs)
        try:
            types = node.op.infer(*(v.type for v in node.inputs))
        except Exception as error:  # a rule may fail in any way on operands it was never meant for
            problems.append(f"{what}: {error}")
            continue
        got = tuple(v.type for v in node.outputs)
        if types != got:
            problems.append(f"{what} has result types {show(got)}, its rule says {show(types)}")

    problems += [f"output {v} is not defined" for v in graph.outputs if v not in known]
    targets = Counter(target for target, _ in graph.updates)
    problems += [f"{v} is updated {n} times" for v, n in targets.items() if n > 1]
    for target, new in graph.updates:
        if target not in graph.weights and target not in graph.state:
            problems.append(f"update of {target}, which is neither weight nor state")
        if new not in known:
            problems.append(f"update of {target} takes an undefined value")
        elif new.type != target.type:
            problems.append(f"update of {target} takes a value of type {new.type}")
    if problems:
        title = f"graph {graph.name} is invalid" + (f" after {after}" if after else "")
        raise InvalidGraph("\n  ".join([title, *problems]))
    return graph


def data_problems(graph: Graph) -> list[str]:
    """Names without a leaf, and arrays of another shape than their leaf. Deferred arrays are not made for this."""
    stored = {v.name: v for v in graph.weights + graph.state}
    weights = {v.name for v in graph.weights}
    problems = [f"%{name} is frozen but no weight" for name in sorted(graph.frozen - weights)]
    for name, data in graph.data.items():
        if name not in stored:
            problems.append(f"there is data for %{name}, which is neither weight nor state")
        elif isinstance(data, np.ndarray) and data.shape != stored[name].shape:
            problems.append(f"the data of {stored[name]} has shape {data.shape}")
    return problems


def show(types) -> str:
    return ", ".join(map(str, types))
