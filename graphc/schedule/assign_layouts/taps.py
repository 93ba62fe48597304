"""Convolutions with few output channels, tap by tap: products with the image as it lies, then sums of shifted results.

What enters: a contraction that needs a margin around its image. What leaves: contractions of window 1 whose outputs are
those of every place of the window, over the image as it lies, and loops that add, for each result, what its window
found. No copy of the image, with margins or by channels, is made, which takes a third of such a convolution's time or
more; instead there are a few loads for each result, behind a sum over all channels.

Letters: C channels, OH OW rows and columns of the results, KH KW of the window, H W of the image.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

from graphc.schedule.expr import Aff, const, guard, load
from graphc.schedule.kernels import (
    ACC,
    Access,
    Axis,
    AxisNames,
    Contraction,
    Loops,
    Reduce,
    Schedule,
    Stage,
    Store,
    extents,
)
from graphc.schedule.layout import BLOCK, Buffer

from .halos import margins

MOST = 3  # output channels: seven take 1.1 times as long as with margins
LARGEST = 1 << 17  # numbers found tap by tap: more go to memory and back; three channels of 112x112 take 1.15
LEAST = BLOCK  # channels that are summed: with fewer, adding the taps takes as long as to find them
STEP = 3  # from result to result along a row: so many times too many columns are computed
LEAST_COLUMNS = BLOCK // 2  # of the image: with fewer, most lanes of a row would idle
TapByTap = tuple[tuple[Contraction, ...], Loops, Buffer]


def tap_by_tap(kernel: Contraction, schedule: Schedule, names: AxisNames) -> TapByTap | None:
    """`out[h, w] = sum c, kh, kw: image[c, h+kh, w+kw] * weights[o, c, kh, kw]` as
    `taps[o, kh, kw, h, w] = sum c: image[c, h, w] * weights[o, c, kh, kw]`, then
    `out[h, w] = sum kh, kw: taps[o, kh, kw, h+kh, w+kw]`; and the buffer between them. None where that costs more.

    Where results lie further apart, `taps[o, kh, kw, oh, w]` has rows of results, and each row of the window a range of
    them in which it meets rows of the image."""
    image, weights = (kernel.w, kernel.x) if kernel.along_rows else (kernel.x, kernel.w)
    shape, sizes = schedule.buffers[image.buffer].shape, extents(kernel)
    places = {a for i in image.indices[2:] for a in i.axes}
    window = [(a, n) for a, n in kernel.red if a in places]
    summed = [(a, n) for a, n in kernel.red if a not in places]
    outputs = [(a, n) for a, n in kernel.par if a in {b for i in weights.indices for b in i.axes}]
    batch = [(a, n) for a, n in kernel.par if a in image.indices[0].axes]
    if len(summed) != 1 or image.indices[1] != Aff.of(summed[0][0]) or summed[0][1] < LEAST or shape[3] < LEAST_COLUMNS:
        return None
    steps = [i.coef(a) for i in image.indices[2:] for a, _ in kernel.par if a in i.axes]
    apart, many = any(s != 1 for s in steps), math.prod(n for _, n in outputs)
    if many > (1 if apart else MOST) or max(steps, default=1) > STEP:
        return None
    left = margins(kernel, "w" if kernel.along_rows else "x", schedule.buffers[image.buffer])
    bounds = tuple((image.indices[d], 0, shape[d]) for d in sorted(left) if d >= 2)
    number, count = Aff(), 1
    for axis, extent in reversed((*outputs, *window)):
        number, count = number + Aff.of(axis) * count, count * extent
    fresh = AxisNames(tuple(sizes))
    row, column = fresh("h"), fresh("w")
    ranges, rows, height = [{}], (row, shape[2]), shape[2]
    at = Aff.of(row)
    if apart:
        found = [(a, n) for a, n in kernel.par if a in image.indices[2].axes]
        if len(found) != 1:
            return None
        rows = found[0]
        at, height = Aff.of(rows[0]), rows[1]
        ranges = row_ranges(image.indices[2], rows, window, shape[2])
    if not bounds or count * height * shape[3] > LARGEST:
        return None
    taps = Buffer(names(f"{kernel.name}.taps"), (shape[0], count, height, shape[3]), image.dtype)
    first = Contraction(
        taps.name,
        kernel.kind,
        (*batch, *outputs, *window, rows, (column, shape[3])),
        tuple(summed),
        weights,
        Access(image.buffer, (*image.indices[:2], image.indices[2] if apart else at, Aff.of(column))),
        (Store(taps.name, (image.indices[0], number, at, Aff.of(column)), ACC),),
        column,
        kernel.scope,
    )
    place = at if apart else image.indices[2]
    shifted = guard(load(taps.name, (image.indices[0], number, place, image.indices[3])), const(0.0), bounds)
    stages = Stage(tuple(window), (Reduce("acc", "sum", shifted),)), Stage((), kernel.stores)
    then = Loops(kernel.name, kernel.par, stages, scope=kernel.scope)
    return tuple(within(first, r, k) for k, r in enumerate(ranges)), then, taps


def row_ranges(index: Aff, rows: Axis, window: list[Axis], height: int) -> list[dict[str, range]]:
    """The rows of results that meet the image, for every row of the window; those that follow each other and have the
    same results together."""
    (axis, extent), step = rows, index.coef(rows[0])
    tall = [(a, n) for a, n in window if a in index.axes]
    if not tall:
        return [{axis: valid(index.const, step, extent, height)}]
    ((k, n),) = tall
    met = [(i, valid(index.const + index.coef(k) * i, step, extent, height)) for i in range(n)]
    grouped = [(r, [i for i, _ in g]) for r, g in groupby(met, key=lambda item: item[1])]
    return [{axis: r, k: range(g[0], g[-1] + 1)} for r, g in grouped if r]


def valid(start: int, step: int, extent: int, height: int) -> range:
    """The i below `extent` for which start + step * i is a row of the image."""
    return range(max(0, -(start // step)), min(extent, (height - 1 - start) // step + 1))


def within(kernel: Contraction, ranges: dict[str, range], number: int) -> Contraction:
    """The contraction where some axes run through these values only."""
    if not ranges:
        return kernel
    moved = {a: Aff.of(a) + r.start for a, r in ranges.items()}
    par = tuple((a, len(ranges[a]) if a in ranges else n) for a, n in kernel.par)
    x, w = (Access(o.buffer, tuple(i.substitute(moved) for i in o.indices), o.dtype) for o in (kernel.x, kernel.w))
    stores = tuple(replace(s, indices=tuple(i.substitute(moved) for i in s.indices)) for s in kernel.stores)
    return replace(kernel, name=f"{kernel.name}.{number}", par=par, x=x, w=w, stores=stores)
