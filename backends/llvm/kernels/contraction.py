"""Register-tiled contractions: convolution, its two gradients and matrix products from one generator.

What enters: a `Contraction` whose `w` has unit stride along the lanes. What leaves: an LLVM function over units of
work. A register tile holds points x vectors accumulators as SSA values; each step loads the vectors of w, broadcasts
the points' elements of x, and does one fused multiply-add for each pair. So every output element is one chain of fused
multiply-adds in the order of `red` from 0: tiles, units and targets never change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import reduce

from graphc.schedule.kernels import Contraction, reads, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.lines import flatten_lines

from .. import emit, ir
from ..emit import I64, PTR, KernelCode, Number, add, coordinates, divided, i64, loop, mul
from ..target import Target
from .form import analyse
from .lanes import Env, LaneGroup, Points, Vector, Work
from .plans import plan
from .tiles import Group, Tile, equalised, tiles_along

Buffers = Mapping[str, Buffer]


def emit_contraction(
    module: ir.Module, name: str, kernel: Contraction, buffers: Buffers, target: Target, steps: int = 0
) -> KernelCode:
    """The kernel as function `name` of `module`; `steps`: how many of its first axes are those of a block. ValueError
    where the operands do not have the form that register tiles need; `kernel.to_loops()` is then the way."""
    form = analyse(flatten_lines(kernel, buffers, steps), buffers, steps)
    chosen = plan(form, buffers, target)
    written = writes(kernel)
    arguments = tuple(dict.fromkeys((*reads(kernel), *written)))
    made, b = emit.function(
        module,
        name,
        [*(PTR for _ in arguments), I64, I64],
        [*arguments, "lo", "hi"],
        noalias=arguments,
        readonly=[a for a in arguments if a not in written],
    )
    *pointers, lo, hi = made.args
    kernel_emitter = _Emitter(Work(b, form, chosen, buffers, dict(zip(arguments, pointers, strict=True)), target))
    with loop(b, lo, hi, name="unit") as unit:
        kernel_emitter.unit(unit)
    b.ret_void()
    return KernelCode(made, arguments, chosen.units)


class _Emitter:
    """The loops of a unit, down to register tiles."""

    def __init__(self, work: Work):
        self.work, self.b, self.form, self.plan, self.vl = work, work.b, work.form, work.plan, work.target.vl
        _, self.per_block = work.form.lane_vectors(self.vl)

    def unit(self, unit: ir.Value) -> None:
        """One unit: a chunk of the points for one group of lanes."""
        b, form, plan = self.b, self.form, self.plan
        main, *last = plan.groups
        inner = [plan.chunks, main.count + len(last)]
        inner = inner if plan.points_first else inner[::-1]
        *batch, outer, fast = coordinates(self.b, unit, [*(e for _, e in form.batch), *inner])
        chunk, group = (outer, fast) if plan.points_first else (fast, outer)
        env = dict(zip((a for a, _ in form.batch), batch, strict=True))
        if not last:
            self.group(env, main, group, chunk)
            return
        with emit.if_else(b, b.icmp_signed("<", i64(group), i64(main.count))) as (then, otherwise):
            with then:
                self.group(env, main, group, chunk)
            with otherwise:
                self.group(env, last[0], main.count, chunk)

    def group(self, env: Env, group: Group, number: Number, chunk: Number) -> None:
        """A chunk of the points for lane group `number`, in pieces of the sum where the plan says so."""
        b, form, main, tile = self.b, self.form, self.plan.groups[0], group.tile
        extents, wide = dict(form.extents), main.tile.vectors // self.per_block
        several = group is main and main.count > 1
        first = mul(b, number, wide) if several else 0 if group is main else main.count * wide
        if several:
            extents[form.partner] = main.count * wide
        vectors = self.vectors(tile, None if several else first)
        lanes = LaneGroup(self.work, env, number, first, vectors, group, extents)
        if form.pad:
            with emit.if_(b, self.is_first(chunk)):
                self.clear_padding(lanes)
        lo, hi = 0, tile.pieces(self.plan.chunks)
        if self.plan.chunks > 1:
            lo, hi = (b.udiv(mul(b, add(b, chunk, k), hi), i64(self.plan.chunks)) for k in (0, 1))
        if self.plan.pause is None:
            for points in self.tiles(tile, lo, hi):
                lanes.finish(points, lanes.sum(points, lanes.zeros(points), 0, {}, {}))
        else:
            self.in_pieces(lanes, tile, lo, hi)

    def vectors(self, tile: Tile, first: int | None) -> list[Vector]:
        """The vectors of a group whose first block is `first`; None for one that has whole blocks only."""
        form, vl, per_block = self.form, self.vl, self.per_block
        if form.rows:
            last = form.channels - vl if form.overlaps and form.channels > vl else form.channels
            lanes = [min(k * vl, last) for k in range(per_block)]
            return [
                Vector(row, lane, min(vl, form.channels - lane))
                for row in range(tile.vectors // per_block)
                for lane in lanes
            ]
        count, exist = tile.vectors, tile.vectors * vl
        if first is not None:
            count, exist = tiles_along(count, per_block) * per_block, form.channels - first * form.block
        return [Vector(k // per_block, k % per_block * vl, max(0, min(vl, exist - k * vl))) for k in range(count)]

    def in_pieces(self, lanes: LaneGroup, tile: Tile, lo: Number, hi: Number) -> None:
        """All tiles for one piece of the sum after the other. The accumulators rest meanwhile."""
        b, (position, length) = self.b, self.plan.pause
        with ExitStack() as loops:
            outer = {a: loops.enter_context(loop(b, 0, e, name=a)) for a, e in self.form.red[:position]}
            axis, extent = self.form.red[position]
            start = loops.enter_context(loop(b, 0, extent, length, name=axis))
            stop = add(b, start, length)
            if extent % length:
                stop = self.bounded("<", stop, extent)
            fresh = reduce(b.and_, (self.is_first(i) for i in (*outer.values(), start)))
            for points in self.tiles(tile, lo, hi):
                held = lanes.resume(points, fresh)
                lanes.rest(points, lanes.sum(points, held, position, outer, {axis: (start, stop)}))
        if not self.form.plain or len(lanes.active) < len(lanes.vectors):  # vectors of padding are stored there
            for points in self.tiles(tile, lo, hi):
                lanes.finish(points, lanes.resume(points, None))

    def clear_padding(self, lanes: LaneGroup) -> None:
        """Points in the padding of an incomplete block are sums of nothing."""
        axis, first, stop = self.form.pad
        with ExitStack() as loops:
            ranges = [(a, first if a == axis else 0, stop if a == axis else e) for a, e in self.form.points]
            env = {a: loops.enter_context(loop(self.b, lo, hi, name=a)) for a, lo, hi in ranges}
            points = Points([self.located(env)], None)
            lanes.finish(points, lanes.zeros(points), clipped_axis=self.form.inner(axis))

    def is_first(self, i: Number) -> ir.Value:
        return self.b.icmp_signed("==", i64(i), i64(0))

    def bounded(self, sign: str, x: Number, y: Number) -> Number:
        """The smaller ("<") or greater (">") of two."""
        if isinstance(x, int) and isinstance(y, int):
            return min(x, y) if sign == "<" else max(x, y)
        return self.b.select(self.b.icmp_signed(sign, i64(x), i64(y)), i64(x), i64(y))

    def located(self, point: Env) -> Env:
        """Values of the point axes as values of the axes that offsets know."""
        out = dict(point)
        for name, split in self.form.whole.items():
            if name in out:
                out[split.outer], out[split.inner] = divided(self.b, out.pop(name), split.block)
        return out

    def along(self, extent: int, size: int, lo: Number, hi: Number) -> Iterator[tuple[Number, int]]:
        """(start, size) of the equalised tiles number lo .. hi-1, inside the loops over them."""
        first = offset = 0
        for many, count in equalised(extent, size):
            begin, end = self.bounded(">", lo, first), self.bounded("<", hi, first + count)
            with loop(self.b, begin, end, name="tile") as t:
                yield add(self.b, mul(self.b, t, many), offset), many
            # each large tile before it puts a small one a point further than its number says
            first, offset = first + count, offset + count

    def tiles(self, tile: Tile, lo: Number, hi: Number) -> Iterator[Points]:
        """The register tiles of pieces lo .. hi-1 of the points, inside the loops over them."""
        if tile.gather:
            yield from self.gathered(tile, lo, hi)
            return
        with ExitStack() as loops:
            env, first, before = {}, (lo, hi), ()
            if tile.rest or tile.block:
                piece, first = loops.enter_context(loop(self.b, lo, hi, name="piece")), (0, tile.fine // tile.coarse)
                if tile.pieces(self.plan.chunks) != tile.coarse:
                    piece, row = divided(self.b, piece, first[1])
                    first = row, add(self.b, row, 1)
                before = ((piece, math.prod(e for e, _ in tile.spans)),)
                at = coordinates(self.b, piece, [e for _, e in tile.rest])
                env = self.located(dict(zip((a for a, _ in tile.rest), at, strict=True)))
            yield from self.within_blocks(tile, env, before) if tile.block else self.grid(tile, env, first, before)

    def gathered(self, tile: Tile, lo: Number, hi: Number) -> Iterator[Points]:
        """Tiles along the line of all points."""
        names, extents = [a for a, _ in tile.points], [e for _, e in tile.points]
        for start, n in self.along(*tile.spans[0], lo, hi):
            at = [dict(zip(names, coordinates(self.b, add(self.b, start, k), extents), strict=True)) for k in range(n)]
            yield Points([self.located(p) for p in at], None, ((start, 1),))

    def grid(self, tile: Tile, env: Env, first: tuple[Number, Number], before: tuple) -> Iterator[Points]:
        """Tiles of one or two axes; `first`: which tiles of the outer one. No axis at all is a tile of one point."""
        missing = 2 - len(tile.axes)
        axes, spans = [None] * missing + list(tile.axes), [(1, 1)] * missing + list(tile.spans)
        ranges = [(0, tiles_along(*s)) for s in spans]
        ranges[min(missing, 1)] = first
        strides = [self.form.x.coef(a) if a else 0 for a in axes]
        for row, rows in self.along(*spans[0], *ranges[0]):
            for col, cols in self.along(*spans[1], *ranges[1]):
                cells = [(i, j) for i in range(rows) for j in range(cols)]
                at = [{axes[0]: add(self.b, row, i), axes[1]: add(self.b, col, j)} for i, j in cells]
                envs = [env | {a: v for a, v in cell.items() if a} for cell in at]
                shifts = [strides[0] * i + strides[1] * j for i, j in cells]
                yield Points(envs, shifts, (*before, (row, spans[1][0]), (col, 1)), axes[1] and (axes[1], cols))

    def within_blocks(self, tile: Tile, env: Env, before: tuple) -> Iterator[Points]:
        """Tiles along a split axis: those of the whole blocks, then those of the last one."""
        (axis,), split = tile.axes, self.form.whole[tile.axes[0]]
        last, stride = split.blocks - 1, self.form.x.coef(split.inner)
        for first, stop, extent in ((0, last, split.block), (last, last + 1, split.valid(last))):
            with loop(self.b, first, stop, name=axis) as outer:
                for start, n in self.along(extent, tile.cols, 0, tiles_along(extent, tile.cols)):
                    envs = [env | {split.outer: outer, split.inner: add(self.b, start, k)} for k in range(n)]
                    count = (*before, (outer, split.block), (start, 1))
                    yield Points(envs, [stride * k for k in range(n)], count, (split.inner, n))
