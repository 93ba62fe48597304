"""Register-tiled contractions: convolution, its two gradients and matrix products from one generator.

What enters: a `Contraction` whose `w` has unit stride along the lanes. What leaves: an LLVM function over units of
work. A register tile holds points x vectors accumulators as SSA values; each step loads the vectors of w, broadcasts
the points' elements of x, and does one fused multiply-add for each pair. So every output element is one chain of fused
multiply-adds in the order of `red` from 0: tiles, units and targets never change a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce

from llvmlite import ir

from graphc.schedule.expr import Aff
from graphc.schedule.kernels import ACC, Contraction, reads, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.normal import flatten_contraction

from .. import emit
from ..emit import F32, I64, PTR, KernelCode, Number, add, address, affine, const, i64, loop, mul
from ..target import Target
from ..values import Lanes, Values
from .form import Form, analyse
from .tiles import Group, Plan, Tile, equalised, plan, tiles_along

Env = dict[str, Number]
Buffers = Mapping[str, Buffer]


def emit_contraction(module: ir.Module, name: str, kernel: Contraction, buffers: Buffers, target: Target) -> KernelCode:
    """The kernel as function `name` of `module`. ValueError where the operands do not have the form that register
    tiles need; `kernel.to_loops()` is then the way."""
    form = analyse(flatten_contraction(kernel, buffers), buffers)
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
    kernel_emitter = _Emitter(b, form, chosen, buffers, dict(zip(arguments, pointers, strict=True)), target)
    with loop(b, lo, hi, name="unit") as unit:
        kernel_emitter.unit(unit)
    b.ret_void()
    return KernelCode(made, arguments, chosen.units)


@dataclass(frozen=True)
class _Points:
    """The points of a register tile: where the point axes stand, and how many elements of x each lies after the first;
    None when that is known at run time only."""

    envs: list[Env]
    shifts: list[int] | None


@dataclass(frozen=True)
class _Vector:
    """One vector of a lane group: `block` after the group's first, `lane` in it, and how many of its lanes exist."""

    block: int
    lane: int
    valid: int


