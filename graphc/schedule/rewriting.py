"""Rewriting of stages: other expressions, other names, other values for loads. Each gives new stages.

A contraction's epilogue is rewritten as the stage without axes that it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from .expr import Aff, E, loads, rewrite, substitute_axes, temp
from .kernels import AxisNames, Loops, Reduce, Stage, Store, extents, stage_expressions

Stages = tuple[Stage, ...]


def map_expressions(stage: Stage, rule: Callable[[E], E]) -> Stage:
    """Every expression `e` and computed index `-> rule(e)`."""
    outs: list[Reduce | Store] = []
    for o in stage.outs:
        if isinstance(o, Reduce):
            outs.append(replace(o, expr=rule(o.expr), index=None if o.index is None else rule(o.index)))
        else:
            at = tuple(rule(i) if isinstance(i, E) else i for i in o.indices)
            outs.append(Store(o.buffer, at, rule(o.expr)))
    return Stage(stage.axes, tuple(outs))


def replace_loads(stages: Iterable[Stage], value: Callable[[str, tuple], E | None]) -> Stages:
    """`load buffer[indices] -> value(buffer, indices)`, where that is not None."""
    memo: dict[E, E] = {}

    def rule(e: E) -> E | None:
        return value(*e.attr) if e.op == "load" else None

    return tuple(map_expressions(s, lambda root: rewrite(root, rule, memo)) for s in stages)


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
    outs = map_expressions(stage, lambda e: substitute_axes(e, axes)).outs
    return Stage(stage.axes, tuple(_substitute_indices(o, axes) for o in outs))


def _substitute_indices(out: Reduce | Store, axes: Mapping[str, Aff]) -> Reduce | Store:
    if isinstance(out, Reduce):
        return out
    return replace(out, indices=tuple(i.substitute(axes) if isinstance(i, Aff) else i for i in out.indices))


def rename(stage: Stage, names: Mapping[str, str]) -> Stage:
    """Axes, the stage's own included, and temporaries `-> names[...]`."""
    stage = substitute(stage, {a: Aff.of(b) for a, b in names.items()})

    def rule(e: E) -> E | None:
        base, dot, part = e.attr.partition(".") if e.op == "temp" else ("", "", "")
        return temp(names[base] + dot + part, e.dtype) if base in names else None

    outs = map_expressions(stage, lambda e: rewrite(e, rule)).outs
    outs = tuple(replace(o, name=names.get(o.name, o.name)) if isinstance(o, Reduce) else o for o in outs)
    return Stage(tuple((names.get(a, a), n) for a, n in stage.axes), outs)


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
