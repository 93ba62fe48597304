"""Rewriting of stages: other expressions, other names, other values for loads. Each gives new stages.

A contraction's epilogue is rewritten as the stage without axes that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from .expr import Aff, E, axis, binary, const, load, loads, rewrite, substituted, temp
from .kernels import AxisNames, Loops, Reduce, Stage, Store, extents, stage_expressions

Stages = tuple[Stage, ...]


def map_expressions(stage: Stage, rule: Callable[[E], E | None]) -> Stage:
    """Every node `e` of the stage's expressions and computed indices `-> rule(e)`, where that is not None."""
    memo: dict[E, E] = {}

    def new(root: E) -> E:
        return rewrite(root, rule, memo)

    outs: list[Reduce | Store] = []
    for o in stage.outs:
        if isinstance(o, Reduce):
            outs.append(replace(o, expr=new(o.expr), index=None if o.index is None else new(o.index)))
        else:
            at = tuple(new(i) if isinstance(i, E) else i for i in o.indices)
            outs.append(replace(o, indices=at, expr=new(o.expr)))
    return Stage(stage.axes, tuple(outs))


def replace_loads(stages: Iterable[Stage], value: Callable[[str, tuple], E | None]) -> Stages:
    """`load buffer[indices] -> value(buffer, indices)`, where that is not None."""

    def rule(e: E) -> E | None:
        return value(*e.attr) if e.op == "load" else None

    return tuple(map_expressions(s, rule) for s in stages)


def forward(stages: Iterable[Stage], stored: Iterable[Store]) -> Stages | None:
    """`load b[i] -> e` for each store `b[i] = e`; None where the stages load another element of such a buffer."""
    stages, stored = tuple(stages), {s.buffer: s for s in stored}
    for e in loads(*stage_expressions(*stages)):
        buffer, indices = e.attr
        if buffer in stored and indices != stored[buffer].indices:
            return None
    return replace_loads(stages, lambda buffer, _: stored[buffer].expr if buffer in stored else None)


def substitute(stage: Stage, axes: Mapping[str, Aff]) -> Stage:
    """Loop axes that are not the stage's own `-> axes[...]`, in expressions and in the indices of stores."""
    axes = {a: value for a, value in axes.items() if value != Aff.of(a)}
    if not axes:
        return stage
    outs = map_expressions(stage, lambda e: substituted(e, axes)).outs
    return Stage(stage.axes, tuple(o if isinstance(o, Reduce) else _at(o, axes) for o in outs))


def _at(store: Store, axes: Mapping[str, Aff]) -> Store:
    """A store whose affine indices and bounds have their axes replaced."""
    at = tuple(i.substitute(axes) if isinstance(i, Aff) else i for i in store.indices)
    return replace(store, indices=at, valid=tuple((a.substitute(axes), lo, hi) for a, lo, hi in store.valid))


def rename(stage: Stage, names: Mapping[str, str]) -> Stage:
    """Axes, the stage's own included, and temporaries `-> names[...]`."""
    axes = {a: Aff.of(b) for a, b in names.items()}

    def rule(e: E) -> E | None:
        if e.op != "temp":
            return substituted(e, axes)
        base, dot, part = e.attr.partition(".")
        return temp(names.get(base, base) + dot + part, e.dtype)

    outs = (_rename_target(o, names, axes) for o in map_expressions(stage, rule).outs)
    return Stage(tuple((names.get(a, a), n) for a, n in stage.axes), tuple(outs))


def _rename_target(out: Reduce | Store, names: Mapping[str, str], axes: Mapping[str, Aff]) -> Reduce | Store:
    return replace(out, name=names.get(out.name, out.name)) if isinstance(out, Reduce) else _at(out, axes)


def own_names(kernel: Loops) -> list[str]:
    """Names of axes and temporaries."""
    return [*extents(kernel), *(o.name for s in kernel.stages for o in s.outs if isinstance(o, Reduce))]


def fresh_names(kernel: Loops, other: Loops) -> dict[str, str]:
    """New names for a kernel's axes and temporaries, so that none of them is one of the other kernel's."""
    names = AxisNames(tuple(own_names(other)))
    return {name: names(name.rstrip("0123456789")) for name in own_names(kernel)}


def without_stores(stages: Sequence[Stage], buffers: Collection[str]) -> Stages:
    """`stores into the buffers, and stages of nothing else -> nothing`."""
    kept = (Stage(s.axes, tuple(o for o in s.outs if isinstance(o, Reduce) or o.buffer not in buffers)) for s in stages)
    return tuple(s for s in kept if s.outs)


def rows_apart(kernel: Loops, apart: int, first: Aff | None = None) -> Loops:
    """`row[e] -> row[e * apart + first]` for every scratch row, each `apart` times as long: the rows of so many points
    lie side by side."""
    own = {s.name for s in kernel.scratch}

    def moved(index: Aff | E) -> Aff | E:
        if isinstance(index, Aff):
            return index * apart + (first or 0)
        there = binary("mul", index, const(apart, "i32"))
        return there if first is None else there + axis(first)

    def value(buffer: str, indices: tuple, dtype: str) -> E | None:
        return load(buffer, (moved(indices[0]),), dtype) if buffer in own else None

    def out(o: Reduce | Store) -> Reduce | Store:
        o = replace(o, expr=rewrite(o.expr, lambda e: value(*e.attr, e.dtype) if e.op == "load" else None))
        return replace(o, indices=(moved(o.indices[0]),)) if isinstance(o, Store) and o.buffer in own else o

    if not own:
        return kernel
    stages = tuple(Stage(s.axes, tuple(map(out, s.outs))) for s in kernel.stages)
    scratch = tuple(replace(s, shape=(s.elements * apart,)) for s in kernel.scratch)
    return replace(kernel, stages=stages, scratch=scratch)
