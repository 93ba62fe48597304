"""Fusion: kernels that meet in a buffer become one. Works on logical indices, before layouts.

Rules, each `(producer, consumer) -> merged`, tried in the order of `RULES` until none applies. All of them need a
convex group: no path producer -> other kernel -> consumer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from graphc.ir.lazy import networkx as nx

from .expr import Aff, E, axes_of, loads, rewrite, substitute_axes, temp, walk
from .kernels import (
    AxisNames,
    Contraction,
    Kernel,
    Loops,
    Reduce,
    Schedule,
    Stage,
    Store,
    extents,
    reads,
    stores,
    writes,
)

CHEAP = 2  # an expression of so little work is computed again rather than stored
WORK = {"exp": 8, "log": 8, "tanh": 12, "erf": 12, "div": 4, "sqrt": 4, "umulhi": 2} | dict.fromkeys(
    ("const", "axis", "load", "temp", "guard"), 0
)  # relative work of a primitive; 1 where not named
ROW = 4096  # the most elements of a row that one unit works through


def fuse(schedule: Schedule) -> Schedule:
    """The schedule with as few kernels as the rules allow, in a topological order close to the old one."""
    fusion = Fusion(schedule)
    for rule in RULES:
        while fusion.sweep(rule):
            pass
    return fusion.result()


class Fusion:
    """Kernels under numbers, with the dependences between them kept up to date across merges."""

    def __init__(self, schedule: Schedule):
        self.schedule, self.buffers = schedule, schedule.buffers
        self.kernels: dict[int, Kernel] = dict(enumerate(schedule.kernels))
        self.position = {k: k for k in self.kernels}  # of the earliest kernel that went into it, in the given order
        self.aliased = set(schedule.aliases) | set(schedule.aliases.values())
        self.dag = dependences(schedule)
        self.readers: dict[str, set[int]] = {b: set() for b in self.buffers}
        self.writers: dict[str, set[int]] = {b: set() for b in self.buffers}
        for k in self.kernels:
            self.register(k)

    def register(self, k: int) -> None:
        for b in reads(self.kernels[k]):
            self.readers[b].add(k)
        for b in writes(self.kernels[k]):
            self.writers[b].add(k)

    def forget(self, k: int) -> None:
        for table, names in zip((self.readers, self.writers), self.kernels[k].outside, strict=True):
            for name in names:
                table[name].discard(k)
        del self.kernels[k]

    def in_place(self, kernel: Kernel) -> bool:
        """Whether what the kernel changes for good (weights, state) is read at the very element it writes, so that no
        point of its parallel axes sees what another has changed; and whether it knows all it writes by one name."""
        written = {self.schedule.root(b) for b in writes(kernel)}
        names = {*reads(kernel), *writes(kernel)}
        if len([n for n in names if self.schedule.root(n) in written]) > len(written):
            return False
        changed = {s.buffer: s.indices for s in stores(kernel) if self.buffers[s.buffer].place != "arena"}
        return all(e.attr[1] == changed.get(e.attr[0], e.attr[1]) for e in kernel.loads)

    def temporary(self, name: str) -> bool:
        """A buffer nobody outside the kernels sees, written by one kernel, and known under one name."""
        b = self.buffers[name]
        return b.place == "arena" and name not in self.aliased and len(self.writers[name]) == 1

    def sweep(self, rule: Callable[[Fusion, str], bool]) -> bool:
        """Try a rule on every buffer in order; whether it applied anywhere."""
        return any([rule(self, name) for name in list(self.buffers)])

    def convex(self, first: int, second: int) -> bool:
        """No path from one to the other through a third kernel."""
        frontier = [k for k in self.dag.successors(first) if k != second]
        seen = set(frontier)
        while frontier:
            for k in self.dag.successors(frontier.pop()):
                if k == second:
                    return False
                if k not in seen:
                    seen.add(k)
                    frontier.append(k)
        return True

    def overwriters(self, k: int) -> list[int]:
        """Later kernels that change what this one reads."""
        mine = {self.schedule.root(b) for b in reads(self.kernels[k])}
        return [s for s in self.dag.successors(k) if mine & {self.schedule.root(b) for b in writes(self.kernels[s])}]

    def may_delay(self, first: int, second: int) -> bool:
        """Whether what `first` reads is still unchanged when `second` runs."""
        return not any(nx.has_path(self.dag, w, second) for w in self.overwriters(first))

    def merge(self, producer: int, consumer: int, merged: Kernel) -> None:
        """The consumer becomes `merged`; the producer goes."""
        self.position[consumer] = min(self.position[producer], self.position[consumer])
        for before in list(self.dag.predecessors(producer)):
            if before != consumer:
                self.dag.add_edge(before, consumer)
        for after in list(self.dag.successors(producer)):
            if after != consumer:
                self.dag.add_edge(consumer, after)
        self.dag.remove_node(producer)
        self.forget(producer)
        self.change(consumer, merged)

    def change(self, k: int, kernel: Kernel) -> None:
        self.forget(k)
        self.kernels[k] = kernel
        self.register(k)

    def finishes_contraction(self, kernel: Loops) -> bool:
        """Whether the kernel alone reads a contraction's result, so that it can become its epilogue."""
        for name in reads(kernel):
            made_by = [self.kernels[w] for w in self.writers[name]]
            if len(self.readers[name]) == 1 and any(isinstance(k, Contraction) for k in made_by):
                return True
        return False

    def dropped(self, name: str, but: Iterable[int]) -> bool:
        """Whether no kernel other than `but` needs the buffer stored."""
        return self.temporary(name) and self.readers[name] <= set(but)

    def result(self) -> Schedule:
        order = nx.lexicographical_topological_sort(self.dag, key=lambda k: (self.position[k], k))
        kernels = tuple(self.kernels[k] for k in order)
        used = {b for k in kernels for b in (*reads(k), *writes(k))}
        used |= {self.schedule.root(b) for b in used} | {*self.schedule.inputs, *self.schedule.outputs}
        used |= set(self.schedule.leaves)
        buffers = {name: b for name, b in self.buffers.items() if name in used}
        return self.schedule.replace(kernels=kernels, buffers=buffers)


