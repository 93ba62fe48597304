"""What tests of passes share: `rewrites(before, step, after)` states the graph a pass makes and that numbers stay."""

from __future__ import annotations

import textwrap

import numpy as np

from graphc.backends.reference import run
from graphc.ir import NUMPY, Graph, array_of, parse, show, verify


def graph_from(text: str) -> Graph:
    """A graph from indented text, with random data for its weights and state."""
    graph = parse(textwrap.dedent(text))
    rng = np.random.default_rng(0)
    return graph.replace(data={v.name: random_array(v, rng) for v in graph.weights + graph.state})


def random_array(v, rng) -> np.ndarray:
    """Positive numbers for what is called a variance, labels in 0 to 2 for integers."""
    if v.dtype == "f32":
        low = 0.5 if "var" in v.name else -2.0
        return np.asarray(rng.uniform(low, 2.0, v.shape)).astype(np.float32)
    return np.asarray(rng.integers(0, 2 if v.dtype == "i1" else 3, v.shape)).astype(NUMPY[v.dtype])


def inputs_of(graph: Graph, seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [random_array(v, rng) for v in graph.inputs]


def same_numbers(before: Graph, after: Graph, tolerance: float = 0.0) -> None:
    """Equal outputs and updates; `tolerance` is a share of the greatest element."""
    inputs = inputs_of(before)
    (want, want_updates), (got, got_updates) = run(before, inputs), run(after, inputs)
    assert want_updates.keys() == got_updates.keys()
    for a, b in zip([*got, *got_updates.values()], [*want, *want_updates.values()], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0.0))


def rewrites(before: str, step, after: str, tolerance: float = 0.0) -> Graph:
    """`step` makes the graph `after` of the graph `before`, with the same numbers, and leaves `after` as it is."""
    old = graph_from(before)
    new = verify(step(old), step.__name__)
    assert show(new) == textwrap.dedent(after).lstrip("\n")
    same_numbers(old, new, tolerance)
    assert step(new) is new
    return new


def leaves_alone(text: str, step) -> None:
    graph = graph_from(text)
    assert step(graph) is graph


def body(graph: Graph) -> list[str]:
    """Names of the ops in order."""
    return [n.op.name for n in graph.nodes]


def data_of(graph: Graph, name: str) -> np.ndarray:
    return array_of(graph.data[name])