class _Emitter:
    """The loops of a unit, down to register tiles."""

    def __init__(self, b, form: Form, plan: Plan, buffers: Buffers, pointers: Mapping[str, ir.Value], target: Target):
        self.b, self.form, self.plan, self.buffers, self.pointers = b, form, plan, buffers, pointers
        self.target, self.vl = target, target.vl
        self.per_block = form.block // target.vl

    def unit(self, unit: ir.Value) -> None:
        """One unit: a chunk of the points for one group of lanes."""
        b, form, plan = self.b, self.form, self.plan
        main, *last = plan.groups
        inner = [plan.chunks, main.count + len(last)]
        inner = inner if plan.points_first else inner[::-1]
        *batch, outer, fast = self.decode(unit, [*(e for _, e in form.batch), *inner])
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

    def decode(self, flat: Number, extents: Sequence[int]) -> list[Number]:
        """A flat number as coordinates, the last one fastest."""
        out: list[Number] = []
        for extent in extents[:0:-1]:
            flat, rest = self.divided(flat, extent)
            out.append(rest)
        return [*([flat] if extents else []), *out[::-1]]

    def divided(self, x: Number, by: int) -> tuple[Number, Number]:
        """Quotient and remainder."""
        if isinstance(x, int) or by == 1:
            return divmod(x, by) if isinstance(x, int) else (x, 0)
        quotient = self.b.udiv(x, i64(by))
        return quotient, self.b.sub(x, mul(self.b, quotient, by), flags=("nsw",))

    def group(self, env: Env, group: Group, number: Number, chunk: Number) -> None:
        """A chunk of the points for lane group `number`, in pieces of the sum where the plan says so."""
        b, form, main, tile = self.b, self.form, self.plan.groups[0], group.tile
        extents, wide = dict(form.extents), main.tile.vectors // self.per_block
        if group is main and main.count > 1:
            first, valid = mul(b, number, wide), [self.vl] * tile.vectors
            extents[form.partner] = main.count * wide
        else:
            first = 0 if group is main else main.count * wide
            exist = form.channels - first * form.block
            vectors = tiles_along(tile.vectors, self.per_block) * self.per_block
            valid = [max(0, min(self.vl, exist - k * self.vl)) for k in range(vectors)]
        vectors = [_Vector(k // self.per_block, k % self.per_block * self.vl, n) for k, n in enumerate(valid)]
        lanes = _LaneGroup(self, env, first, vectors, group.unroll, extents)
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

    def in_pieces(self, lanes: _LaneGroup, tile: Tile, lo: Number, hi: Number) -> None:
        """All tiles for one piece of the sum after the other. The accumulators rest in the output meanwhile."""
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
                lanes.finish(points, lanes.sum(points, held, position, outer, {axis: (start, stop)}))

    def clear_padding(self, lanes: _LaneGroup) -> None:
        """Points in the padding of an incomplete block are sums of nothing."""
        axis, first, stop = self.form.pad
        with ExitStack() as loops:
            ranges = [(a, first if a == axis else 0, stop if a == axis else e) for a, e in self.form.points]
            env = {a: loops.enter_context(loop(self.b, lo, hi, name=a)) for a, lo, hi in ranges}
            points = _Points([self.located(env)], None)
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
                out[split.outer], out[split.inner] = self.divided(out.pop(name), split.block)
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

    def tiles(self, tile: Tile, lo: Number, hi: Number) -> Iterator[_Points]:
        """The register tiles of pieces lo .. hi-1 of the points, inside the loops over them."""
        if tile.gather:
            yield from self.gathered(tile, lo, hi)
            return
        with ExitStack() as loops:
            env, first = {}, (lo, hi)
            if tile.rest or tile.block:
                piece, first = loops.enter_context(loop(self.b, lo, hi, name="piece")), (0, tile.fine // tile.coarse)
                if tile.pieces(self.plan.chunks) != tile.coarse:
                    piece, row = self.divided(piece, first[1])
                    first = row, add(self.b, row, 1)
                at = self.decode(piece, [e for _, e in tile.rest])
                env = self.located(dict(zip((a for a, _ in tile.rest), at, strict=True)))
            yield from self.within_blocks(tile, env) if tile.block else self.grid(tile, env, first)

    def gathered(self, tile: Tile, lo: Number, hi: Number) -> Iterator[_Points]:
        """Tiles along the line of all points."""
        names, extents = [a for a, _ in tile.points], [e for _, e in tile.points]
        for start, n in self.along(*tile.spans[0], lo, hi):
            at = [dict(zip(names, self.decode(add(self.b, start, k), extents), strict=True)) for k in range(n)]
            yield _Points([self.located(p) for p in at], None)

    def grid(self, tile: Tile, env: Env, first: tuple[Number, Number]) -> Iterator[_Points]:
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
                yield _Points(envs, [strides[0] * i + strides[1] * j for i, j in cells])

    def within_blocks(self, tile: Tile, env: Env) -> Iterator[_Points]:
        """Tiles along a split axis: those of the whole blocks, then those of the last one."""
        (axis,), split = tile.axes, self.form.whole[tile.axes[0]]
        last, stride = split.blocks - 1, self.form.x.coef(split.inner)
        for first, stop, extent in ((0, last, split.block), (last, last + 1, split.valid(last))):
            with loop(self.b, first, stop, name=axis) as outer:
                for start, n in self.along(extent, tile.cols, 0, tiles_along(extent, tile.cols)):
                    inner = [add(self.b, start, k) for k in range(n)]
                    yield _Points(
                        [env | {split.outer: outer, split.inner: i} for i in inner], [stride * k for k in range(n)]
                    )


class _LaneGroup:
    """One group of lanes of a unit: the sums of its register tiles, and their stores."""

    def __init__(
        self,
        emitter: _Emitter,
        env: Env,
        first: Number,
        vectors: list[_Vector],
        unroll: int,
        extents: Mapping[str, int],
    ):
        self.b, self.form, self.plan, self.unroll = emitter.b, emitter.form, emitter.plan, unroll
        self.buffers, self.pointers, self.target = emitter.buffers, emitter.pointers, emitter.target
        self.env, self.first, self.extents = env, first, extents
        self.vectors, self.active = vectors, [v for v in vectors if v.valid]
        self.vl, self.type = emitter.vl, emit.vec(F32, emitter.vl)
        red = {a for a, _ in self.form.red}
        (self.x_at, self.x_red), (self.w_at, self.w_red) = (_parted(a, red) for a in (self.form.x, self.form.w))

    def at(self, point: Env, vector: _Vector) -> Env:
        partner = {self.form.partner: add(self.b, self.first, vector.block)} if self.form.partner else {}
        return self.env | point | {self.form.lanes: vector.lane} | partner

    def mask(self, vector: _Vector) -> ir.Value | None:
        return None if vector.valid == self.vl else emit.prefix_mask(self.b, self.vl, vector.valid)

    def zeros(self, points: _Points) -> list[ir.Value]:
        return [const(self.type, 0)] * (len(points.envs) * len(self.active))

    def sum(
        self, points: _Points, acc: list, level: int, red: Env, limits: Mapping[str, tuple[Number, Number]]
    ) -> list[ir.Value]:
        """Accumulators of a tile, points by vectors, with the sum over `red[level:]` added. `red` says where the
        outer reduction axes stand, `limits` which part of the others to take."""
        step = self.step(points)
        return self.nest(step, level, dict.fromkeys((a for a, _ in self.form.red), 0) | red, limits, acc)

    def nest(self, step, level: int, env: Env, limits: Mapping, acc: list) -> list[ir.Value]:
        b, form = self.b, self.form
        if level == len(form.red):
            return step(env, None, 1, acc)
        axis, extent = form.red[level]
        lo, hi = limits.get(axis, (0, extent))
        if level == len(form.red) - 1:
            many, even = self.unroll, hi
            if isinstance(hi, int):
                even = lo + (hi - lo) // many * many
            elif extent % many or self.plan.pause[1] % many:
                many = 1  # a piece of the sum may end within an iteration
            with emit.loop_carry(b, lo, even, many, acc, axis) as (i, inner, carried):
                carried.yield_(step(env | {axis: i}, axis, many, inner))
            left = hi - even if isinstance(hi, int) else 0
            return step(env | {axis: even}, axis, left, carried.values) if left else carried.values
        split = form.partial.get(axis)
        stop = split.blocks - 1 if split else hi
        with emit.loop_carry(b, lo, stop, 1, acc, axis) as (i, inner, carried):
            carried.yield_(self.nest(step, level + 1, env | {axis: i}, limits, inner))
        if not split:
            return carried.values
        valid = {split.inner: (0, split.valid(stop))}
        return self.nest(step, level + 1, env | {axis: stop}, {**limits, **valid}, carried.values)

    def step(self, points: _Points):
        """A function that emits `count` steps of the sum from where `env` stands along `axis`."""
        b, form, vl = self.b, self.form, self.vl
        x, w = self.pointers[form.x_buffer], self.pointers[form.w_buffer]
        base = self.at(points.envs[0], self.active[0])
        w_from = address(b, w, F32, affine(b, self.w_at, base))
        blocks = form.w.coef(form.partner) if form.partner else 0
        rows = [(v.lane + blocks * v.block, self.mask(v) if form.w_clipped else None) for v in self.active]
        if points.shifts is None:
            envs = [self.at(p, self.active[0]) for p in points.envs]
            places = [(address(b, x, F32, affine(b, self.x_at, e)), 0) for e in envs]
        else:
            start = address(b, x, F32, affine(b, self.x_at, base))
            places = [(start, s) for s in points.shifts]

        def x_values(offset: Number) -> Iterator[ir.Value]:
            for pointer, shift in places:
                yield emit.splat(b, emit.load_(b, pointer, F32, None, add(b, offset, shift)), vl)

        def w_values(offset: Number) -> Iterator[ir.Value]:
            for shift, mask in rows:
                yield emit.load_(b, w_from, F32, vl, add(b, offset, shift), mask)

        def emit_steps(env: Env, axis: str | None, count: int, acc: list) -> list[ir.Value]:
            many = len(rows)
            at = affine(b, self.x_red, env), affine(b, self.w_red, env)
            for n in range(count):
                ahead = (self.x_red.coef(axis) * n, self.w_red.coef(axis) * n) if axis else (0, 0)
                x_offset, w_offset = (add(b, a, k) for a, k in zip(at, ahead, strict=True))
                acc = list(acc)
                # the shorter side is held in registers while the longer one streams by
                if many <= len(places):
                    held = list(w_values(w_offset))
                    for k, value in enumerate(x_values(x_offset)):
                        for j in range(many):
                            acc[k * many + j] = emit.fma(b, value, held[j], acc[k * many + j])
                else:
                    held = list(x_values(x_offset))
                    for j, value in enumerate(w_values(w_offset)):
                        for k in range(len(places)):
                            acc[k * many + j] = emit.fma(b, held[k], value, acc[k * many + j])
            return acc

        return emit_steps

    def resume(self, points: _Points, fresh: ir.Value) -> list[ir.Value]:
        """Accumulators from the output, or zero where the sum begins."""
        b, store, out = self.b, self.form.plain, []
        for point in points.envs:
            for vector in self.active:
                at = affine(b, store.indices[0], self.at(point, vector))
                held = emit.load_(b, self.pointers[store.buffer], F32, self.vl, at)
                out.append(b.select(fresh, const(self.type, 0), held))
        return out

    def finish(self, points: _Points, sums: list[ir.Value], clipped_axis: str | None = None) -> None:
        """The epilogue: stores of a tile. Vectors beyond the last channel are sums of nothing. Stores that do not
        reach into the padding of `clipped_axis` are left out."""
        totals = iter(sums)
        for point in points.envs:
            for vector in self.vectors:
                total = next(totals) if vector.valid else const(self.type, 0)
                self.store(self.at(point, vector), vector, total, clipped_axis)

    def store(self, env: Env, vector: _Vector, total: ir.Value, clipped_axis: str | None) -> None:
        form, made, found = self.form, {}, []
        for s in form.stores:
            clipped = form.clipped(s, form.lanes)
            if (clipped and not vector.valid) or (clipped_axis and form.clipped(s, clipped_axis)):
                continue
            if clipped not in made:
                lanes = Lanes(form.lanes, self.vl, self.mask(vector) if clipped else None)
                made[clipped] = Values(
                    self.b, self.buffers, self.pointers, env, self.target, lanes, {ACC.attr: total}, self.extents
                )
            found.append((made[clipped], s, made[clipped].vector(s.expr)))
        # all values first: a store may change what another one reads, such as a moment of the optimizer
        for values, s, value in found:
            values.store(s.buffer, s.indices[0], value)


def _parted(aff: Aff, axes: set[str]) -> tuple[Aff, Aff]:
    """`aff` without the terms of `axes`, and those terms."""
    return Aff(aff.const, tuple(t for t in aff.terms if t[0] not in axes)), Aff(
        0, tuple(t for t in aff.terms if t[0] in axes)
    )
