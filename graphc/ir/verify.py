"""The verifier: what must hold of every graph, checked after every pass with the same type rules as the builder."""

from __future__ import annotations

from collections import Counter

from .graph import Graph, Value
from .op import GraphcError


class InvalidGraph(GraphcError):
    """A graph that breaks the rules: a defect of a pass, never of the user's network."""


def verify(graph: Graph, after: str = "") -> Graph:
    """Returns the graph, or raises InvalidGraph listing every broken rule at once."""
    problems: list[str] = []
    known: set[Value] = set(graph.leaves)
    names = Counter(v.name for v in graph.leaves)
    problems += [f"{n} leaves are called %{name}" for name, n in names.items() if n > 1]
    problems += [f"a leaf of type {v.type} has no name" for v in graph.leaves if not v.name]

    for i, node in enumerate(graph.nodes):
        what = f"node {i} ({node.op.name}{', ' + node.scope if node.scope else ''})"
        problems += [f"{what} reads a value that is not defined before it: {v}" for v in node.inputs if v not in known]
        problems += [f"{what} defines {v} a second time" for v in node.outputs if v in known]
        known.update(node.outputs)
        try:
            types = node.op.infer(*(v.type for v in node.inputs))
        except GraphcError as error:
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


def show(types) -> str:
    return ", ".join(map(str, types))
