"""Which part each axis of a contraction plays, and fewer axes where neighbours act as one.

What enters: a flattened `Contraction`. What leaves: its axes by role (`Roles`), or an equal kernel with fewer of them.
Both backends' contraction kernels begin here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from graphc.ir.frozen import frozen

from .expr import Aff, substitute_axes, walk
from .flat import FlatContraction
from .kernels import Access, Axis, Store


@frozen
class Roles:
    """`batch` axes are those that both operands know, `points` those that w does not know, `lanes` those of w alone;
    each in the kernel's order. `red` axes are summed over."""

    batch: tuple[Axis, ...]
    points: tuple[Axis, ...]
    lanes: tuple[Axis, ...]
    red: tuple[Axis, ...]


def roles(kernel: FlatContraction) -> Roles:
    x, w = kernel.x.indices[0], kernel.w.indices[0]
    in_w = [(a, e) for a, e in kernel.par if w.coef(a)]
    return Roles(
        tuple((a, e) for a, e in in_w if x.coef(a)),
        tuple((a, e) for a, e in kernel.par if not w.coef(a)),
        tuple((a, e) for a, e in in_w if not x.coef(a)),
        kernel.red,
    )


def without_single(kernel: FlatContraction) -> FlatContraction:
    """Axes of one iteration dropped. A reduction axis whose only block is incomplete ends early instead."""
    sizes = dict(kernel.par + kernel.red)
    gone = [a for a, e in sizes.items() if e == 1 and a != kernel.lanes]
    for s in kernel.splits:
        if s.outer in gone and s.inner in dict(kernel.red):
            sizes[s.inner] = s.valid(0)
    return _substituted(kernel, dict.fromkeys(gone, Aff()), {a: e for a, e in sizes.items() if a not in gone})


def joined(kernel: FlatContraction, apart: set[str]) -> FlatContraction:
    """rewrite: axes (a, b) -> b, where each use is a multiple of `extent(b) * a + b`. `apart` stay as they are."""
    blocks = {(s.outer, s.inner): s for s in kernel.splits}
    torn = {a for s in kernel.splits if s.partial for a in (s.outer, s.inner)}
    for axes, summed in ((kernel.par, False), (kernel.red, True)):
        for (a, _), (b, _) in pairwise(axes):
            sizes = dict(kernel.par + kernel.red)
            split = blocks.get((a, b)) if summed else None
            if a not in sizes or {a, b} & apart or (split is None and {a, b} & torn):
                continue
            uses = (kernel.x.indices[0], kernel.w.indices[0]) if summed else _uses(kernel)
            if all(u.coef(a) == u.coef(b) * sizes[b] for u in uses):
                count = sizes.pop(a)
                # a sum runs over the channels that exist; those lie together once the blocks are joined
                sizes[b] = split.extent if split else count * sizes[b]
                kernel = _substituted(kernel, {a: Aff()}, sizes)
    return kernel


def _substituted(kernel: FlatContraction, axes: Mapping[str, Aff], sizes: Mapping[str, int]) -> FlatContraction:
    """Axes replaced everywhere. `sizes` gives the extents of those that remain."""

    def store(s: Store) -> Store:
        valid = tuple((a.substitute(axes), lo, hi) for a, lo, hi in s.valid)
        return replace(s, indices=(s.indices[0].substitute(axes),), expr=substitute_axes(s.expr, axes), valid=valid)

    def access(a: Access) -> Access:
        return replace(a, indices=(a.indices[0].substitute(axes),))

    return replace(
        kernel,
        par=tuple((a, sizes[a]) for a, _ in kernel.par if a in sizes),
        red=tuple((a, sizes[a]) for a, _ in kernel.red if a in sizes),
        x=access(kernel.x),
        w=access(kernel.w),
        stores=tuple(store(s) for s in kernel.stores),
    )


def _uses(kernel: FlatContraction) -> list[Aff]:
    """Every affine form of the kernel: offsets, guards, clips, axis values."""
    out = [kernel.x.indices[0], kernel.w.indices[0]]
    for s in kernel.stores:
        out.append(s.indices[0])
        out += [aff for aff, _, _ in s.valid]
        for e in walk(s.expr):
            if e.op == "load":
                out += [i for i in e.attr[1] if isinstance(i, Aff)]
            elif e.op == "guard":
                out += [aff for aff, _, _ in e.attr]
            elif e.op == "axis":
                out.append(e.attr)
    return out
