"""Execution order: the given one, except that a kernel whose results only leave the arena (updates of weights and
state, outputs) runs as soon as it can, so that what it reads dies early; and so does one whose results are single
numbers, which updates may wait for (the corrections of Adam) and which take no room."""

from __future__ import annotations

import math

from .dependences import dependences
from .kernels import Schedule, writes


def order(schedule: Schedule) -> Schedule:
    """`a, b, c, update(a)  ->  a, update(a), b, c`."""
    dag = dependences(schedule)
    turns: list[tuple[int, int]] = []  # a kernel's own number, or right behind its last predecessor's
    for k, kernel in enumerate(schedule.kernels):
        made = [schedule.buffers[b] for b in writes(kernel)]
        leaving = all(b.place in ("state", "output") or math.prod(b.shape) == 1 for b in made)
        behind = max((turns[p][0] for p in dag.before[k]), default=-1)
        turns.append((behind, 1) if leaving else (k, 0))
    kernels = [schedule.kernels[k] for k in sorted(range(len(turns)), key=turns.__getitem__)]
    same = all(a is b for a, b in zip(kernels, schedule.kernels, strict=True))
    return schedule if same else schedule.replace(kernels=tuple(kernels))
