"""Long reductions with few results are cut into partial ones, so that threads have something to share.

Channel sums (batch statistics, bias gradients) have a handful of results and a long way to each. By shape alone, never
by the number of threads, the outermost reduced axis is cut into chunks: one kernel makes a partial result for every
chunk, a second one puts the chunks together in order. Where chains of kernels can share a cache, images are cut into
rows as well: the kernel that makes them can then sum them up while they are near (`block`).
"""

from __future__ import annotations

import math
from dataclasses import replace

from .expr import Aff, load, substitute_axes, temp
from .kernels import Axis, Kernel, Loops, Reduce, Schedule, Stage, Store, extents
from .layout import Buffer
from .traits import Traits

LEAST = 1 << 15  # a shorter reduction is not worth a second kernel
ROWS = 4  # of an image in a chunk: as many as a row of filtered tiles has
CHUNK = 16  # values in a chunk of rows, at least


def split_reductions(schedule: Schedule) -> Schedule:
    """`r = sum over (n, ...)` -> `P[q] = sum over (part q of n, ...)`, then `r = sum over q of P[q]`."""
    partials: dict[str, Buffer] = {}
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        if not (chunks := chunks_of(kernel, schedule.traits)):
            kernels.append(kernel)
            continue
        shape = (*chunks, *(n for _, n in kernel.par))
        partial = Buffer(f"partial{len(partials)}", shape, reduction(kernel).expr.dtype)
        partials[partial.name] = partial
        kernels += halves(kernel, partial, chunks)
    return schedule.replace(kernels=tuple(kernels), buffers={**schedule.buffers, **partials}) if partials else schedule


def reduction(kernel: Loops) -> Reduce:
    """What the first stage of a kernel that is to be cut computes."""
    (out,) = kernel.stages[0].outs
    return out


def chunks_of(kernel: Kernel, traits: Traits) -> tuple[int, ...]:
    """Into how many chunks to cut the first axes of a kernel's reduction, divisors of their extents; none where it
    stays whole."""
    if not isinstance(kernel, Loops) or len(kernel.stages) != 2 or kernel.stages[1].axes:
        return ()
    stage = kernel.stages[0]
    if len(stage.outs) != 1 or not isinstance(stage.outs[0], Reduce) or stage.outs[0].op == "argmax":
        return ()
    points = math.prod(n for _, n in kernel.par)
    units = -(-points // traits.lanes)
    if units >= traits.units or math.prod(extents(kernel).values()) < LEAST or not outermost(kernel):
        return ()
    if traits.in_step and (rows := _rows(stage.axes)):
        return rows
    extent = stage.axes[0][1]
    most = max(d for d in range(1, min(traits.units // units, extent) + 1) if extent % d == 0)
    return (most,) if most > 1 else ()


def _rows(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    """Every image for itself, in chunks of `ROWS` rows where its height is a multiple; none where these are short."""
    if len(axes) != 3:
        return ()
    images, height, width = (n for _, n in axes)
    rows = ROWS if height % ROWS == 0 else height
    if images == 1 or rows * width < CHUNK:
        return ()
    return (images, height // rows) if rows < height else (images,)


def outermost(kernel: Loops) -> bool:
    """Whether the first reduced axis runs over the first dimension of what is read. A reduction along rows is not cut:
    rows are many, and what reads them next shares their kernel."""
    axis = kernel.stages[0].axes[0][0]
    for e in kernel.loads:
        first = next((i for i in e.attr[1] if isinstance(i, Aff) and i.terms), None)
        if first is not None and axis in first.axes:
            return True
    return False


def halves(kernel: Loops, partial: Buffer, chunks: tuple[int, ...]) -> tuple[Loops, Loops]:
    """The kernel of partial results, and the one that combines them and does what followed."""
    stage, last = kernel.stages
    out = reduction(kernel)
    cut, kept, whole = [], [], {}
    for (axis, extent), many in zip(stage.axes, chunks, strict=False):
        size = extent // many
        cut.append((f"{axis}_chunk", many))
        kept += [(axis, size)] if size > 1 else []
        whole[axis] = Aff.of(cut[-1][0]) * size + (Aff.of(axis) if size > 1 else 0)
    kept += stage.axes[len(chunks) :]
    at = tuple(Aff.of(a) for a, _ in (*cut, *kernel.par))
    part = Stage(tuple(kept), (replace(out, expr=substitute_axes(out.expr, whole)),))
    put = Stage((), (Store(partial.name, at, temp(out.name, out.expr.dtype)),))
    together = Stage(tuple(cut), (replace(out, expr=load(partial.name, at, out.expr.dtype)),))
    return (
        replace(kernel, name=f"{kernel.name}.partial", par=(*cut, *kernel.par), stages=(part, put)),
        replace(kernel, stages=(together, last)),
    )
