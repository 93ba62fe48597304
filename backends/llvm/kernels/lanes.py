"""A group of lanes: the sums of its register tiles, and their stores.

What enters: the points of a tile, and where the reduction axes stand. What leaves: accumulators as SSA values, and the
stores of the epilogue. Each step loads the vectors of w, broadcasts the points' elements of x, and does one fused
multiply-add for each pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial, reduce

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff, E, loads, walk
from graphc.schedule.kernels import ACC, Store
from graphc.schedule.layout import Buffer
from graphc.schedule.scalar import DEAR, LONG, waits

from .. import emit, ir
from ..emit import F32, I8, SIZE, Number, add, address, affine, const, coordinates, divided, i64, mul
from ..target import Target
from ..values import Lanes, Values
from .fixed_point import FOUR, Panels
from .form import LINE, Form
from .plans import Plan
from .tiles import STEPS_APART, Group, tiles_along

Env = dict[str, Number]
BY_TURNS = 2  # points of an epilogue with a polynomial: with two vectors side by side, GELU and its slope take 0.85


@frozen
class Points:
    """The points of a register tile: where the point axes stand, and how many elements of x each lies after the first;
    None when that is known at run time only. `before` counts the points before the tile, as (number, of how many). The
    points of a row of `along`, an axis and how many, differ in that axis alone, by one from each to the next."""

    envs: list[Env]
    shifts: list[int] | None
    before: tuple[tuple[Number, int], ...] = ()
    along: tuple[str, int] | None = None


@frozen
class Vector:
    """One vector of a lane group: `block` after the group's first, `lane` in it, and how many of its lanes exist."""

    block: int
    lane: int
    valid: int


@frozen
class Stream:
    """What is fetched ahead while a tile goes by: `share` bytes from `start` on, and further by the reduction axes, a
    step of the sum `step` bytes at a time. Between rows of `row` bytes lies a gap, which is left out. Or, with `apart`,
    the bytes between them, a line for each step. `level`: of the cache that it is to come into."""

    start: ir.Value
    share: Number
    at: Aff
    step: int
    row: int = 0
    gap: int = 0
    apart: int = 0
    level: int = 2


@frozen
class Work:
    """What all groups of a kernel share: where its code goes, what it is, and its operands."""

    b: ir.IRBuilder
    form: Form
    plan: Plan
    buffers: Mapping[str, Buffer]
    pointers: Mapping[str, ir.Value]
    target: Target