def dependences(schedule: Schedule) -> nx.DiGraph:
    """Kernel numbers, with an edge wherever order matters: write then read, read then write, write then write. Writes
    of several kernels into one temporary go to different elements and do not order each other."""
    dag = nx.DiGraph()
    last_writers: dict[str, list[int]] = {}
    last_readers: dict[str, list[int]] = {}
    for k, kernel in enumerate(schedule.kernels):
        dag.add_node(k)
        for b in {schedule.root(b) for b in reads(kernel)}:
            dag.add_edges_from((w, k) for w in last_writers.get(b, ()))
            last_readers.setdefault(b, []).append(k)
        for b in {schedule.root(b) for b in writes(kernel)}:
            dag.add_edges_from((r, k) for r in last_readers.get(b, ()) if r != k)
            fresh = bool(last_readers.get(b)) or schedule.buffers[b].place == "state"
            if fresh:
                dag.add_edges_from((w, k) for w in last_writers.get(b, ()))
                last_writers[b], last_readers[b] = [], []
            last_writers.setdefault(b, []).append(k)
    return dag


# What rules look for


def pointwise(kernel: Kernel) -> bool:
    """One stage without inner axes that only stores, at affine indices."""
    return (
        isinstance(kernel, Loops)
        and len(kernel.stages) == 1
        and not kernel.stages[0].axes
        and all(isinstance(o, Store) and all(isinstance(i, Aff) for i in o.indices) for o in kernel.stages[0].outs)
    )


def identity(indices: tuple, shape: tuple[int, ...], sizes: dict[str, int]) -> tuple[str, ...] | None:
    """The axis of each dimension (`` for extent 1) if the indices run over the whole shape once, else None."""
    out = []
    for index, size in zip(indices, shape, strict=True):
        if not isinstance(index, Aff):
            return None
        if size == 1 and index == Aff():
            out.append("")
        elif index.const == 0 and len(index.terms) == 1 and index.terms[0][1] == 1 and sizes[index.terms[0][0]] == size:
            out.append(index.terms[0][0])
        else:
            return None
    named = [a for a in out if a]
    return tuple(out) if len(set(named)) == len(named) else None


def covers(kernel: Loops, axes: tuple[str, ...]) -> bool:
    """Whether these axes are exactly the kernel's parallel ones."""
    return {a for a in axes if a} == {a for a, _ in kernel.par}


