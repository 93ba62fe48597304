"""Which kernel must run before which: the dependences of a schedule as a graph over kernel numbers."""

from __future__ import annotations

from .digraph import Digraph
from .kernels import Schedule, reads, writes


def dependences(schedule: Schedule) -> Digraph:
    """Kernel numbers, with an edge wherever order matters: write then read, read then write, write then write. Writes
    of several kernels into one temporary go to different elements and do not order each other."""
    dag = Digraph()
    last_writers: dict[str, list[int]] = {}
    last_readers: dict[str, list[int]] = {}
    for k, kernel in enumerate(schedule.kernels):
        dag.add(k)
        for b in {schedule.root(b) for b in reads(kernel)}:
            dag.connect(last_writers.get(b, ()), [k])
            last_readers.setdefault(b, []).append(k)
        for b in {schedule.root(b) for b in writes(kernel)}:
            dag.connect((r for r in last_readers.get(b, ()) if r != k), [k])
            if last_readers.get(b) or schedule.buffers[b].place == "state":  # a new value for the same memory
                dag.connect(last_writers.get(b, ()), [k])
                last_writers[b], last_readers[b] = [], []
            last_writers.setdefault(b, []).append(k)
    return dag
