"""The normal form of a `Loops` for a processor with vectors and threads.

What enters: a kernel and the buffers it names. What leaves: a `Nest`: the kernel in its canonical form, the axis that
vector lanes run along, the cut into units, and the points where a border's guards flip. All of it follows from the
kernel's shape alone, never from the target: the order of every reduction is fixed here, so results have the same bits
for any vector width and any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphc.ir.frozen import frozen

from .borders import UNROLLED, find_cuts
from .canonical import canonical, coefficient, find_tile, stage_accesses
from .expr import E, is_arithmetic, walk
from .flat import Buffers, FlatLoops
from .kernels import Axis, Loops, Reduce, Stage, extents
from .normal import flatten
from .scalar import DEAR, waits

VIRTUAL_LANES = 64  # a reduction along a row keeps this many partial results, then halves them
LANES_TOGETHER = 96  # of all reductions of a stage: twelve of 16 registers of 8 lanes
LANES = 16  # the widest vector, for choosing axes
MIN_PARALLEL, MIN_ROW = 4, 8  # an axis shorter than this is not worth vectors
UNITS = 256  # units wanted
UNIT_ITERATIONS = 8192  # and the work below which a unit is not cut further: results of iterations
SCRATCH_BYTES = 64 << 10  # all scratch rows of a kernel together, on the stack


@frozen
class Nest:
    """A kernel ready to emit.

    Unit u of `units` fixes the first `grid` axes of `kernel.par` and takes `chunk` values of the axis after them (all
    of it if chunk is its extent; the last unit along it may have fewer). `vector` is the parallel axis that lanes run
    along, the last one of `par` (beside `tile`), or None; then `rows` names for each stage the inner axis that they
    run along, always the last one of the stage, or None. `cuts`: for an axis, the points that divide its range so that
    guards are decided inside the pieces. `tile`: the parallel axis beside `vector` that some load has unit stride
    along, where along `vector` it would be a gather: the two are walked in tiles that are transposed in registers.
    """

    kernel: FlatLoops
    grid: int
    chunk: int
    units: int
    vector: str | None
    rows: tuple[str | None, ...]
    cuts: Mapping[str, tuple[int, ...]]
    tile: str | None = None

    def sets(self, stage: Stage) -> int:
        """How many sets of partial results a stage keeps; iteration e of its innermost loop (the row axis not counted)
        goes to set e mod sets. They meet by halving."""
        row = self.rows[self.kernel.stages.index(stage)]
        loops = [extent for a, extent in stage.axes if a != row]
        if any(isinstance(o, Reduce) and o.op == "argmax" for o in stage.outs):
            return 1
        if row is not None:
            wanted = _lanes_kept(stage) // self.width(stage)
            return wanted if loops and loops[-1] >= wanted else 1
        wanted = max(1, _lanes_kept(stage) // LANES)
        side_by_side = self.vector is not None and extents(self.kernel)[self.vector] >= VIRTUAL_LANES
        return wanted if math.prod(loops) > UNROLLED and loops[-1] >= wanted and not side_by_side else 1

    def width(self, stage: Stage) -> int:
        """Virtual lanes along the stage's row axis: 16, 32 or 64. Element e belongs to lane e mod width."""
        extent = dict(stage.axes)[self.rows[self.kernel.stages.index(stage)]]
        kept = _lanes_kept(stage)
        return next((w for w in (16, 32) if extent <= w < kept), kept)


def _lanes_kept(stage: Stage) -> int:
    """Virtual lanes of each reduction: fewer where several reductions share the registers, or where one value takes
    so long that a few chains are enough."""
    reductions = [o for o in stage.outs if isinstance(o, Reduce)]
    kept = VIRTUAL_LANES
    while kept > LANES and kept * len(reductions) > LANES_TOGETHER:
        kept //= 2
    return max(LANES, kept >> waits(DEAR, *(o.expr for o in reductions)))


def normalise(kernel: Loops | Nest, buffers: Buffers, steps: int = 0) -> Nest:
    """`Loops` -> `Nest`. The first `steps` parallel axes stay first and by themselves: each of their points
    is a unit."""
    if isinstance(kernel, Nest):
        return kernel
    flat = flatten(kernel, buffers)
    room = sum(b.bytes for b in flat.scratch)
    if room > SCRATCH_BYTES:
        raise ValueError(
            f"kernel {flat.name}: its scratch rows take {room} bytes, more than {SCRATCH_BYTES}\n"
            "  put such a row into an arena buffer, or compute its elements again"
        )
    fixed = frozenset(a for a, _ in flat.par[:steps])
    flat = canonical(flat, buffers, fixed)
    vector, rows = choose_vectors(flat, buffers, fixed)
    tile = find_tile(flat, vector, MIN_PARALLEL, fixed)
    flat = innermost(flat, vector, tile, rows)
    fixed = [n for a, n in flat.par if a in fixed]
    grid, chunk, units = stepped(flat, fixed) if steps else partition(flat, vector, tile)
    return Nest(flat, grid, chunk, units, vector, rows, find_cuts(flat, vector, tile, rows), tile)


