"""Rows that a kernel keeps for itself: arena buffers that one kernel alone uses become scratch on its stack.

What enters: a schedule, its layouts assigned. What leaves: the same with fewer buffers in the arena, and rows that stay
in the first cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from .expr import Aff, E, axes_of, load
from .kernels import Kernel, Loops, Reduce, Schedule, Stage, Store, reads, stores, writes
from .layout import Buffer
from .rewriting import replace_loads

ROWS = 1024  # elements of all rows of a kernel: for 16 points side by side they take a stack of 64 KiB


def own_rows(schedule: Schedule) -> Schedule:
    """`for[i] t[m, i] = e; for[j] ... t[m, j]  ->  for[i] row[i] = e; for[j] ... row[j]`, where no other kernel uses t
    and every point m its own row of it alone."""
    users: dict[str, set[int]] = {}
    for k, kernel in enumerate(schedule.kernels):
        for name in {*reads(kernel), *writes(kernel)}:
            users.setdefault(schedule.root(name), set()).add(k)
    kernels, gone = list(schedule.kernels), set()
    for name, buffer in schedule.buffers.items():
        if buffer.place != "arena" or name in schedule.aliased or len(users.get(name, ())) != 1:
            continue
        (k,) = users[name]
        if changed := _with_row(kernels[k], buffer):
            kernels[k] = changed
            gone.add(name)
    if not gone:
        return schedule
    buffers = {name: b for name, b in schedule.buffers.items() if name not in gone}
    return schedule.replace(kernels=tuple(kernels), buffers=buffers)


def _with_row(kernel: Kernel, buffer: Buffer) -> Loops | None:
    """The kernel with the buffer as a scratch row of each point."""
    if not isinstance(kernel, Loops):
        return None
    stored = [s for s in stores(kernel) if s.buffer == buffer.name]
    loads = [e for e in kernel.loads if e.attr[0] == buffer.name]
    if len(stored) != 1 or not loads or not (dims := _row(kernel, stored[0], loads)):
        return None
    taken = {*reads(kernel), *writes(kernel)} - {buffer.name} | {b.name for b in kernel.scratch}
    name = next(n for k in count() if (n := f"row{k or ''}") not in taken)  # equal kernels get equal names
    row = Buffer(name, tuple(buffer.shape[d] for d in dims), buffer.dtype, place="scratch")
    if sum(math.prod(b.shape) for b in (*kernel.scratch, row)) > ROWS:
        return None
    return replace(kernel, stages=_moved(kernel.stages, buffer.name, row, dims), scratch=(*kernel.scratch, row))


def _row(kernel: Loops, store: Store, loads: list[E]) -> tuple[int, ...] | None:
    """The dimensions that stages walk over; in the others every access is where the store is. None where that is not
    so, or a point's row is not its own."""
    par = {a for a, _ in kernel.par}
    fixed, walked = [], []
    for d, index in enumerate(store.indices):
        if isinstance(index, E) or (index.axes & par and index.axes - par):
            return None
        (walked if index.axes - par else fixed).append(d)
    reached = {a for d in fixed for a in store.indices[d].axes}
    own = reached == par and all(len(store.indices[d].terms) <= 1 for d in fixed)
    same = all(e.attr[1][d] == store.indices[d] for e in loads for d in fixed)
    apart = not any(
        axes_of(i) & par if isinstance(i, E) else i.axes & par for e in loads for i in _at(e.attr[1], walked)
    )
    return tuple(walked) if own and same and apart and walked else None


def _at(indices: tuple[Aff | E, ...], dims: Sequence[int]) -> list[Aff | E]:
    return [indices[d] for d in dims]


def _moved(stages: tuple[Stage, ...], name: str, row: Buffer, dims: Sequence[int]) -> tuple[Stage, ...]:
    """Stages with the accesses of buffer `name` turned into those of its row."""

    def value(buffer: str, indices: tuple) -> E | None:
        return load(row.name, tuple(_at(indices, dims)), row.dtype) if buffer == name else None

    def out(o: Reduce | Store) -> Reduce | Store:
        mine = isinstance(o, Store) and o.buffer == name
        return replace(o, buffer=row.name, indices=tuple(_at(o.indices, dims))) if mine else o

    return tuple(Stage(s.axes, tuple(map(out, s.outs))) for s in replace_loads(stages, value))
