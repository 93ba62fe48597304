"""Execution order: a topological order that keeps the given one, except that a kernel whose results only leave the
arena (updates of weights and state, outputs) runs as soon as it can, so that what it reads dies early."""

from __future__ import annotations

from graphc.ir.lazy import networkx as nx

from .dependences import dependences
from .kernels import Schedule, writes


def order(schedule: Schedule) -> Schedule:
    dag = dependences(schedule)
    leaving = [
        all(schedule.buffers[b].place in ("state", "output") for b in writes(kernel)) for kernel in schedule.kernels
    ]
    ready_at = {}  # the position after which a kernel may run: a leaving one right behind its last predecessor
    for k in nx.lexicographical_topological_sort(dag, key=lambda k: k):
        last = max((ready_at[p] for p in dag.predecessors(k)), default=(-1, 0))
        ready_at[k] = max((last[0], 1), last) if leaving[k] else max((k, 0), (last[0], 0))
    kernels = [schedule.kernels[k] for k in nx.lexicographical_topological_sort(dag, key=lambda k: (*ready_at[k], k))]
    same = all(a is b for a, b in zip(kernels, schedule.kernels, strict=True))
    return schedule if same else schedule.replace(kernels=tuple(kernels))