def choose_vectors(
    kernel: FlatLoops, buffers: Buffers, fixed: frozenset[str] = frozenset()
) -> tuple[str | None, tuple[str | None, ...]]:
    """(vector axis, row axis of each stage): lanes along a parallel axis, or along an inner axis of each stage.

    Among axes with unit stride in some access the one with the most accesses wins: iterations of the access, times 3
    for a store and 2 for a load, times the share of lanes that a vector of 16 would use. Tables do not vote.
    """
    own = {b.name: b for b in kernel.scratch}
    total = math.prod(e for _, e in kernel.par)

    def votes(stage: Stage, candidate: str, extent: int) -> float:
        iterations = total * math.prod(e for _, e in stage.axes)
        share = extent / (LANES * -(-extent // LANES))
        weights = [
            3 if is_store else 2
            for name, index, is_store in stage_accesses(stage)
            if coefficient(index, candidate) == 1 and (own.get(name) or buffers[name]).place != "const"
        ]
        return iterations * share * sum(weights)

    def best(axes: tuple[Axis, ...], stages: tuple[Stage, ...], least: int) -> tuple[float, str | None]:
        scores = [(sum(votes(s, a, e) for s in stages), a) for a, e in axes if e >= least]
        return max(scores, key=lambda s: s[0], default=(0.0, None))

    # a row for each lane must fit on the stack
    roomy = sum(b.bytes for b in kernel.scratch) * LANES <= SCRATCH_BYTES
    par = tuple(x for x in kernel.par if x[0] not in fixed)
    lane_score, vector = best(par, kernel.stages, MIN_PARALLEL) if roomy else (0.0, None)
    found = [best(s.axes, (s,), MIN_ROW) if _rows_allowed(s) else (0.0, None) for s in kernel.stages]
    row_score = sum(score for score, _ in found)
    if lane_score >= row_score and lane_score > 0:
        return vector, (None,) * len(found)
    if row_score > 0:
        return None, tuple(a if score > 0 else None for score, a in found)
    # no unit stride anywhere: gathers along the longest parallel axis still share the arithmetic, if there is any
    moves = not any(map(is_arithmetic, walk(*(o.expr for s in kernel.stages for o in s.outs))))
    longest = max(() if moves else par, key=lambda x: x[1], default=("", 0))
    return (longest[0] if roomy and longest[1] >= MIN_ROW else None), (None,) * len(found)


def innermost(kernel: FlatLoops, vector: str | None, tile: str | None, rows: tuple[str | None, ...]) -> FlatLoops:
    """The axes that lanes run along go last; of a tile's two the longer one comes first, so that it can be cut."""
    last = sorted(((e, a) for a, e in kernel.par if tile and a in (vector, tile)), reverse=True)
    order = {a: 1 + k for k, (_, a) in enumerate(last)} or {vector: 1}
    par = tuple(sorted(kernel.par, key=lambda x: order.get(x[0], 0)))
    stages = tuple(
        Stage(tuple(sorted(s.axes, key=lambda x, row=row: x[0] == row)), s.outs)
        for s, row in zip(kernel.stages, rows, strict=True)
    )
    return replace(kernel, par=par, stages=stages)


def stepped(kernel: FlatLoops, steps: Sequence[int]) -> tuple[int, int, int]:
    """As `partition`, of a kernel whose first axes are steps: one unit each."""
    following = kernel.par[len(steps)][1] if len(steps) < len(kernel.par) else 1
    return len(steps), following, math.prod(steps)


def partition(kernel: FlatLoops, vector: str | None, tile: str | None) -> tuple[int, int, int]:
    """(grid, chunk, units): leading axes are taken whole until there are enough units, the next one in chunks.

    The vector axis is cut at multiples of the virtual lanes, and not at all where it is one block.
    """
    inner = sum(math.prod(e for _, e in s.axes) * len(s.outs) for s in kernel.stages)
    work, units = inner * math.prod(e for _, e in kernel.par), 1
    for grid, (axis, extent) in enumerate(kernel.par):
        work //= extent  # of one value of this axis
        at_least = -(-UNIT_ITERATIONS // max(work, 1))
        chunk = max(1, extent * units // UNITS, at_least)
        if axis in (tile, vector):
            # column sums need many vectors side by side, a tile has just one
            step = LANES if tile else VIRTUAL_LANES if work <= UNROLLED else 2 * VIRTUAL_LANES
            chunk = -(-chunk // step) * step
        if chunk > 1 or grid == len(kernel.par) - 1:
            chunk = min(chunk, extent)
            return grid, chunk, units * -(-extent // chunk)
        units *= extent
        if units >= UNITS:
            following = kernel.par[grid + 1][1]
            return grid + 1, following, units
    return 0, 1, 1


def _rows_allowed(stage: Stage) -> bool:
    """Lanes along a stage's own axis meet in no order; for argmax, ties are then decided by the least index, which is
    the first only where the index grows with the iterations."""
    return all(o.index is None or _grows(o.index, stage.axes) for o in stage.outs if isinstance(o, Reduce))


def _grows(index: E, axes: tuple[Axis, ...]) -> bool:
    if index.op != "axis":
        return False
    aff, reach = index.attr, 0
    for a, extent in reversed(axes):
        if aff.coef(a) <= reach and extent > 1:
            return False
        reach += aff.coef(a) * (extent - 1)
    return True