def store_of(kernel: Kernel, name: str) -> Store | None:
    """The only store into the buffer."""
    outs = kernel.stores if isinstance(kernel, Contraction) else [o for s in kernel.stages for o in s.outs]
    found = [o for o in outs if isinstance(o, Store) and o.buffer == name]
    return found[0] if len(found) == 1 else None


def loads_of(kernel: Kernel, name: str) -> list[E]:
    return [e for e in kernel.loads if e.attr[0] == name]


def mapped(stage: Stage, rule: Callable[[E], E]) -> Stage:
    """The stage with every expression (and computed index) rewritten."""
    outs = []
    for o in stage.outs:
        if isinstance(o, Reduce):
            outs.append(replace(o, expr=rule(o.expr), index=None if o.index is None else rule(o.index)))
        else:
            at = tuple(rule(i) if isinstance(i, E) else i for i in o.indices)
            outs.append(Store(o.buffer, at, rule(o.expr)))
    return Stage(stage.axes, tuple(outs))


def replacing(name: str, value: Callable[[tuple], E]) -> Callable[[E], E]:
    """A rewriter that puts `value(indices)` for each load of the buffer."""
    memo: dict[E, E] = {}

    def at_load(e: E) -> E | None:
        return value(e.attr[1]) if e.op == "load" and e.attr[0] == name else None

    return lambda root: rewrite(root, at_load, memo)


def stored_values(outs: Iterable[Store], consumer: Loops) -> Callable[[E], E] | None:
    """A rewriter that puts the stored expression for each load of what `outs` store, or None where the consumer loads
    an element that is not the one stored at its point."""
    values = {o.buffer: o for o in outs}
    found = [e for e in consumer.loads if e.attr[0] in values]
    if any(e.attr[1] != values[e.attr[0]].indices for e in found):
        return None
    memo: dict[E, E] = {}

    def at_load(e: E) -> E | None:
        return values[e.attr[0]].expr if e.op == "load" and e.attr[0] in values else None

    return lambda root: rewrite(root, at_load, memo)


def renamed(store: Store, axes: dict[str, Aff]) -> Store:
    return Store(store.buffer, tuple(i.substitute(axes) for i in store.indices), substitute_axes(store.expr, axes))


def used_names(kernel: Loops) -> set[str]:
    """Names of axes and temporaries."""
    return set(extents(kernel)) | {o.name for s in kernel.stages for o in s.outs if isinstance(o, Reduce)}


def relabelled(kernel: Loops, taken: Iterable[str]) -> Loops:
    """The kernel with axes and temporaries renamed so that none is in `taken`."""
    names = AxisNames(tuple(taken))
    axes = {a: names(a.rstrip("0123456789")) for a in extents(kernel)}
    temps = {o.name: names(o.name.rstrip("0123456789")) for s in kernel.stages for o in s.outs if isinstance(o, Reduce)}
    as_aff = {a: Aff.of(b) for a, b in axes.items()}

    def retemp(e: E) -> E | None:
        if e.op != "temp":
            return None
        base, dot, part = e.attr.partition(".")
        return temp(temps.get(base, base) + dot + part, e.dtype)

    def rule(e: E) -> E:
        return rewrite(substitute_axes(e, as_aff), retemp)

    stages = []
    for s in kernel.stages:
        outs = moved(mapped(s, rule).outs, as_aff)
        outs = tuple(replace(o, name=temps[o.name]) if isinstance(o, Reduce) else o for o in outs)
        stages.append(Stage(tuple((axes[a], n) for a, n in s.axes), outs))
    return replace(kernel, par=tuple((axes[a], n) for a, n in kernel.par), stages=tuple(stages))


# The rules


