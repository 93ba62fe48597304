"""Convolutions with few output channels, tap by tap: products with the image as it lies, then sums of shifted results.

What enters: a contraction that needs a margin around its image. What leaves: contractions of window 1 whose outputs are
those of every place of the window, over the image as it lies, and loops that add, for each result, what its window
found. No copy of the image, with margins or by channels, is made, which takes a third of such a convolution's time or
more; instead there are a few loads for each result, behind a sum over all channels.

Letters: C channels, OH OW rows and columns of the results, KH KW of the window, H W of the image.
"""

from __future__ import annotations

import math

from graphc.schedule.expr import Aff, const, guard, load
from graphc.schedule.kernels import (
    ACC,
    Access,
    AxisNames,
    Contraction,
    Kernel,
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
LEAST_PLACES = BLOCK // 2  # in a row of the image, or in all rows of the caller's: with fewer, most lanes would idle
Parted = tuple[tuple[Kernel, ...], Loops, Buffer]  # what finds partial results, what adds them, where they lie


def tap_by_tap(kernel: Contraction, schedule: Schedule, names: AxisNames) -> Parted | None:
    """`out[h, w] = sum c, kh, kw: image[c, h+kh, w+kw] * weights[o, c, kh, kw]` as
    `taps[o, kh, kw, h, w] = sum c: image[c, h, w] * weights[o, c, kh, kw]`, then
    `out[h, w] = sum kh, kw: taps[o, kh, kw, h+kh, w+kw]`; and the buffer between them. None where that costs more."""
    image, weights = (kernel.w, kernel.x) if kernel.along_rows else (kernel.x, kernel.w)
    source, sizes = schedule.buffers[image.buffer], extents(kernel)
    shape = source.shape
    places = {a for i in image.indices[2:] for a in i.axes}
    window = [(a, n) for a, n in kernel.red if a in places]
    summed = [(a, n) for a, n in kernel.red if a not in places]
    outputs = [(a, n) for a, n in kernel.par if a in {b for i in weights.indices for b in i.axes}]
    batch = [(a, n) for a, n in kernel.par if a in image.indices[0].axes]
    if len(summed) != 1 or image.indices[1] != Aff.of(summed[0][0]) or summed[0][1] < LEAST:
        return None
    if math.prod(shape[2:] if source.place == "input" else shape[3:]) < LEAST_PLACES:
        return None
    steps = [i.coef(a) for i in image.indices[2:] for a, _ in kernel.par if a in i.axes]
    if any(s != 1 for s in steps) or math.prod(n for _, n in outputs) > MOST:
        return None
    left = margins(kernel, "w" if kernel.along_rows else "x", source)
    bounds = tuple((image.indices[d], 0, shape[d]) for d in sorted(left) if d >= 2)
    number, count = Aff(), 1
    for axis, extent in reversed((*outputs, *window)):
        number, count = number + Aff.of(axis) * count, count * extent
    fresh = AxisNames(tuple(sizes))
    row, column = fresh("h"), fresh("w")
    if not bounds or count * math.prod(shape[2:]) > LARGEST:
        return None
    taps = Buffer(names(f"{kernel.name}.taps"), (shape[0], count, *shape[2:]), image.dtype)
    first = Contraction(
        taps.name,
        kernel.kind,
        (*batch, *outputs, *window, (row, shape[2]), (column, shape[3])),
        tuple(summed),
        weights,
        Access(image.buffer, (*image.indices[:2], Aff.of(row), Aff.of(column))),
        (Store(taps.name, (image.indices[0], number, Aff.of(row), Aff.of(column)), ACC),),
        column,
        kernel.scope,
    )
    shifted = guard(load(taps.name, (image.indices[0], number, *image.indices[2:])), const(0.0), bounds)
    stages = Stage(tuple(window), (Reduce("acc", "sum", shifted),)), Stage((), kernel.stores)
    then = Loops(kernel.name, kernel.par, stages, scope=kernel.scope)
    return (first,), then, taps
