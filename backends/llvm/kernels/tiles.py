"""Register tiles of contractions, chosen by estimated cycles for any target.

What enters: a `Form` and a target. What leaves: `Group`s: how the lanes are cut into groups, the points of each into
register tiles, and how far its innermost loop is unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from graphc.ir.frozen import frozen
from graphc.schedule.fixed_point import FOUR
from graphc.schedule.kernels import Axis

from ..target import Target
from .form import LINE, Form, touched

FMA_LATENCY = 4.4  # cycles for chains too few to hide it; eight keep the two units of a core just busy
PORTS = 2  # fused multiply-adds, and vector loads, per cycle
# Cycles of a load beside the multiply-adds that hide it, and of a loop that is not unrolled: another thread on the same
# core wants its share of the ports. Then products of vit_s16 take 0.96 of the time in tiles of 8 by 3 instead of 14 by
# 2, and those of weight gradients 0.93 for two steps at a time; on a core of their own 0.99 and 0.99.
LOAD, LOOP = 0.12, 0.25
L2_BYTES_PER_CYCLE = 32.0
MAX_VECTORS = 8  # along the lanes: one row of a matrix product needs eight chains, more only widens the stream
DECODED_VECTORS = 4  # of weights in 24 bits, whose decoding takes the registers of as many more
POINTERS = {"x86_64": 6}  # for points with a pointer each, of 15 integer registers; on other targets of 30
POINTERS_ELSE = 12
SET_STRIDE = 4096  # bytes: points this far apart, or a multiple, share a set of the first-level cache
ROWS_PER_SET = 6  # of eight ways; two are left to the weights
PAGE = 4096  # bytes; points further apart than this each have a page, and a stream for the prefetcher, of their own
FAR = 1.08  # and so cost this much more
SECOND_KIND = 1.02  # a second kind of group doubles the code, and must save this much
# Another group of lanes goes down the columns of x again, which no hardware fetches ahead: products of 197x197 by 64 in
# a step of vit_s16 take 0.56 and 0.84 of the time with six points by all four vectors instead of 14 by two (AVX-512).
COLUMN_AGAIN = 1.08
GATHERED = 1.02  # so must points with a pointer each: finding them takes time, and often forbids unrolling
PAUSE_STEPS = 96  # least length of a piece of a sum: loading and storing the accumulators costs as much as ten steps
UNROLLED_FMAS = 56  # in the innermost loop; more overflow the cache of decoded instructions
ALL_UNROLLED_FMAS = 192  # in all copies of it: for each size of tile, kind of group, and the last block of a sum
STEPS_APART = 16  # accumulators; with more, LLVM would mix the loads of two steps and spill


@frozen
class Tile:
    """`rows` x `cols` points times `vectors`. `axes` are the tiled axes, innermost last: one (rows = 1), or two; or,
    with `gather`, all points in one flat line, each with its own pointer. `points`: the point axes. `block`: a single
    tiled axis is cut at multiples of it, so that a tile lies within one block of channels."""

    vectors: int
    rows: int
    cols: int
    axes: tuple[str, ...]
    points: tuple[Axis, ...]
    gather: bool = False
    block: int | None = None

    @cached_property
    def rest(self) -> tuple[Axis, ...]:
        """The point axes that loop outside the tile."""
        return () if self.gather else tuple((a, n) for a, n in self.points if a not in self.axes)

    @cached_property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """(extent, tile size) of what the tile cuts, outermost first."""
        if self.gather:
            return ((math.prod(n for _, n in self.points), self.cols),)
        sizes = dict(self.points)
        return tuple(
            (sizes[a], s) for a, s in zip(self.axes, (self.rows, self.cols)[2 - len(self.axes) :], strict=True)
        )

    @cached_property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(points of a tile, how many such tiles); entries of one size have code of their own all the same."""
        if self.block:
            ((extent, size),) = self.spans
            whole, left = divmod(extent, self.block)
            parts = [(s, n * whole) for s, n in equalised(self.block, size)] if whole else []
            return tuple(parts) + (equalised(left, size) if left else ())
        out: list[tuple[int, int]] = [(1, 1)]
        for span in self.spans:
            out = [(size * s, count * n) for size, count in out for s, n in equalised(*span)]
        return tuple(out)

    @property
    def coarse(self) -> int:
        """Iterations of the loops outside the tiled axes."""
        return math.prod(n for _, n in self.rest)

    @property
    def fine(self) -> int:
        """The same times the tiles along the outermost tiled axis: into how many pieces the points can be cut."""
        return self.coarse * (tiles_along(*self.spans[0]) if self.spans and not self.block else 1)

    def pieces(self, chunks: int) -> int:
        """The pieces that `chunks` chunks are made of: coarse ones where there are enough."""
        return self.coarse if self.rest and chunks <= self.coarse else self.fine

    @property
    def count(self) -> int:
        """Tiles in all."""
        return self.coarse * sum(n for _, n in self.sizes)

    def cycles(self, form: Form, target: Target) -> float:
        """Estimated cycles for all points."""
        lines = self.lines(form) / (self.rows * self.cols)
        total = sum(n * _cycles(size, self.vectors, lines * size, form, target, self.gather) for size, n in self.sizes)
        far = self.axes and self.cols > 1 and abs(form.x.coef(form.inner(self.axes[-1]))) * 4 > PAGE
        return total * self.coarse * (GATHERED if self.gather else 1) * (FAR if far else 1)

    def lines(self, form: Form) -> float:
        """Lines of x that one step of a whole tile reads, on average new ones: a line lasts for some steps."""
        left, reach = self.cols, {}
        for a, n in reversed(self.points) if self.gather else ():
            reach[form.inner(a)], left = min(left, n), tiles_along(left, n)
        if not self.gather:
            reach = dict(zip(map(form.inner, self.axes), (self.rows, self.cols)[2 - len(self.axes) :], strict=True))
        step = abs(form.x.coef(form.red[-1][0])) if form.red else LINE
        return touched(form.x, reach) / LINE / max(1.0, LINE / max(step, 1))