def stack(f: Fusion, name: str) -> bool:
    """Pointwise producer and pointwise consumer over the same elements: one kernel with the stores of both; the store
    in between goes when nobody else reads it."""
    if not f.temporary(name):
        return False
    (p,) = f.writers[name]
    producer = f.kernels[p]
    if not pointwise(producer) or not (store := store_of(producer, name)):
        return False
    shape = f.buffers[name].shape
    own = identity(store.indices, shape, extents(producer))
    if own is None or not covers(producer, own):
        return False
    applied = False
    for c in sorted(f.readers[name] - {p}):
        consumer = f.kernels[c]
        if not pointwise(consumer) or p not in f.kernels:
            continue
        at = {identity(e.attr[1], shape, extents(consumer)) for e in loads_of(consumer, name)}
        if len(at) != 1 or None in at or not covers(consumer, theirs := at.pop()) or not f.convex(p, c):
            continue
        axes = {a: Aff.of(b) for a, b in zip(own, theirs, strict=True) if a}
        producer = f.kernels[p]
        mine = [renamed(o, axes) for o in producer.stages[0].outs]
        if (value := stored_values(mine, consumer)) is None:
            continue
        outs = mapped(consumer.stages[0], value).outs
        keep = tuple(o for o in mine if not f.dropped(o.buffer, (p, c)))
        merged = replace(consumer, stages=(Stage((), keep + outs),))
        if not f.in_place(merged):
            continue
        f.merge(p, c, merged)
        p, applied = c, True
        store = store_of(f.kernels[c], name)
        if store is None:
            break
        own = theirs
    return applied


def into_epilogue(f: Fusion, name: str) -> bool:
    """A pointwise consumer of a contraction's whole result moves into the contraction's epilogue."""
    if not f.temporary(name) or len(f.readers[name]) != 1:
        return False
    (p,), (c,) = f.writers[name], f.readers[name]
    producer, consumer = f.kernels[p], f.kernels[c]
    if not isinstance(producer, Contraction) or not pointwise(consumer) or not (store := store_of(producer, name)):
        return False
    at = {identity(e.attr[1], f.buffers[name].shape, extents(consumer)) for e in loads_of(consumer, name)}
    if len(at) != 1 or None in at or not covers(consumer, theirs := at.pop()):
        return False
    plain_copy = all(o.expr.op == "load" for o in consumer.stages[0].outs)
    if producer.kind == "conv2d_dw" and not (plain_copy and len(consumer.stages[0].outs) == 1):
        return False  # a long reduction is summed block by block into its result, which needs a plain store
    elements = math.prod(n for _, n in producer.par)
    if elements != math.prod(f.buffers[name].shape) or not f.convex(p, c):
        return False
    axes = {a: i for a, i in zip(theirs, store.indices, strict=True) if a}
    outs = tuple(renamed(o, axes) for o in consumer.stages[0].outs)
    if (value := stored_values(producer.stores, Loops("", producer.par, (Stage((), outs),)))) is None:
        return False
    outs = mapped(Stage((), outs), value).outs
    others = tuple(o for o in producer.stores if o.buffer != name)
    merged = replace(producer, stores=others + outs)
    if not f.in_place(merged):
        return False
    f.merge(p, c, merged)
    return True


def recompute(f: Fusion, name: str) -> bool:
    """A cheap pointwise result is not stored: every reader computes it from what it is made of."""
    return inline(f, name, lambda producer, readers, cheap: cheap and not f.finishes_contraction(producer))


def into_reductions(f: Fusion, name: str) -> bool:
    """Elementwise work whose only reader is a reduction or window moves there, before it is stored beside others."""

    def wanted(producer: Loops, readers: list[Kernel], cheap: bool) -> bool:
        return len(readers) == 1 and not pointwise(readers[0]) and not f.finishes_contraction(producer)

    return inline(f, name, wanted)


