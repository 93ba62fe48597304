"""Runs a pipeline: a graph and passes enter, the graph after the last pass leaves, verified after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from graphc.ir import Graph, show, verify

from .debug import debug_level, dump, report

Pass = Callable[[Graph], Graph]


def run_passes(graph: Graph, pipeline: Sequence[Pass], debug: int | None = None) -> Graph:
    """The graph after every pass of the pipeline, in order. `debug` defaults to GRAPHC_DEBUG. Raises InvalidGraph
    naming the pass that broke a rule. A pass with arguments is a `functools.partial`."""
    debug = debug_level() if debug is None else debug
    verify(graph, "tracing")
    dump(f"{graph.name}.graph", show, graph)
    for step in pipeline:
        name = step.func.__name__ if isinstance(step, partial) else step.__name__
        start = time.perf_counter()
        new = step(graph)
        milliseconds = (time.perf_counter() - start) * 1e3
        changed = new is not graph
        if changed:
            verify(new, name)
            dump(f"{new.name}.{name}", show, new)
        if debug >= 1:
            what = f"{len(graph.nodes):5} -> {len(new.nodes):5} nodes" if changed else "    unchanged     "
            report(f"{new.name}: {name:18} {what} {milliseconds:8.1f} ms")
        if debug >= 3 and changed:
            report(show(new))
        graph = new
    return graph
