"""Long reductions with few results are cut into partial ones, so that threads have something to share.

Channel sums (batch statistics, bias gradients) have a handful of results and a long way to each. By shape alone, never
by the number of threads, the outermost reduced axis is cut into chunks: one kernel makes a partial result for every
chunk, a second one puts the chunks together in order.
"""

from __future__ import annotations

import math

from .expr import Aff, load, substitute_axes, temp
from .kernels import Kernel, Loops, Reduce, Schedule, Stage, Store, extents
from .layout import Buffer

UNITS = 64  # enough for any number of threads that small kernels are worth
LANES = 16  # results that one unit makes side by side
LEAST = 1 << 15  # a shorter reduction is not worth a second kernel


def split_reductions(schedule: Schedule) -> Schedule:
    """`r = sum over (n, ...)` -> `P[q] = sum over (part q of n, ...)`, then `r = sum over q of P[q]`."""
    buffers, kernels = dict(schedule.buffers), []
    for kernel in schedule.kernels:
        chunks = chunks_of(kernel, schedule)
        if chunks > 1:
            kernels += halves(kernel, chunks, buffers)
        else:
            kernels.append(kernel)
    same = len(kernels) == len(schedule.kernels)
    return schedule if same else schedule.replace(kernels=tuple(kernels), buffers=buffers)


def chunks_of(kernel: Kernel, schedule: Schedule) -> int:
    """Into how many chunks to cut a kernel's reduction, 1 for none: a divisor of its outermost axis."""
    if not isinstance(kernel, Loops) or len(kernel.stages) != 2 or kernel.stages[1].axes:
        return 1
    stage = kernel.stages[0]
    if len(stage.outs) != 1 or not isinstance(stage.outs[0], Reduce) or stage.outs[0].op == "argmax":
        return 1
    points = math.prod(n for _, n in kernel.par)
    units = -(-points // LANES)
    if units >= UNITS or math.prod(extents(kernel).values()) < LEAST or not outermost(kernel):
        return 1
    extent = stage.axes[0][1]
    return max(d for d in range(1, min(UNITS // units, extent) + 1) if extent % d == 0)


def outermost(kernel: Loops) -> bool:
    """Whether the first reduced axis runs over the first dimension of what is read. A reduction along rows is not cut:
    rows are many, and what reads them next shares their kernel."""
    axis = kernel.stages[0].axes[0][0]
    for e in kernel.loads:
        first = next((i for i in e.attr[1] if isinstance(i, Aff) and i.terms), None)
        if first is not None and axis in first.axes:
            return True
    return False


def halves(kernel: Loops, chunks: int, buffers: dict[str, Buffer]) -> tuple[Loops, Loops]:
    """The kernel of partial results, and the one that combines them and does what followed."""
    stage, last = kernel.stages
    out = stage.outs[0]
    (axis, extent), *rest = stage.axes
    number = sum(name.startswith("partial") for name in buffers)
    name, chunk = f"partial{number}", f"{axis}_chunk"
    buffers[name] = Buffer(name, (chunks, *(n for _, n in kernel.par)), out.expr.dtype)
    at = (Aff.of(chunk), *(Aff.of(a) for a, _ in kernel.par))
    size = extent // chunks
    kept = ((axis, size),) if size > 1 else ()
    whole = {axis: Aff.of(chunk) * size + (Aff.of(axis) if kept else 0)}
    part = Reduce(out.name, out.op, substitute_axes(out.expr, whole))
    partial = Loops(
        f"{kernel.name}.partial",
        ((chunk, chunks), *kernel.par),
        (
            Stage((*kept, *rest), (part,)),
            Stage((), (Store(name, at, temp(out.name, out.expr.dtype)),)),
        ),
        scope=kernel.scope,
    )
    together = Stage(((chunk, chunks),), (Reduce(out.name, out.op, load(name, at, out.expr.dtype)),))
    return partial, Loops(kernel.name, kernel.par, (together, last), scope=kernel.scope)