class LaneGroup:
    """One group of lanes of a unit, the one of this `number`, from block `first` on: the sums of its register tiles,
    and their stores."""

    def __init__(
        self,
        work: Work,
        env: Env,
        number: Number,
        first: Number,
        vectors: list[Vector],
        group: Group,
        extents: Mapping[str, int],
    ):
        self.b, self.form, self.plan, self.unroll, self.tile = work.b, work.form, work.plan, group.unroll, group.tile
        self.buffers, self.pointers, self.target = work.buffers, work.pointers, work.target
        self.env, self.number, self.first, self.extents = env, number, first, extents
        self.vectors, self.active = vectors, [v for v in vectors if v.valid]
        self.vl, self.type = work.target.vl, emit.vec(F32, work.target.vl)
        red = {a for a, _ in self.form.red}
        (self.x_at, self.x_red), (self.w_at, self.w_red) = (_parted(a, red) for a in (self.form.x, self.form.w))
        self.copy = self.copied() if self.plan.w_copied else None
        self.offsets: dict[tuple, ir.Value] = {}  # of stores, for all of them

    def copied(self) -> ir.Value:
        """A copy of the group's weights without gaps, made once for all tiles of a unit."""
        b, form, vl = self.b, self.form, self.vl
        ((axis, extent),), many = form.red, len(self.active)
        room = emit.stack(b, F32, extent * many * vl)
        places = [address(b, self.pointers[form.w_buffer], F32, self.w_from(v)) for v in self.active]
        with emit.loop(b, 0, extent, name="copy") as k:
            for j, (v, place) in enumerate(zip(self.active, places, strict=True)):
                mask = self.mask(v) if form.w_clipped else None
                value = emit.load_(b, place, F32, vl, affine(b, self.w_red, {axis: k}), mask)
                emit.store_(b, value, room, add(b, mul(b, k, many * vl), j * vl))
        return room

    def w_from(self, vector: Vector) -> Number:
        """Where the weights of a vector begin."""
        return affine(self.b, self.w_at, self.at({}, vector))

    def at(self, point: Env, vector: Vector) -> Env:
        partner = {self.form.partner: add(self.b, self.first, vector.block)} if self.form.partner else {}
        return self.env | point | {self.form.lanes: vector.lane} | partner

    def mask(self, vector: Vector) -> ir.Value | None:
        return None if vector.valid == self.vl else emit.prefix_mask(self.b, self.vl, vector.valid)

    def zeros(self, points: Points) -> list[ir.Value]:
        return [const(self.type, 0)] * (len(points.envs) * len(self.active))

    def sum(
        self, points: Points, acc: list, level: int, red: Env, limits: Mapping[str, tuple[Number, Number]]
    ) -> list[ir.Value]:
        """Accumulators of a tile, points by vectors, with the sum over `red[level:]` added. `red` says where the
        outer reduction axes stand, `limits` which part of the others to take."""
        self.expect(points)
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

    def step(self, points: Points):
        """A function that emits `count` steps of the sum from where `env` stands along `axis`."""
        b, form, vl = self.b, self.form, self.vl
        x, base = self.pointers[form.x_buffer], self.at(points.envs[0], self.active[0])
        if points.shifts is None:
            envs = [self.at(p, self.active[0]) for p in points.envs]
            places = [(emit.freeze(b, address(b, x, F32, affine(b, self.x_at, e))), 0) for e in envs]
        else:
            start = emit.freeze(b, address(b, x, F32, affine(b, self.x_at, base)))
            places = [(start, s) for s in points.shifts]

        def x_values(offset: Number) -> Iterator[ir.Value]:
            for pointer, shift in places:
                yield emit.splat(b, emit.load_(b, pointer, F32, None, add(b, offset, shift)), vl)

        if form.decoded:
            return partial(self.decoded_steps, self.panels(), x_values)
        w_red, w_values, ahead = self.stored(points)
        ahead += [self.x_ahead(points, places[0][0])] if self.plan.x_ahead else []
        ahead += [self.x_soon(points, places[0][0])] if self.plan.x_soon else []

        apart = len(places) * len(self.active) > STEPS_APART

        def emit_steps(env: Env, axis: str | None, count: int, acc: list) -> list[ir.Value]:
            many = len(self.active)
            self.fetch(ahead, env, count)
            at = affine(b, self.x_red, env), affine(b, w_red, env)
            for n in range(count):
                if n and apart:
                    b.fence("acq_rel", "singlethread")
                further = (self.x_red.coef(axis) * n, w_red.coef(axis) * n) if axis else (0, 0)
                x_offset, w_offset = (add(b, a, k) for a, k in zip(at, further, strict=True))
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

    def stored(self, points: Points) -> tuple[Aff, Callable[[Number], Iterator[ir.Value]], list[Stream]]:
        """Weights as they lie: their offsets by the reduction axes, the vectors at one of them, and what is fetched."""
        b, form, vl = self.b, self.form, self.vl
        w, w_red = self.pointers[form.w_buffer], self.w_red
        w_from = emit.freeze(b, address(b, w, F32, self.w_from(self.active[0])))
        ahead = [self.w_ahead(points, w_from)] if self.plan.w_ahead else []
        blocks = form.w.coef(form.partner) if form.partner else 0
        rows = [(v.lane + blocks * v.block, self.mask(v) if form.w_clipped else None) for v in self.active]
        if self.copy:
            rows = [(j * vl, None) for j in range(len(rows))]
            w_from, w_red = emit.freeze(b, self.copy), Aff(0, ((form.red[0][0], len(rows) * vl),))

        def values(offset: Number) -> Iterator[ir.Value]:
            for shift, mask in rows:
                yield emit.load_(b, w_from, F32, vl, add(b, offset, shift), mask)

        return w_red, values, ahead

    def panels(self) -> Panels:
        """Weights in 24 bits, from those of the first vector on."""
        b, buffer, (first, *_) = self.b, self.buffers[self.form.w_buffer], self.active
        size, elements = buffer.bytes // buffer.stored[0], buffer.strides[0]  # of a panel
        at = Aff(0, tuple((a, c // elements * size) for a, c in self.w_at.terms if a != self.form.lanes))
        start = address(b, self.pointers[buffer.name], I8, affine(b, at, self.at({}, first)))
        return Panels(b, emit.freeze(b, start), size, self.vl, self.plan.w_ahead)

    def decoded_steps(
        self, panels: Panels, x_values: Callable, env: Env, axis: str | None, count: int, acc: list
    ) -> list[ir.Value]:
        """Up to four steps of a sum, whose weights in 24 bits share vectors: of one vector of sums after the other."""
        b, many, first = self.b, len(self.active), self.active[0].block
        at, step = affine(b, self.x_red, env), self.x_red.coef(axis) if axis else 0
        held = [list(x_values(add(b, at, n * step))) for n in range(count)]
        number, _ = divided(b, env[axis] if axis else 0, FOUR)
        acc = list(acc)
        for j, v in enumerate(self.active):
            rows = panels.four(number, count, v.block - first, v.lane)
            for values, row in zip(held, rows, strict=True):
                for k, value in enumerate(values):
                    acc[k * many + j] = emit.fma(b, value, row, acc[k * many + j])
        return acc

    def w_ahead(self, points: Points, w_from: ir.Value) -> Stream:
        """The weights of the next group. They arrive evenly while all tiles of this one go by, where the first tile of
        the next would wait for them."""
        b, form, plan = self.b, self.form, self.plan
        run, count, stride = form.w_rows
        blocks = tiles_along(len(self.vectors) * self.vl, form.block)
        size = 4 * blocks * run * count
        many = math.prod(e for _, e in form.points)
        # of the points of one unit; chunks that share a group share the next one's weights as well
        each = tiles_along(size * (plan.chunks if plan.points_first else 1), many)
        share = mul(b, reduce(partial(add, b), (mul(b, n, of) for n, of in points.before), 0), each)
        share = share % size if isinstance(share, int) else b.urem(share, i64(size))
        step = tiles_along(each * len(points.envs) * form.block, run * count)
        place = ((a, c if c < stride else c // stride * run) for a, c in self.w_red.terms)
        at = Aff(0, tuple((a, c // form.block * step) for a, c in place))
        start = emit.beyond(b, w_from, 4 * blocks * form.w.coef(form.partner))
        return Stream(start, share, at, step, 4 * blocks * run, 4 * (stride - blocks * run) if count > 1 else 0)

    def x_ahead(self, points: Points, x_from: ir.Value) -> Stream:
        """What a tile some points further on will read of x."""
        if self.form.column:
            at = Aff(0, tuple((a, 4 * c) for a, c in self.x_red.terms))
            return Stream(emit.beyond(self.b, x_from, 4 * self.plan.x_ahead), 0, at, 0, apart=4 * self.form.column)
        return self.panel(points, emit.beyond(self.b, x_from, 4 * self.form.together * self.plan.x_ahead))

    def x_soon(self, points: Points, x_from: ir.Value) -> Stream:
        """What this tile will read of the next panel of x."""
        return replace(self.panel(points, emit.beyond(self.b, x_from, 4 * self.plan.x_soon)), level=1)

    def panel(self, points: Points, start: ir.Value) -> Stream:
        """What so many points as a tile has read of each panel of x, from `start` on: evenly over its steps."""
        step = 4 * len(points.envs)
        at = Aff(0, tuple((a, c * step if c < self.form.together else 4 * c) for a, c in self.x_red.terms))
        return Stream(start, 0, at, step)

    def fetch(self, streams: list[Stream], env: Env, count: int) -> None:
        """Asks for what falls to so many steps from where `env` stands."""
        b = self.b
        for s in streams:
            offset = add(b, affine(b, s.at, env), s.share)
            for line in range(0, count * (s.apart or s.step), s.apart or 4 * LINE):
                place = add(b, offset, line)
                if s.gap:
                    place = add(b, place, mul(b, b.udiv(i64(place), i64(s.row)), s.gap))
                emit.prefetch(b, emit.beyond(b, s.start, place), level=s.level)

    def expect(self, points: Points) -> None:
        """Asks for what the epilogue of a tile will touch, each line once, and for a part of what its points will read
        in the next batch element: another part in each group of lanes."""
        b, form = self.b, self.form
        for line in range(self.plan.x_next):
            number = add(b, mul(b, self.number, self.plan.x_next), line)
            at = coordinates(b, mul(b, number, LINE), [e for _, e in form.red])
            further = affine(b, self.x_red, dict(zip((a for a, _ in form.red), at, strict=True)))
            further = mul(b, add(b, further, form.x.coef(form.batch[-1][0])), SIZE[F32])
            for point in points.envs:
                start = address(
                    b, self.pointers[form.x_buffer], F32, affine(b, self.x_at, self.at(point, self.active[0]))
                )
                emit.prefetch(b, emit.beyond(b, start, further))
        read = {e.attr[0]: e.attr[1][0] for s in form.stores for e in loads(s.expr) if isinstance(e.attr[1][0], Aff)}
        written = {s.buffer: s.indices[0] for s in form.stores}
        lines = [v for v in self.active if v.lane % LINE == 0]
        for name, index in (read | written).items():
            for point in points.envs if name in self.plan.end_ahead else ():
                for vector in lines if index.coef(form.lanes) == 1 else self.active[:1]:
                    offset = affine(b, index, self.at(point, vector))
                    emit.prefetch(b, address(b, self.pointers[name], F32, offset), name in written)

    def resume(self, points: Points, fresh: ir.Value) -> list[ir.Value]:
        """The sums of a tile as `rest` left them, or zero where they begin."""
        b, zero = self.b, const(self.type, 0)
        held = [emit.load_(b, pointer, F32, self.vl, at) for pointer, at in self.rests(points)]
        return [b.select(fresh, zero, value) for value in held] if fresh else held

    def rest(self, points: Points, sums: list[ir.Value]) -> None:
        """Sums of a tile wait for the next piece."""
        for (pointer, at), value in zip(self.rests(points), sums, strict=True):
            emit.store_(self.b, value, pointer, at)

    def rests(self, points: Points) -> Iterator[tuple[ir.Value, Number]]:
        """Where each sum of a tile rests: in the output where that takes nothing but sums, else on the stack."""
        b, store, many = self.b, self.form.plain, len(self.active)
        if store:
            places = ((p, v) for p in points.envs for v in self.active)
            yield from ((self.pointers[store.buffer], affine(b, store.indices[0], self.at(p, v))) for p, v in places)
            return
        before = reduce(partial(add, b), (mul(b, n, of) for n, of in points.before), 0)
        first = mul(b, before, many * self.vl)
        for k in range(len(points.envs) * many):
            yield self.resting, add(b, first, k * self.vl)

    @cached_property
    def resting(self) -> ir.Value:
        """Room on the stack for the sums of all points."""
        points = math.prod(e for _, e in self.form.points)
        return emit.stack(self.b, F32, points * len(self.active) * self.vl)

    def finish(self, points: Points, sums: list[ir.Value], clipped_axis: str | None = None) -> None:
        """The epilogue: stores of a tile. Vectors beyond the last channel are sums of nothing. Stores that do not
        reach into the padding of `clipped_axis` are left out."""
        if points.along and points.along[1] > 1 and self.long:
            self.finish_rows(points, sums)
            return
        totals = iter(sums)
        for point in points.envs:
            for vector in self.vectors:
                total = next(totals) if vector.valid else const(self.type, 0)
                put(self.values(self.at(point, vector), total, self.mask(vector), vector.valid > 0, clipped_axis))

    @cached_property
    def long(self) -> bool:
        """Whether the epilogue is long: then its code stands once for a row of points, in a loop."""
        return waits(LONG, *(s.expr for s in self.form.stores))

    def finish_rows(self, points: Points, sums: list[ir.Value]) -> None:
        """A long epilogue. The sums go by the stack, so that it has all registers; neighbouring vectors are one wide
        vector, which LLVM cuts up operation by operation: their chains then run beside each other. So do those of
        several points."""
        b, vl, (axis, count), aligned = self.b, self.vl, points.along, self.target.vector_bytes
        for k, total in enumerate(sums):
            emit.store_(b, total, self.room, k * vl, aligned=aligned)
        known = self.uniform()
        total = len(self.active) * vl
        dear = waits(DEAR, *(s.expr for s in self.form.stores))
        many = BY_TURNS if dear and count % BY_TURNS == 0 else 1

        def values(point: Env, place: Number, before: int, first: Vector, more: list[Vector]) -> list[tuple]:
            sums, lanes = const(self.type, 0), vl * (1 + len(more))
            if first.valid:
                sums = emit.load_(b, self.room, F32, lanes, add(b, place, before * vl), aligned=aligned)
            return self.values(self.at(point, first), sums, self.mask(first), first.valid > 0, None, known)

        for row in range(0, len(points.envs), count):
            with emit.loop(b, 0, count, many, name="end") as k:
                at = [add(b, k, n) for n in range(many)]
                places = [(points.envs[row] | {axis: add(b, points.envs[row][axis], n)},
                           mul(b, add(b, n, row), total)) for n in at]  # fmt: skip
                for before, (first, *more) in self.strips:
                    chains = [partial(values, point, place, before, first, more) for point, place in places]
                    for found in b.by_turns(chains) if many > 1 else [chain() for chain in chains]:
                        put(found)

    @cached_property
    def room(self) -> ir.Value:
        """Where the sums of a tile lie while a long epilogue goes through them."""
        most = max(size for size, _ in self.tile.sizes)
        return emit.stack(self.b, F32, most * len(self.active) * self.vl)

    @cached_property
    def strips(self) -> list[tuple[int, list[Vector]]]:
        """The vectors in strips of whole neighbours, each with how many that exist go before it."""
        out, before = [], 0
        for vector in self.vectors:
            last = out[-1][1][-1] if out else vector
            whole, follows = last.valid == vector.valid == self.vl, vector.lane == last.lane + self.vl
            if whole and follows and vector.block == last.block:
                out[-1][1].append(vector)
            else:
                out.append((before, [vector]))
            before += vector.valid > 0
        return out

    def uniform(self) -> dict[E, ir.Value]:
        """What all elements of the epilogue share, such as the terms of a learning rate: LLVM does not know that stores
        leave it as it is, and would compute it for each vector."""
        same: dict[E, ir.Value] = {}
        written = {s.buffer for s in self.form.stores}
        values = Values(self.b, self.buffers, self.pointers, self.env, self.target, known=same)
        for e in walk(*(s.expr for s in self.form.stores)):
            loaded = e.op == "load" and e.attr[0] not in written and e.attr[1][0] == Aff(e.attr[1][0].const)
            if loaded or (e.args and e.op != "guard" and all(a.op == "const" or a in same for a in e.args)):
                same[e] = values.value(e)
        return same

    def values(
        self,
        env: Env,
        total: ir.Value,
        mask: ir.Value | None,
        exists: bool,
        clipped_axis: str | None,
        known: Mapping[E, ir.Value] | None = None,
    ) -> list[tuple[Values, Store, ir.Value]]:
        """What is to be stored for a vector of sums, or for neighbouring ones; of one that does not exist, into the
        padding. `known`: what has been computed of the epilogue."""
        form, made, found = self.form, {}, []
        for s in form.stores:
            clipped = form.clipped(s, form.lanes)
            if (clipped and not exists) or (clipped_axis and form.clipped(s, clipped_axis)):
                continue
            if clipped not in made:
                lanes, temps = Lanes(form.lanes, emit.lanes_of(total), mask if clipped else None), {ACC.attr: total}
                where = self.b, self.buffers, self.pointers, env, self.target
                made[clipped] = Values(*where, lanes, temps, self.extents, known, self.offsets)
            found.append((made[clipped], s, made[clipped].vector(s.expr)))
        return found


def put(found: list[tuple[Values, Store, ir.Value]]) -> None:
    """The stores, after all values: one may change what another reads, such as a moment of the optimizer."""
    for values, s, value in found:
        values.store(s.buffer, s.indices[0], value)


def _parted(aff: Aff, axes: set[str]) -> tuple[Aff, Aff]:
    """`aff` without the terms of `axes`, and those terms."""
    return Aff(aff.const, tuple(t for t in aff.terms if t[0] not in axes)), Aff(
        0, tuple(t for t in aff.terms if t[0] in axes)
    )
