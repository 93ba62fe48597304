"""Kernels that work through the same rows one after the other."""

from __future__ import annotations

from dataclasses import replace

from graphc.schedule.expr import Aff, E, axes_of, loads
from graphc.schedule.kernels import Axis, Loops, Stage, Store, writes
from graphc.schedule.rewriting import forward, fresh_names, rename, without_stores

from .patterns import loads_of, points, pointwise, store_of
from .state import Fusion, each_consumer

ROW = 4096  # the most elements of a row that one unit works through


@each_consumer
def merge_rows(fusion: Fusion, name: str, p: int, c: int) -> Loops | None:
    """`par[m]: t[m] = sum_i x[m, i]; par[m, j]: y[m, j] = f(t[m])  ->  par[m]: s = sum_i ...; for[j] y[m, j] = f(s)`.

    The consumer reads a row only where the producer made it: its stages follow, and what it has of further parallel
    axes runs inside. A value a row becomes a temporary; a row stays hot in the cache."""
    producer, consumer = fusion.kernels[p], fusion.kernels[c]
    if not isinstance(producer, Loops) or not isinstance(consumer, Loops) or pointwise(producer) or not producer.par:
        return None
    if not (store := store_of(producer, name)) or any(isinstance(i, E) for i in store.indices):
        return None
    if not (theirs := _same_row(producer, store, consumer)):
        return None
    extra = tuple((a, n) for a, n in consumer.par if a not in theirs)
    if extra and not (pointwise(consumer) and points(*extra) <= ROW and _trailing(consumer, extra)):
        return None
    names = fresh_names(consumer, producer) | theirs
    stages = [rename(Stage((*extra, *s.axes), s.outs), names) for s in consumer.stages]
    if (stages := forward(stages, _row_values(fusion, producer))) is None:
        return None
    merged = replace(producer, stages=producer.stages + stages)
    unread = {b for b in writes(merged) if fusion.needless(b, (p, c))} - {e.attr[0] for e in merged.loads}
    return replace(merged, stages=without_stores(merged.stages, unread)) if unread else merged


def _same_row(producer: Loops, store: Store, consumer: Loops) -> dict[str, str] | None:
    """`consumer axis -> producer axis` for each parallel axis of the producer, if the consumer reads what is stored
    always in the row of its own point."""
    par = dict(producer.par)
    rows = {_row_axes(e.attr[1], store.indices, par) for e in loads_of(consumer, store.buffer)}
    if len(rows) != 1 or not (row := rows.pop()):
        return None
    sizes = dict(consumer.par)
    same = all(sizes.get(a) == par[b] for a, b in row)
    return dict(row) if same else None


def _row_axes(indices: tuple, stored: tuple, par: dict[str, int]) -> tuple[tuple[str, str], ...] | None:
    """(reader's axis, writer's axis) for each parallel axis of the writer, from a load and a store of one buffer."""
    found = {}
    for mine, its in zip(indices, stored, strict=True):
        if its.axes.isdisjoint(par):
            continue
        axis = its.terms[0][0]
        if its != Aff.of(axis) or not isinstance(mine, Aff) or not mine.terms or mine != Aff.of(mine.terms[0][0]):
            return None
        found[axis] = mine.terms[0][0]
    return tuple((found[a], a) for a in par) if found.keys() == par.keys() else None


def _row_values(fusion: Fusion, producer: Loops) -> list[Store]:
    """What the producer stores once a row, and what nobody outside needs to see stored: later stages may compute it
    again, unless it is of state that the producer changes meanwhile."""
    par = {a for a, _ in producer.par}
    changed = {n for n in writes(producer) if fusion.buffers[n].place != "arena"}
    found = [o for s in producer.stages if not s.axes for o in s.outs if isinstance(o, Store)]
    kept = [o for o in found if changed.isdisjoint(e.attr[0] for e in loads(o.expr))]
    return [o for o in kept if fusion.temporary(o.buffer) and axes_of(o.expr) <= par]


def _trailing(kernel: Loops, extra: tuple[Axis, ...]) -> bool:
    """Whether the extra axes are the last dimensions of every store."""
    names = {a for a, _ in extra}
    for o in kernel.stages[0].outs:
        inside = [not i.axes.isdisjoint(names) for i in o.indices if i.axes]
        if inside != sorted(inside):
            return False
    return True