def tiles_along(extent: int, size: int) -> int:
    return -(-extent // size)


def equalised(extent: int, size: int) -> tuple[tuple[int, int], ...]:
    """Tiles of at most `size` that cover `extent` and differ by at most one: ((size, count), (size - 1, count))."""
    n = tiles_along(extent, size)
    large = -(-extent // n)
    many = extent - n * (large - 1)
    return tuple((s, k) for s, k in ((large, many), (large - 1, n - many)) if k)


def _cycles(points: int, vectors: int, lines: float, form: Form, target: Target, gather: bool) -> float:
    step = max(points * vectors / PORTS, (points + vectors) / PORTS, FMA_LATENCY)
    step += LOAD * (points + vectors) + (LOOP if full(points, vectors, target) else 0)
    # weights of a group that the first-level cache holds come into it once for all points
    stays = form.steps * vectors * target.vector_bytes <= target.l1_bytes * 3 // 4
    stream = new_cycles(0 if stays else vectors, lines, target)
    # start of a tile: addresses, clearing; its end: about three operations for each accumulator
    overhead = 16 + 1.5 * points * vectors + (5 * points if gather else 0)
    if form.may_pause(vectors * target.vl):
        overhead *= max(1.0, form.steps / (2 * PAUSE_STEPS))
    return form.steps * (max(step, stream) + 0.1 * stream) + overhead


def new_cycles(vectors: int, lines: float, target: Target) -> float:
    """Cycles to bring one step's weights and new lines of x from the second-level cache."""
    return (vectors * target.vector_bytes + lines * LINE * 4) / L2_BYTES_PER_CYCLE


def fits(points: int, vectors: int, target: Target, spare: int = 0) -> bool:
    """Whether accumulators, the held operand (the shorter side) and one streamed value fit into the registers, and
    leave `spare`. Where there are 32, one stays free: LLVM needs it to order the loads."""
    registers = target.vector_registers - (target.vector_registers > 16)
    return points * vectors + min(points, vectors) + 1 + spare <= registers


def full(points: int, vectors: int, target: Target) -> bool:
    """Whether a tile leaves no register free: LLVM would spill some of it to unroll its loop."""
    return not fits(points, vectors, target, spare=1)


def _candidates(form: Form, vectors: int, target: Target) -> Iterator[Tile]:
    """Every tile worth considering for `vectors` vectors."""
    points = form.points
    most = max(m for m in range(1, target.vector_registers) if fits(m, vectors, target))
    if not points:
        yield Tile(vectors, 1, 1, (), ())
    for axis, extent in reversed(points):
        if (stride := form.x_stride(axis)) is None:
            block = form.whole[axis].block
            for cols in range(1, min(most, block) + 1):
                yield Tile(vectors, 1, cols, (axis,), points, block=block)
            continue
        limit = min(extent, most if stride * 4 % SET_STRIDE else min(most, ROWS_PER_SET))
        for cols in range(1, limit + 1):
            yield Tile(vectors, 1, cols, (axis,), points)
        for row, row_extent in points:
            if row != axis and form.x_stride(row) is not None and extent <= limit:
                for rows in range(2, min(most // extent, row_extent) + 1):
                    yield Tile(vectors, rows, extent, (row, axis), points)
    if len(points) > 1 or form.whole:
        pointers = POINTERS.get(target.arch, POINTERS_ELSE)
        for cols in range(1, min(most, pointers, math.prod(n for _, n in points)) + 1):
            yield Tile(vectors, 1, cols, (), points, gather=True)


@frozen
class Group:
    """`count` groups of lanes, each of `tile.vectors` vectors; `unroll` steps in an iteration of the innermost loop."""

    count: int
    tile: Tile
    unroll: int = 1


def groups_of(form: Form, target: Target) -> tuple[Group, ...]:
    """How the lanes are cut. Main groups are whole blocks of lanes, so that their offsets are affine; where an
    incomplete last vector must be masked, its group has code of its own."""
    vectors, per_block = form.lane_vectors(target.vl)
    apart = form.lanes_clipped and form.channels % target.vl != 0 and not form.rows
    best: dict[int, tuple[float, Tile]] = {}

    def tile(n: int) -> tuple[float, Tile]:
        if n not in best:
            costs = ((t.cycles(form, target), k, t) for k, t in enumerate(_candidates(form, n, target)))
            cost, _, found = min(costs)
            best[n] = cost, found
        return best[n]

    plans, most = [], max(n for n in range(1, target.vector_registers) if fits(1, n, target))
    if not form.rows:
        most = DECODED_VECTORS if form.decoded else MAX_VECTORS
    for size in range(1, min(most, vectors) + 1):
        if size % per_block and size != vectors:
            continue
        for last in (vectors % size, vectors % size + size):
            main = (vectors - last) // size
            if last > most or last > vectors or (apart and not last):
                continue
            parts = [(n, *tile(k)) for n, k in ((main, size), (1, last)) if n and k]
            cost = sum(n * c for n, c, _ in parts) * (SECOND_KIND if len(parts) > 1 else 1)
            cost *= COLUMN_AGAIN if form.column and sum(n for n, *_ in parts) > 1 else 1
            plans.append((cost, len(plans), tuple(Group(n, t) for n, _, t in parts)))
    groups = min(plans)[2]
    copies = sum(len(g.tile.sizes) for g in groups) * 2 ** len(form.partial)
    return tuple(replace(g, unroll=_unroll(form, g.tile, copies, target)) for g in groups)


def _unroll(form: Form, tile: Tile, copies: int, target: Target) -> int:
    """Steps in one iteration of the innermost loop, of which there are `copies`.

    No two of them may read the same element of x for different points: LLVM would keep every such element in a
    register, across the whole block, and spill the accumulators. Weights in 24 bits are decoded four steps at a time.
    """
    size = max(n for n, _ in tile.sizes)
    if form.decoded:
        return FOUR
    if not form.red or full(size, tile.vectors, target):
        return 1
    axis, extent = form.red[-1]
    step, widest = abs(form.x.coef(axis)), max(tile.rows, tile.cols)
    tiled = [(a, n) for a, n in form.points if tile.gather or a in tile.axes]
    reached = {abs(form.x.coef(form.inner(a))) * d for a, n in tiled for d in range(1, min(widest, n))}
    limit = min(UNROLLED_FMAS, ALL_UNROLLED_FMAS // copies)
    fitting = [n for n in (4, 3, 2) if n <= extent and n * size * tile.vectors <= limit]
    fitting = [n for n in fitting if not any(step * k in reached for k in range(1, n))]
    return min(fitting, key=lambda n: extent % n, default=1)
