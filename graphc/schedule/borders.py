"""Where guards flip: cutting the ranges of axes so that inside a piece every guard is decided.

What enters: a flat kernel whose lanes are chosen. What leaves: for each axis the points that divide its range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from .expr import Aff, Bound, walk
from .flat import FlatLoops
from .kernels import Stage, Store, extents

MAX_PIECES = 12
MAX_UNROLLED = 72  # iterations of unrolled stages in all pieces: a kernel with twice as many compiles for seconds
UNROLLED = 16  # a stage of at most so many iterations has no loops


def find_cuts(
    kernel: FlatLoops, vector: str | None, tile: str | None, rows: tuple[str | None, ...]
) -> dict[str, tuple[int, ...]]:
    """For each axis that has a loop, where some guard flips with the axes of unrolled stages at each of their values.
    With more than `MAX_PIECES` pieces, or `MAX_UNROLLED` iterations in them, only the interior, where all guards hold,
    is cut off."""
    sizes = extents(kernel)
    par = tuple(a for a, _ in kernel.par if a not in (vector, tile))
    exact: dict[str, set[int]] = {}
    interior: dict[str, set[int]] = {}
    for stage, row in zip(kernel.stages, rows, strict=True):
        unrolled = math.prod(e for _, e in stage.axes) <= UNROLLED
        steps = tuple(a for a, _ in stage.axes if a != row and not unrolled)
        for bound in _bounds(stage):
            # decided by a parallel axis if just one takes part, else by a loop of the stage
            mine = [a for a in par if bound[0].coef(a)] or [a for a in reversed(steps) if bound[0].coef(a)][:1]
            if len(mine) != 1:
                continue
            axis = mine[0]
            for found, values in ((exact, unrolled), (interior, False)):
                found.setdefault(axis, set()).update(_flips(bound, axis, sizes, values))
    cuts = {a: _inside(points, sizes[a]) for a, points in exact.items()}
    body = sum(n for s in kernel.stages if (n := math.prod(e for _, e in s.axes)) <= UNROLLED)
    most = min(MAX_PIECES, max(1, MAX_UNROLLED // max(body, 1)))
    if _count_pieces(par, sizes, cuts) > most:
        cuts = {a: _ends(_inside(points, sizes[a])) for a, points in interior.items()}
    while _count_pieces(par, sizes, cuts) > most:
        cuts[max(par, key=lambda a: len(cuts.get(a, ())))] = ()
    return {a: points for a, points in cuts.items() if points}


def pieces(extent: int, cuts: Sequence[int]) -> list[tuple[int, int, bool]]:
    """The range 0 .. extent-1 between its cuts: (first, stop, whether it is long). Inside a short piece, a border, no
    other axis is cut: what runs there is too little to be worth its own code."""
    ends = (0, *cuts, extent)
    return [(a, b, 4 * (b - a) >= extent) for a, b in pairwise(ends)]


def _count_pieces(axes: tuple[str, ...], sizes: Mapping[str, int], cuts: Mapping[str, tuple[int, ...]]) -> int:
    if not axes:
        return 1
    inner = _count_pieces(axes[1:], sizes, cuts)
    return sum(inner if long else 1 for _, _, long in pieces(sizes[axes[0]], cuts.get(axes[0], ())))


def _flips(bound: Bound, axis: str, sizes: Mapping[str, int], each: bool) -> Iterator[int]:
    """Values of `axis` at which lo <= aff < hi begins or ceases to hold; for `each` value of the other axes, else for
    all of them together."""
    aff, lo, hi = bound
    coef = aff.coef(axis)
    others = aff - Aff(0, ((axis, coef),))
    least, most = others.range(sizes)
    pairs = [(r, r) for r in range(least, most + 1)] if each and most - least <= UNROLLED else [(least, most)]
    for first, last in pairs:
        low, high = lo - first, hi - last
        if coef > 0:
            yield from (-(-low // coef), -(-high // coef))
        else:
            yield from (high // coef + 1, low // coef + 1)


def _inside(points: set[int], extent: int) -> tuple[int, ...]:
    return tuple(sorted(p for p in points if 0 < p < extent))


def _ends(points: tuple[int, ...]) -> tuple[int, ...]:
    """The longest gap between neighbours only: the interior."""
    return points if len(points) <= 2 else max(pairwise(points), key=lambda p: p[1] - p[0])


def _bounds(stage: Stage) -> dict[Bound, None]:
    """Each bound of the stage's guards and stores once."""
    guards = [e.attr for e in walk(*(o.expr for o in stage.outs)) if e.op == "guard"]
    valid = [o.valid for o in stage.outs if isinstance(o, Store)]
    return dict.fromkeys(bound for bounds in (*guards, *valid) for bound in bounds)
