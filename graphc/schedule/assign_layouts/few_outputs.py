"""Convolutions with too few output channels to fill a vector: lanes run along the rows of the image, or, where those do
not suit, along the channels that are summed.

What enters: a fused schedule. What leaves: the same, with such contractions turned. Along rows, vectors of the image
meet broadcast weights, and images and results stay plain. Along channels, both lie in blocks of what is summed.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.schedule.expr import Aff
from graphc.schedule.kernels import Access, AxisNames, Contraction, Kernel, Loops, Schedule, Stage, extents
from graphc.schedule.layout import BLOCK
from graphc.schedule.rewriting import rename, substitute

from .columns import column_by_column
from .taps import tap_by_tap

FEW = BLOCK // 2  # output channels: with fewer, most lanes of a block would idle
VERY_FEW = BLOCK // 4  # with fewer, to load two vectors for each multiply-add of lanes that are summed costs less
LEAST = 8  # places in a row, or in rows that follow each other: with fewer, most lanes would idle
IN_PARTS = tap_by_tap, column_by_column  # partial results and their sums, where results lie side by side, or apart
# Multiply-adds of one result: with fewer, the time goes into the results' way to plain memory, where neighbours along
# other lanes lie far apart. 27 and 36 of them, on maps of 9 to 224 places, take 0.22 to 0.93 of the time (AVX-512).
SHORT = 3 * BLOCK


def few_outputs(schedule: Schedule) -> Schedule:
    """`image * weights lanes o -> weights * image lanes w`, or `lanes c`, by shapes and by whose the arrays are."""
    if schedule.traits.block == 1:  # lanes are threads, which read what lies anywhere
        loops = (k.to_loops(schedule.buffers) if rows(k) else k for k in schedule.kernels)
        return schedule.replace(kernels=tuple(loops))
    buffers, kernels, names = dict(schedule.buffers), [], AxisNames(tuple(schedule.buffers))
    for k in schedule.kernels:
        conv = isinstance(k, Contraction) and k.kind == "conv2d"
        parts = (form(k, schedule, names) for form in IN_PARTS if conv)
        parted = next(filter(None, parts), None)
        if parted:
            found, added, between = parted
            kernels += (*found, added)
            buffers[between.name] = between
        else:
            kernels.append(turned(k, schedule))
    return schedule.replace(kernels=tuple(kernels), buffers=buffers)


def rows(kernel: Kernel) -> bool:
    return isinstance(kernel, Contraction) and kernel.along_rows


def turned(kernel: Kernel, schedule: Schedule) -> Kernel:
    """The kernel with the lanes that pay. An image that must be copied, since it has padding, or that the caller holds
    may as well lie plain; one output channel is a sum, made by loops, where neither pays."""
    if not isinstance(kernel, Contraction) or kernel.kind != "conv2d":
        return kernel
    image, weights = (kernel.w, kernel.x) if kernel.along_rows else (kernel.x, kernel.w)
    channels = 1 if kernel.along_rows else extents(kernel)[kernel.lanes]
    arrays = [schedule.buffers[name] for name in (image.buffer, *(s.buffer for s in kernel.stores))]
    callers, steps = {b.place for b in arrays} == {"input", "output"}, math.prod(n for _, n in kernel.red)
    row = row_axis(kernel, image, {b.shape[3:] for b in arrays} if callers else set())
    channel = channel_axis(kernel, image.indices[1])
    window = math.prod(n for a, n in kernel.red if any(i.coef(a) for i in image.indices[2:]))
    if row and ((channels < FEW and (window > 1 or callers)) or (steps < SHORT and callers)):
        return replace(kernel, x=weights, w=image, lanes=row)
    if channel and channels < VERY_FEW and window > 1:
        return replace(kernel, x=image, w=weights, lanes=channel)
    return kernel.to_loops(schedule.buffers) if kernel.along_rows else kernel


def row_axis(kernel: Contraction, image: Access, widths: set[tuple[int, ...]]) -> str | None:
    """The axis along the rows of the results, if they step through rows of the image one by one, which are long or go
    on in the next row: those of arrays of these `widths`, without margins, that are taken whole."""
    sizes = dict(kernel.par)
    axes = [a for a, coef in image.indices[3].terms if coef == 1 and a in sizes]
    if not axes or any(len(s.indices) != 4 or s.indices[3] != Aff.of(axes[0]) for s in kernel.stores):
        return None
    places = sizes[axes[0]]
    if image.indices[3] == Aff.of(axes[0]) and widths == {(places,)}:
        places *= max((sizes.get(a, 1) for a, coef in image.indices[2].terms if coef == 1), default=1)
    return axes[0] if places >= LEAST else None


def channel_axis(kernel: Contraction, channel: Aff) -> str | None:
    """The axis of whole blocks of channels that are summed."""
    sizes = dict(kernel.red)
    axes = [a for a, coef in channel.terms if coef == 1 and sizes.get(a, 1) % BLOCK == 0]
    return axes[0] if axes and all(coef % BLOCK == 0 for a, coef in channel.terms if a != axes[0]) else None


def as_sums(schedule: Schedule) -> Schedule:
    """Contractions whose lanes are summed as the loops that they are."""
    kernels = (as_sum(k, schedule) if isinstance(k, Contraction) and k.along_channels else k for k in schedule.kernels)
    return schedule.replace(kernels=tuple(kernels))


def as_sum(kernel: Contraction, schedule: Schedule) -> Loops:
    """One sum for each output channel, side by side, so that they share what is read of the image; just the loops where
    results lie in blocks of these channels, which are stored whole."""
    loops = kernel.to_loops(schedule.buffers)
    image, weights = ({a for i in access.indices for a in i.axes} for access in (kernel.x, kernel.w))
    apart = [(a, n) for a, n in kernel.par if a in weights - image]
    if not apart or any(schedule.buffers[s.buffer].layout.blocked_dims for s in kernel.stores):
        return loops
    ((axis, count),) = apart
    names = {o: {"acc": f"acc{o}"} for o in range(count)}
    copies = [[substitute(rename(s, names[o]), {axis: Aff(o)}) for s in loops.stages] for o in names]
    together = (Stage(of[0].axes, tuple(out for s in of for out in s.outs)) for of in zip(*copies, strict=True))
    return replace(loops, par=tuple(p for p in loops.par if p[0] != axis), stages=tuple(together))