def inline(f: Fusion, name: str, wanted: Callable[[Loops, list[Kernel], bool], bool] | None = None) -> bool:
    """A pointwise producer's expression put wherever the result is read: into one reader that reads each element once,
    and into any number of readers when it is cheap. `wanted(producer, readers, cheap)` may narrow that."""
    if not f.temporary(name) or not f.readers[name]:
        return False
    (p,) = f.writers[name]
    producer, readers = f.kernels[p], sorted(f.readers[name])
    if not pointwise(producer) or len(producer.stages[0].outs) != 1 or p in readers:
        return False
    store = producer.stages[0].outs[0]
    own = identity(store.indices, f.buffers[name].shape, extents(producer))
    if own is None or not covers(producer, own):
        return False
    elements = math.prod(f.buffers[name].shape)
    big = {e.attr[0] for e in loads(store.expr) if math.prod(f.buffers[e.attr[0]].shape) * 2 > elements}
    cheap = sum(WORK.get(e.op, 1) for e in walk(store.expr)) <= CHEAP and len(big) <= 1
    if not cheap and len(readers) > 1:
        return False
    if wanted and not wanted(producer, [f.kernels[c] for c in readers], cheap):
        return False
    for c in readers:
        consumer = f.kernels[c]
        if not isinstance(consumer, Loops) or not f.may_delay(p, c):
            return False
        found = loads_of(consumer, name)
        if any(not isinstance(i, Aff) for e in found for i in e.attr[1]):
            return False
        if not cheap and (len(found) > 1 or evaluations(consumer, found[0]) > elements):
            return False

    def value(indices: tuple) -> E:
        return substitute_axes(store.expr, {a: i for a, i in zip(own, indices, strict=True) if a})

    def filled(consumer: Loops) -> Loops:
        return replace(consumer, stages=tuple(mapped(s, replacing(name, value)) for s in consumer.stages))

    new = {c: filled(f.kernels[c]) for c in readers}
    if not all(map(f.in_place, new.values())):
        return False
    for c in readers[:-1]:
        f.change(c, new[c])
        f.dag.add_edges_from((before, c) for before in list(f.dag.predecessors(p)))
        f.dag.add_edges_from((c, after) for after in f.overwriters(p))
        f.dag.remove_edge(p, c)
    f.merge(p, readers[-1], new[readers[-1]])
    return True


def evaluations(kernel: Loops, e: E) -> int:
    """How often a kernel evaluates an expression that it reads in one place."""
    total = 0
    for stage in kernel.stages:
        if e in Loops("", (), (stage,)).loads:
            total += math.prod(n for _, n in (*kernel.par, *stage.axes))
    return total


def merge_rows(f: Fusion, name: str) -> bool:
    """A consumer that reads a row only where the producer made it: its stages follow the producer's, and what it has of
    further parallel axes runs inside. A value a row becomes a temporary; a row stays hot in the cache."""
    if not f.temporary(name):
        return False
    (p,) = f.writers[name]
    producer = f.kernels[p]
    if not isinstance(producer, Loops) or pointwise(producer) or not producer.par:
        return False
    for c in sorted(f.readers[name] - {p}):
        if isinstance(f.kernels[c], Loops) and f.convex(p, c) and (merged := one_row(f, name, p, c)):
            f.merge(p, c, merged)
            return True
    return False


def one_row(f: Fusion, name: str, p: int, c: int) -> Loops | None:
    """Producer and consumer as one kernel over the producer's parallel axes, if the consumer stays within its row."""
    producer = f.kernels[p]
    store, consumer = store_of(producer, name), relabelled(f.kernels[c], used_names(producer))
    if store is None or any(isinstance(i, E) for i in store.indices):
        return None
    par = [a for a, _ in producer.par]
    rows = {row_axes(e.attr[1], store.indices, par) for e in loads_of(consumer, name)}
    if len(rows) != 1 or None in rows:
        return None
    theirs = dict(zip(rows.pop(), par, strict=True))  # consumer axis -> producer axis
    sizes, own = extents(consumer), extents(producer)
    if any(sizes[a] != own[b] for a, b in theirs.items()) or not set(theirs) <= {a for a, _ in consumer.par}:
        return None
    extra = tuple((a, n) for a, n in consumer.par if a not in theirs)
    if math.prod(n for _, n in extra) > ROW or (extra and (not pointwise(consumer) or not trailing(consumer, extra))):
        return None
    axes = {a: Aff.of(b) for a, b in theirs.items()}
    stages = [Stage((*extra, *s.axes), moved(mapped(s, lambda e: substitute_axes(e, axes)).outs, axes))
              for s in consumer.stages]  # fmt: skip
    known = [o for s in producer.stages if not s.axes for o in s.outs if isinstance(o, Store)]
    known = [o for o in known if f.temporary(o.buffer) and axes_of(o.expr) <= set(par)]
    if (value := stored_values(known, replace(producer, stages=tuple(stages)))) is None:
        return None
    merged = replace(producer, stages=(*producer.stages, *(mapped(s, value) for s in stages)))
    unread = {b for b in writes(merged) if f.dropped(b, (p, c))} - {e.attr[0] for e in merged.loads}
    merged = without_stores(merged, unread)
    return merged if f.in_place(merged) else None


