"""Convolutions whose lanes run along the rows of the image: those with too few output channels to fill a vector.

What enters: a fused schedule. What leaves: the same, with such contractions turned, so that vectors of the image meet
broadcast weights. Their images and results stay plain.
"""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.schedule.expr import Aff
from graphc.schedule.kernels import Contraction, Kernel, Schedule, extents
from graphc.schedule.layout import BLOCK

FEW = BLOCK // 2  # output channels: with fewer, most lanes of a block would idle
LEAST = 8  # places in a row: with fewer, most lanes of a row would idle
SHORT = BLOCK  # multiply-adds of one result: with fewer, the time goes into the results' way to plain memory


def along_rows(schedule: Schedule) -> Schedule:
    """`image * weights lanes o -> weights * image lanes w`, by shapes and by whose the arrays are."""
    return schedule.replace(kernels=tuple(turned(k, schedule) for k in schedule.kernels))


def turned(kernel: Kernel, schedule: Schedule) -> Kernel:
    """The kernel with lanes along rows where that pays. An image that must be copied, since it has padding, or that the
    caller holds may as well lie plain; one output channel is a sum, made by loops, where it does not pay."""
    if not isinstance(kernel, Contraction) or kernel.kind != "conv2d":
        return kernel
    image, weights = (kernel.w, kernel.x) if kernel.along_rows else (kernel.x, kernel.w)
    row = row_axis(kernel, image.indices[3])
    channels = 1 if kernel.along_rows else extents(kernel)[kernel.lanes]
    places = {schedule.buffers[name].place for name in (image.buffer, *(s.buffer for s in kernel.stores))}
    callers, steps = places == {"input", "output"}, math.prod(n for _, n in kernel.red)
    window = math.prod(n for a, n in kernel.red if any(i.coef(a) for i in image.indices[2:]))
    blocks = schedule.traits.block > 1  # elsewhere lanes are threads, which read what lies anywhere
    if blocks and row and ((channels < FEW and (window > 1 or callers)) or (steps < SHORT and callers)):
        return replace(kernel, x=weights, w=image, lanes=row)
    return kernel.to_loops(schedule.buffers) if kernel.along_rows else kernel


def row_axis(kernel: Contraction, column: Aff) -> str | None:
    """The axis along the rows of the results, if they step through rows of the image one by one."""
    sizes = dict(kernel.par)
    axes = [a for a, coef in column.terms if coef == 1 and sizes.get(a, 0) >= LEAST]
    fits = axes and all(len(s.indices) == 4 and s.indices[3] == Aff.of(axes[0]) for s in kernel.stores)
    return axes[0] if fits else None
