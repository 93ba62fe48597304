"""A flattened kernel in the form that every generic emitter begins with, and what can be asked of its accesses.

What enters: a kernel and the buffers it names. What leaves: the flattened kernel without axes of extent 1, its parallel
axes by falling stride of its stores, neighbours that move together made one, products of sums told apart from their
guards. All of it follows from the kernel alone; how its points are shared out is each emitter's own matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

from .expr import Aff, E, const, guard, loads, substitute_axes, walk
from .flat import Buffers, FlatLoops
from .kernels import Axis, Loops, Reduce, Stage, Store, expressions, extents
from .normal import flatten

FEW_LEAVES = 16  # loads of a tile that is transposed; the 25 of 5x5 weights were 13,700 lines, as gathers 2,000


def canonical(kernel: Loops, buffers: Buffers, fixed: frozenset[str] = frozenset()) -> FlatLoops:
    """`Loops` -> flattened, sorted and collapsed; `fixed` parallel axes stay first and by themselves."""
    return fuse_products(collapse(sort_axes(drop_single(flatten(kernel, buffers)), fixed), fixed))


def drop_single(kernel: FlatLoops) -> FlatLoops:
    """Axes of extent 1 -> 0."""
    gone = {a: Aff() for a, extent in extents(kernel).items() if extent == 1}
    return _substituted(kernel, gone, lambda axes: tuple(x for x in axes if x[1] != 1)) if gone else kernel


def sort_axes(kernel: FlatLoops, fixed: frozenset[str] = frozenset()) -> FlatLoops:
    """Parallel axes by falling stride of the first store that they move, `fixed` ones before them as they are; stage
    axes of their first access. Stages with argmax keep their order, which decides ties."""

    def ordered(axes: tuple[Axis, ...], accesses: list[Aff | E]) -> tuple[Axis, ...]:
        strides = {a: next((abs(c) for i in accesses if (c := coefficient(i, a))), 0) for a, _ in axes}
        return tuple(sorted(axes, key=lambda x: -strides[x[0]]))

    first_stores = [s.indices[0] for stage in kernel.stages for s in stage.outs if isinstance(s, Store)]
    stages = []
    for stage in kernel.stages:
        keep = any(isinstance(o, Reduce) and o.op == "argmax" for o in stage.outs)
        accesses = [index for _, index, _ in stage_accesses(stage)]
        stages.append(stage if keep else Stage(ordered(stage.axes, accesses), stage.outs))
    own = {b.name for b in kernel.scratch}
    outside = [s.indices[0] for g in stages for s in g.outs if isinstance(s, Store) and s.buffer not in own]
    first = tuple(x for x in kernel.par if x[0] in fixed)
    free = tuple(x for x in kernel.par if x[0] not in fixed)
    return replace(kernel, par=first + ordered(free, outside or first_stores), stages=tuple(stages))


def collapse(kernel: FlatLoops, fixed: frozenset[str] = frozenset()) -> FlatLoops:
    """Neighbours a, b -> one axis, where every index, guard and axis value moves by a as by extent(b) times b, and a
    is not `fixed`."""

    def step(axes: tuple[Axis, ...], affs: set[Aff]) -> dict[str, Aff] | None:
        for (a, _), (b, extent) in pairwise(axes):
            if a not in fixed and all(aff.coef(a) == aff.coef(b) * extent for aff in affs):
                return {a: Aff(), b: Aff.of(a)}
        return None

    def merged(axes: tuple[Axis, ...], found: Mapping[str, Aff]) -> tuple[Axis, ...]:
        if not found.keys() <= {a for a, _ in axes}:
            return axes
        a, b = found
        sizes = dict(axes)
        return tuple((x, sizes[a] * sizes[b] if x == a else e) for x, e in axes if x != b)

    while True:
        affs = set(_affs(kernel))
        found = step(kernel.par, affs) or next((f for s in kernel.stages if (f := step(s.axes, affs))), None)
        if found is None:
            return kernel
        kernel = _substituted(kernel, found, lambda axes, found=found: merged(axes, found))


def fuse_products(kernel: FlatLoops) -> FlatLoops:
    """sum of (x * y if bounds else 0) -> sum of (x if bounds else 0) * (y if bounds else 0), so that every backend
    sees a product and takes one fused multiply-add. Guards within guards, such as that of an incomplete block, are one:
    otherwise it would depend on the width of vectors which of them are decided, and so how a product is rounded."""

    def out(o: Reduce | Store) -> Reduce | Store:
        e, fill, bounds = o.expr, const(0.0), ()
        while e.op == "guard" and e.args[1] is fill:
            e, bounds = e.args[0], bounds + e.attr
        if not (isinstance(o, Reduce) and o.op == "sum" and e.op == "mul" and bounds):
            return o
        x, y = (guard(a, fill, bounds) for a in e.args)
        return replace(o, expr=x * y)

    return replace(kernel, stages=tuple(Stage(s.axes, tuple(map(out, s.outs))) for s in kernel.stages))


def find_tile(kernel: FlatLoops, vector: str | None, least: int, fixed: frozenset[str] = frozenset()) -> str | None:
    """The parallel axis of at least `least` points that some load has unit stride along, where along `vector` it is a
    gather: the two are then walked in tiles that are transposed. Only for one stage without axes, and few such loads:
    the code for a tile is long, and there are four kinds of tiles at the ends of ragged axes."""
    if vector is None or len(kernel.stages) > 1 or kernel.stages[0].axes or kernel.scratch:
        return None
    sizes, leaves = dict(kernel.par), tile_leaves(kernel.stages[0], vector)
    for leaf in leaves if len(leaves) <= FEW_LEAVES else ():
        index = loads(leaf)[0].attr[1][0]
        for a, coef in index.terms:
            if coef == 1 and a not in fixed and sizes[a] >= least:
                return a
    return None


def tile_leaves(stage: Stage, vector: str, tile: str | None = None) -> list[E]:
    """The loads, each with the guard directly around it, that are gathers along `vector` (and have unit stride along
    `tile`)."""
    out, stack, seen = [], [o.expr for o in stage.outs], set()
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        body = e.args[0] if e.op == "guard" and e.args[1].op == "const" else e
        if body.op == "load" and isinstance(index := body.attr[1][0], Aff):
            if index.coef(vector) not in (0, 1) and (tile is None or index.coef(tile) == 1):
                out.append(e)
        elif e.op != "guard":
            stack.extend(e.args)
    return out


def coefficient(index: Aff | E, axis: str) -> int | None:
    """By how much an element offset grows with `axis`; None where that is not one constant."""
    if isinstance(index, Aff):
        return index.coef(axis)
    if index.op == "axis":
        return index.attr.coef(axis)
    if index.op in ("add", "sub"):
        x, y = (coefficient(a, axis) for a in index.args)
        return None if x is None or y is None else x + y if index.op == "add" else x - y
    if index.op == "mul":
        for x, k in (index.args, index.args[::-1]):
            if k.op == "const" and (inner := coefficient(x, axis)) is not None:
                return inner * k.attr
    return None if any(axis in aff.axes for e in walk(index) for aff in _node_affs(e)) else 0


def divisible(index: Aff | E, by: int, multiples: Mapping[str, int]) -> bool:
    """Whether an element offset is surely a multiple of `by`, each axis being one of its entry in `multiples`, or any
    integer."""
    if isinstance(index, Aff):
        return index.const % by == 0 and all(c * multiples.get(a, 1) % by == 0 for a, c in index.terms)
    if index.op == "const":
        return index.attr % by == 0
    if index.op == "axis":
        return divisible(index.attr, by, multiples)
    if index.op in ("add", "sub"):
        return all(divisible(a, by, multiples) for a in index.args)
    return index.op == "mul" and any(divisible(a, by, multiples) for a in index.args)


@lru_cache(maxsize=128)
def stage_accesses(stage: Stage) -> tuple[tuple[str, Aff | E, bool], ...]:
    """(buffer, offset, whether it is a store) of a stage; stores first."""
    out: list[tuple[str, Aff | E, bool]] = []
    roots = []
    for o in stage.outs:
        roots.append(o.expr)
        if isinstance(o, Store):
            out.append((o.buffer, o.indices[0], True))
            roots += [i for i in o.indices if isinstance(i, E)]
    return (*out, *((e.attr[0], e.attr[1][0], False) for e in loads(*roots)))


def _node_affs(e: E) -> Iterator[Aff]:
    if e.op == "axis":
        yield e.attr
    elif e.op == "load":
        yield from (i for i in e.attr[1] if isinstance(i, Aff))
    elif e.op == "guard":
        yield from (aff for aff, _, _ in e.attr)


def _affs(kernel: FlatLoops) -> Iterator[Aff]:
    """Every affine form in the kernel."""
    for e in walk(*expressions(kernel)):
        yield from _node_affs(e)
    for stage in kernel.stages:
        for o in stage.outs:
            if isinstance(o, Store):
                yield from (i for i in o.indices if isinstance(i, Aff))
                yield from (aff for aff, _, _ in o.valid)


def _substituted(
    kernel: FlatLoops, axes: Mapping[str, Aff], reshape: Callable[[tuple[Axis, ...]], tuple[Axis, ...]]
) -> FlatLoops:
    """The kernel with axes replaced everywhere, and `reshape` applied to each list of axes."""

    def out(o: Reduce | Store) -> Reduce | Store:
        expr = substitute_axes(o.expr, axes)
        if isinstance(o, Reduce):
            return replace(o, expr=expr, index=None if o.index is None else substitute_axes(o.index, axes))
        (i,) = o.indices
        at = substitute_axes(i, axes) if isinstance(i, E) else i.substitute(axes)
        return replace(o, indices=(at,), expr=expr, valid=tuple((a.substitute(axes), *r) for a, *r in o.valid))

    stages = tuple(Stage(reshape(s.axes), tuple(map(out, s.outs))) for s in kernel.stages)
    return replace(kernel, par=reshape(kernel.par), stages=stages)
