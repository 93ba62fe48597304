"""Which thread does what in a generic kernel: a few numbers, chosen from the kernel's shape alone.

What enters: a kernel in canonical form. What leaves: a `Mapping`. A block has P points of the parallel axes and W
workers for each, P * W threads. Where what is contiguous in memory lies along the stages (softmax, layer norm), the
workers of a point are neighbouring threads; where it lies along a parallel axis (column sums, pools), the points are.
Nothing here asks the target, so that every device sums in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping as Table
from dataclasses import replace

from graphc.ir.frozen import frozen
from graphc.schedule.canonical import coefficient, divisible, stage_accesses
from graphc.schedule.flat import FlatLoops
from graphc.schedule.kernels import Axis, Reduce, Stage
from graphc.schedule.layout import ITEMSIZE, Buffer

from ..values import WIDTH

WARP = 32
BUSY = 1 << 16  # threads that keep a device busy; with fewer, the work of one is cut smaller
LEAST_ROW = 8  # a shorter row is one thread's
MOST_WORKERS = 1024
KEPT = 8  # steps of a worker through a row that are written without a jump, so that what they load stays in registers
COLUMN_THREADS = 512
FEW_THREADS = 128  # fewer in a block, and a multiprocessor runs out of blocks before it is full
MANY_LOADS = 20  # of one point: enough to have under way without vectors, and vectors of more do not fit in registers
SHARED_BYTES = 48 << 10  # of scratch rows in a block, where fewer points can help it


@frozen
class Mapping:
    """`kernel`: its parallel axes and those of its stages in the order that threads run over them. A thread takes
    `width` neighbouring points along the last parallel axis; in stage k, `rows[k]` neighbouring iterations along the
    last of the stage's axes. `points` (each of `width`) by `workers` are a block; `across`: the workers of a point are
    neighbouring threads, else its points are."""

    kernel: FlatLoops
    width: int
    rows: tuple[int, ...]
    points: int
    workers: int
    across: bool

    @property
    def groups(self) -> int:
        """Points of the kernel, `width` of them counted as one."""
        return -(-math.prod(e for _, e in self.kernel.par) // self.width)

    @property
    def blocks(self) -> int:
        return -(-self.groups // self.points)

    @property
    def threads(self) -> int:
        return self.points * self.workers

    @property
    def resident(self) -> int:
        """Blocks that a multiprocessor is to hold: 1024 threads with 64 registers each, or 512 where a thread keeps
        more than 16 elements of a row."""
        stages = zip(self.kernel.stages, self.rows, strict=True)
        steps = [(-(-iterations(s) // (row * self.workers)), row) for s, row in stages]
        kept = max((step * row for step, row in steps if step <= KEPT), default=0)
        return max(1, (512 if kept > 16 else 1024) // self.threads)


def choose(kernel: FlatLoops, buffers: Table[str, Buffer]) -> Mapping:
    """The mapping of a kernel in canonical form."""
    column, axis = max(((_votes(kernel, buffers, kernel.stages, a), a[0]) for a in kernel.par), default=(0.0, ""))
    found = [_row(kernel, buffers, s) for s in kernel.stages]
    longest = max(iterations(s) for s in kernel.stages)
    if sum(score for score, _ in found) > column and longest >= LEAST_ROW:
        return _along_rows(kernel, tuple(a for _, a in found))
    if column and longest > 1:  # else in the order of the stores
        kernel = replace(kernel, par=tuple(sorted(kernel.par, key=lambda x: x[0] == axis)))
    return _along_columns(kernel, longest)


def iterations(stage: Stage) -> int:
    return math.prod(e for _, e in stage.axes)


def _row(kernel: FlatLoops, buffers: Table[str, Buffer], stage: Stage) -> tuple[float, str]:
    """The best of a stage's own axes to have neighbouring threads along, and its votes."""
    long = [a for a in stage.axes if a[1] >= LEAST_ROW]
    return max(((_votes(kernel, buffers, (stage,), a), a[0]) for a in long), default=(0.0, ""))


