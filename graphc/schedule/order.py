"""Execution order: the given one, except that a kernel whose results only leave the arena (updates of weights and
state, outputs) runs as soon as it can, so that what it reads dies early; and so does one whose results are single
numbers, which updates may wait for (the corrections of Adam) and which take no room. Where the machine asks for it,
small ones of those that leave run last instead, side by side, so that few launches do them all."""

from __future__ import annotations

import math

from .dependences import dependences
from .digraph import Digraph
from .kernels import Kernel, Schedule, reads, writes


def order(schedule: Schedule) -> Schedule:
    """`a, b, c, update(a)  ->  a, update(a), b, c`."""
    dag = dependences(schedule)
    last = late(schedule, dag)
    turns: list[tuple[int, int]] = []  # a kernel's own number, or right behind its last predecessor's
    for k, kernel in enumerate(schedule.kernels):
        made = [schedule.buffers[b] for b in writes(kernel)]
        early = leaves(kernel, schedule) or all(math.prod(b.shape) == 1 for b in made)
        behind = max((turns[p][0] for p in dag.before[k]), default=-1)
        turns.append((len(schedule.kernels), 0) if k in last else (behind, 1) if early else (k, 0))
    kernels = [schedule.kernels[k] for k in sorted(range(len(turns)), key=turns.__getitem__)]
    same = all(a is b for a, b in zip(kernels, schedule.kernels, strict=True))
    return schedule if same else schedule.replace(kernels=tuple(kernels))


def leaves(kernel: Kernel, schedule: Schedule) -> bool:
    """Whether nothing that the kernel writes stays in the arena."""
    return all(schedule.buffers[b].place in ("state", "output") for b in writes(kernel))


def late(schedule: Schedule, dag: Digraph) -> set[int]:
    """Kernels that leave, touch few bytes, and that no other kernel waits for."""
    found: set[int] = set()
    for k in reversed(range(len(schedule.kernels))):
        kernel = schedule.kernels[k]
        touched = {schedule.root(b) for b in (*reads(kernel), *writes(kernel))}
        small = sum(schedule.buffers[b].bytes for b in touched) <= schedule.traits.late
        if small and leaves(kernel, schedule) and dag.after[k] <= found:
            found.add(k)
    return found
