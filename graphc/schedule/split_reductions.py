"""Long reductions with few results are cut into partial ones, so that threads have something to share.

Channel sums (batch statistics, bias gradients) have a handful of results and a long way to each. By shape alone, never
by the number of threads, the outermost reduced axis is cut into chunks: one kernel makes a partial result for every
chunk, a second one puts the chunks together in order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from .expr import Aff, load, substitute_axes, temp
from .kernels import Kernel, Loops, Reduce, Schedule, Stage, Store, extents
from .layout import Buffer
from .traits import Traits

LEAST = 1 << 15  # a shorter reduction is not worth a second kernel


def split_reductions(schedule: Schedule) -> Schedule:
    """`r = sum over (n, ...)` -> `P[q] = sum over (part q of n, ...)`, then `r = sum over q of P[q]`."""
    partials: dict[str, Buffer] = {}
    kernels: list[Kernel] = []
    for kernel in schedule.kernels:
        if (chunks := chunks_of(kernel, schedule.traits)) == 1:
            kernels.append(kernel)
            continue
        partial = Buffer(f"partial{len(partials)}", (chunks, *(n for _, n in kernel.par)), reduction(kernel).expr.dtype)
        partials[partial.name] = partial
        kernels += halves(kernel, partial)
    return schedule.replace(kernels=tuple(kernels), buffers={**schedule.buffers, **partials}) if partials else schedule


def reduction(kernel: Loops) -> Reduce:
    """What the first stage of a kernel that is to be cut computes."""
    (out,) = kernel.stages[0].outs
    return out


def chunks_of(kernel: Kernel, traits: Traits) -> int:
    """Into how many chunks to cut a kernel's reduction, 1 for none: a divisor of its outermost axis."""
    if not isinstance(kernel, Loops) or len(kernel.stages) != 2 or kernel.stages[1].axes:
        return 1
    stage = kernel.stages[0]
    if len(stage.outs) != 1 or not isinstance(stage.outs[0], Reduce) or stage.outs[0].op == "argmax":
        return 1
    points = math.prod(n for _, n in kernel.par)
    units = -(-points // traits.lanes)
    if units >= traits.units or math.prod(extents(kernel).values()) < LEAST or not outermost(kernel):
        return 1
    extent = stage.axes[0][1]
    return max(d for d in range(1, min(traits.units // units, extent) + 1) if extent % d == 0)


def outermost(kernel: Loops) -> bool:
    """Whether the first reduced axis runs over the first dimension of what is read. A reduction along rows is not cut:
    rows are many, and what reads them next shares their kernel."""
    axis = kernel.stages[0].axes[0][0]
    for e in kernel.loads:
        first = next((i for i in e.attr[1] if isinstance(i, Aff) and i.terms), None)
        if first is not None and axis in first.axes:
            return True
    return False


def halves(kernel: Loops, partial: Buffer) -> tuple[Loops, Loops]:
    """The kernel of partial results, and the one that combines them and does what followed."""
    stage, last = kernel.stages
    out = reduction(kernel)
    (axis, extent), *rest = stage.axes
    chunk = (f"{axis}_chunk", partial.shape[0])
    at = tuple(Aff.of(a) for a, _ in (chunk, *kernel.par))
    size = extent // partial.shape[0]
    kept = ((axis, size),) if size > 1 else ()
    whole = {axis: at[0] * size + (Aff.of(axis) if kept else 0)}
    part = Stage((*kept, *rest), (replace(out, expr=substitute_axes(out.expr, whole)),))
    put = Stage((), (Store(partial.name, at, temp(out.name, out.expr.dtype)),))
    together = Stage((chunk,), (replace(out, expr=load(partial.name, at, out.expr.dtype)),))
    return (
        replace(kernel, name=f"{kernel.name}.partial", par=(chunk, *kernel.par), stages=(part, put)),
        replace(kernel, stages=(together, last)),
    )