def _votes(kernel: FlatLoops, buffers: Table[str, Buffer], stages: tuple[Stage, ...], axis: Axis) -> float:
    """How much of the kernel's traffic has unit stride along an axis: bytes moved, times the share of a warp that
    the axis fills. Tables and scratch rows do not vote."""
    name, extent = axis
    own = {b.name for b in kernel.scratch}
    total = math.prod(e for _, e in kernel.par)
    share = extent / (WARP * -(-extent // WARP))
    moved = 0
    for stage in stages:
        for buffer, index, _ in stage_accesses(stage):
            if buffer not in own and buffers[buffer].place != "const" and coefficient(index, name) == 1:
                moved += total * iterations(stage) * ITEMSIZE[buffers[buffer].dtype]
    return moved * share


def _along_rows(kernel: FlatLoops, rows: tuple[str, ...]) -> Mapping:
    """Workers fastest: a row is one warp's or several warps', by its length and by how many rows there are."""
    stages = tuple(_row_last(s, a) for s, a in zip(kernel.stages, rows, strict=True))
    kernel = replace(kernel, stages=stages)
    widths = tuple(_row_width(s) for s in stages)
    total = math.prod(e for _, e in kernel.par)
    steps = max(-(-iterations(s) // w) for s, w in zip(stages, widths, strict=True))
    if steps <= 2 * WARP or (steps <= KEPT * WARP and 2 * total * WARP >= BUSY):
        workers = min(WARP, power(steps))  # no barrier of the block
    else:
        workers = min(MOST_WORKERS, power(-(-steps // (1 if total * steps < 4 * BUSY else 4))))
    points = max(-(-WARP // workers), min(FEW_THREADS // workers, power(total)))
    return _fitting(Mapping(kernel, 1, widths, points, workers, True))


def _row_last(stage: Stage, axis: str) -> Stage:
    """The contiguous axis last, but for argmax, where the order of the axes decides ties."""
    if any(isinstance(o, Reduce) and o.op == "argmax" for o in stage.outs):
        return stage
    return replace(stage, axes=tuple(sorted(stage.axes, key=lambda x: x[0] == axis)))


def _along_columns(kernel: FlatLoops, longest: int) -> Mapping:
    """Points fastest. One worker a point where there are points enough, as in elementwise kernels and pools."""
    total, ones = math.prod(e for _, e in kernel.par), (1,) * len(kernel.stages)
    width, whole = 1, total % WIDTH == 0  # an incomplete vector is for kernels of one worker
    if kernel.par and not kernel.scratch and _par_width(kernel):
        most = max(1, longest // 4) if whole else 1  # workers that could share a point
        width = WIDTH if longest < LEAST_ROW or total // WIDTH * most >= BUSY // 2 else 1
    groups, workers = -(-total // width), 1
    while groups * workers < BUSY and (width == 1 or whole):
        if longest < (8 if 8 * groups * workers < BUSY else 16) * workers:
            break  # each would have too little to do
        workers *= 2
    if workers == 1 and not kernel.scratch:
        points = 256 if groups >= 2 * BUSY else 128 if groups >= BUSY // 4 else 64
        return Mapping(kernel, width, ones, points, 1, False)
    points = min(max(WARP // width, FEW_THREADS // workers), power(groups))
    workers = max(min(workers, COLUMN_THREADS // points), WARP // points)
    return _fitting(Mapping(kernel, width, ones, points, workers, False))


def _fitting(mapping: Mapping) -> Mapping:
    """Fewer points in a block, while their scratch rows take too much of its shared memory."""
    bytes_ = sum(b.bytes for b in mapping.kernel.scratch)
    points, workers = mapping.points, mapping.workers
    while points > 1 and points * bytes_ > SHARED_BYTES:
        points //= 2
        workers = max(workers, WARP // points)
    return replace(mapping, points=points, workers=workers)


def _par_width(kernel: FlatLoops) -> bool:
    """Whether vectors along the last parallel axis are worth it: they then begin at multiples of their width."""
    (axis, extent), single = kernel.par[-1], len(kernel.par) == 1
    most = max(len({e for e in stage_accesses(s)}) for s in kernel.stages)
    return (extent % WIDTH == 0 or single) and most <= MANY_LOADS and _mostly_aligned(kernel.stages, axis)


def _row_width(stage: Stage) -> int:
    """Neighbouring iterations of a stage that a worker takes."""
    if not stage.axes:
        return 1
    axis, extent = stage.axes[-1]
    fits = extent % WIDTH == 0 or (len(stage.axes) == 1 and extent >= 2 * WARP)
    return WIDTH if fits and _mostly_aligned((stage,), axis) else 1


def _mostly_aligned(stages: tuple[Stage, ...], axis: str) -> bool:
    """Whether more of the accesses that have unit stride along `axis` begin at multiples of the width than not."""
    balance = 0
    for stage in stages:
        for _, index, _ in stage_accesses(stage):
            if coefficient(index, axis) == 1:
                balance += 1 if divisible(index, WIDTH, {axis: WIDTH}) else -1
    return balance > 0


def power(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()