def without_stores(kernel: Loops, names: set[str]) -> Loops:
    """The kernel without its stores into these buffers, and without stages that are empty then."""
    stages = (
        Stage(s.axes, tuple(o for o in s.outs if isinstance(o, Reduce) or o.buffer not in names)) for s in kernel.stages
    )
    return replace(kernel, stages=tuple(s for s in stages if s.outs))


def moved(outs: tuple[Reduce | Store, ...], axes: dict[str, Aff]) -> tuple[Reduce | Store, ...]:
    """Outs with the axes of their store indices replaced; their expressions have been rewritten already."""
    return tuple(
        replace(o, indices=tuple(i.substitute(axes) if isinstance(i, Aff) else i for i in o.indices))
        if isinstance(o, Store)
        else o
        for o in outs
    )


def row_axes(indices: tuple, stored: tuple, par: list[str]) -> tuple[str, ...] | None:
    """For a read of a buffer, the reader's axis in the place of each of the writer's parallel axes."""
    found = {}
    for mine, its in zip(indices, stored, strict=True):
        if not its.axes & set(par):
            continue
        if its != Aff.of(next(iter(its.axes))) or not isinstance(mine, Aff) or len(mine.terms) != 1:
            return None
        if mine.const or mine.terms[0][1] != 1:
            return None
        found[next(iter(its.axes))] = mine.terms[0][0]
    return tuple(found[a] for a in par) if set(found) == set(par) else None


def trailing(kernel: Loops, extra: tuple) -> bool:
    """Whether the extra axes are the last dimensions of every store."""
    names = {a for a, _ in extra}
    for o in kernel.stages[0].outs:
        inside = [bool(i.axes & names) for i in o.indices if i.axes]
        if inside != sorted(inside):
            return False
    return True


def siblings(f: Fusion, name: str) -> bool:
    """Two kernels over the same axes that read the same large buffer, neither after the other: one pass over it."""
    applied = False
    for a in sorted(f.readers[name]):
        if a not in f.kernels:
            continue
        for b in sorted(f.readers[name]):
            if a < b and a in f.kernels and b in f.kernels and (merged := side_by_side(f, a, b)):
                f.merge(a, b, merged)
                applied = True
                break
    return applied


def side_by_side(f: Fusion, a: int, b: int) -> Loops | None:
    first, second = f.kernels[a], f.kernels[b]
    if not isinstance(first, Loops) or not isinstance(second, Loops) or len(first.stages) != len(second.stages):
        return None
    shape = lambda k: [[n for _, n in k.par], *([n for _, n in s.axes] for s in k.stages)]  # noqa: E731
    if shape(first) != shape(second) or nx.has_path(f.dag, a, b) or nx.has_path(f.dag, b, a):
        return None
    other = relabelled(
        second, extents(first) | {o.name: 0 for s in first.stages for o in s.outs if isinstance(o, Reduce)}
    )
    nests = zip((other.par, *(s.axes for s in other.stages)), (first.par, *(s.axes for s in first.stages)), strict=True)
    axes = {x: Aff.of(y) for theirs, ours in nests for (x, _), (y, _) in zip(theirs, ours, strict=True)}
    shared = {e.attr for e in first.loads} & {substitute_axes(e, axes).attr for e in other.loads}
    points = max(math.prod(n for _, n in (*first.par, *s.axes)) for s in first.stages)
    if not any(2 * math.prod(f.buffers[name].shape) > points for name, _ in shared):
        return None  # nothing large is read once instead of twice
    stages = [
        Stage(mine.axes, mine.outs + moved(mapped(theirs, lambda e: substitute_axes(e, axes)).outs, axes))
        for mine, theirs in zip(first.stages, other.stages, strict=True)
    ]
    merged = replace(first, stages=tuple(stages))
    return merged if f.in_place(merged) else None


RULES = (
    recompute,  # before anything cheap is stored for later: masks, centred values
    into_reductions,  # likewise: a product that is only summed
    stack,  # chains of elementwise ops become one kernel ...
    into_epilogue,  # ... which a contraction applies while its result is in registers
    inline,  # what is left of elementwise work moves into the reductions and windows that read it
    merge_rows,  # softmax and row norms: one kernel that keeps its row
    siblings,  # reductions over the same tensor share one pass
)
