"""A group of lanes: the sums of its register tiles, and their stores.

What enters: the points of a tile, and where the reduction axes stand. What leaves: accumulators as SSA values, and the
stores of the epilogue. Each step loads the vectors of w, broadcasts the points' elements of x, and does one fused
multiply-add for each pair.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial, reduce

from llvmlite import ir

from graphc.schedule.expr import Aff
from graphc.schedule.kernels import ACC
from graphc.schedule.layout import Buffer

from .. import emit
from ..emit import F32, Number, add, address, affine, const, i64, mul
from ..target import Target
from ..values import Lanes, Values
from .form import LINE, Form
from .tiles import Plan, tiles_along

Env = dict[str, Number]
Stream = tuple[ir.Value, Aff, int]  # what is fetched ahead: from where, bytes further by the reduction axes, and a step


@dataclass(frozen=True)
class Points:
    """The points of a register tile: where the point axes stand, and how many elements of x each lies after the first;
    None when that is known at run time only. `before` counts the points before the tile, as (number, of how many)."""

    envs: list[Env]
    shifts: list[int] | None
    before: tuple[tuple[Number, int], ...] = ()


@dataclass(frozen=True)
class Vector:
    """One vector of a lane group: `block` after the group's first, `lane` in it, and how many of its lanes exist."""

    block: int
    lane: int
    valid: int


@dataclass(frozen=True)
class Work:
    """What all groups of a kernel share: where its code goes, what it is, and its operands."""

    b: ir.IRBuilder
    form: Form
    plan: Plan
    buffers: Mapping[str, Buffer]
    pointers: Mapping[str, ir.Value]
    target: Target


class LaneGroup:
    """One group of lanes of a unit, from block `first` on: the sums of its register tiles, and their stores."""

    def __init__(
        self, work: Work, env: Env, first: Number, vectors: list[Vector], unroll: int, extents: Mapping[str, int]
    ):
        self.b, self.form, self.plan, self.unroll = work.b, work.form, work.plan, unroll
        self.buffers, self.pointers, self.target = work.buffers, work.pointers, work.target
        self.env, self.first, self.extents = env, first, extents
        self.vectors, self.active = vectors, [v for v in vectors if v.valid]
        self.vl, self.type = work.target.vl, emit.vec(F32, work.target.vl)
        red = {a for a, _ in self.form.red}
        (self.x_at, self.x_red), (self.w_at, self.w_red) = (_parted(a, red) for a in (self.form.x, self.form.w))

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
        x, w = self.pointers[form.x_buffer], self.pointers[form.w_buffer]
        base = self.at(points.envs[0], self.active[0])
        w_from = emit.freeze(b, address(b, w, F32, affine(b, self.w_at, base)))
        ahead = [self.w_ahead(points, w_from)] if self.plan.w_ahead else []
        blocks = form.w.coef(form.partner) if form.partner else 0
        rows = [(v.lane + blocks * v.block, self.mask(v) if form.w_clipped else None) for v in self.active]
        if points.shifts is None:
            envs = [self.at(p, self.active[0]) for p in points.envs]
            places = [(emit.freeze(b, address(b, x, F32, affine(b, self.x_at, e))), 0) for e in envs]
        else:
            start = emit.freeze(b, address(b, x, F32, affine(b, self.x_at, base)))
            places = [(start, s) for s in points.shifts]
        ahead += [self.x_ahead(points, places[0][0])] if self.plan.x_ahead else []

        def x_values(offset: Number) -> Iterator[ir.Value]:
            for pointer, shift in places:
                yield emit.splat(b, emit.load_(b, pointer, F32, None, add(b, offset, shift)), vl)

        def w_values(offset: Number) -> Iterator[ir.Value]:
            for shift, mask in rows:
                yield emit.load_(b, w_from, F32, vl, add(b, offset, shift), mask)

        def emit_steps(env: Env, axis: str | None, count: int, acc: list) -> list[ir.Value]:
            many = len(rows)
            self.fetch(ahead, env, count)
            at = affine(b, self.x_red, env), affine(b, self.w_red, env)
            for n in range(count):
                further = (self.x_red.coef(axis) * n, self.w_red.coef(axis) * n) if axis else (0, 0)
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

    def w_ahead(self, points: Points, w_from: ir.Value) -> Stream:
        """The weights that follow this group's. They arrive evenly while all its tiles go by, where the first tile
        would wait for them."""
        b, form, plan = self.b, self.form, self.plan
        size = 4 * form.packed * tiles_along(len(self.vectors) * self.vl, form.block)
        many = math.prod(e for _, e in form.points)
        # of the points of one unit; chunks that share a group share the next one's weights as well
        each = tiles_along(size * (plan.chunks if plan.points_first else 1), many)
        before = reduce(partial(add, b), (mul(b, n, count) for n, count in points.before), 0)
        share = mul(b, before, each)
        share = share % size if isinstance(share, int) else b.urem(share, i64(size))
        step = tiles_along(each * len(points.envs) * form.block, form.packed)
        at = Aff(0, tuple((a, c // form.block * step) for a, c in self.w_red.terms))
        return emit.beyond(b, w_from, add(b, share, size)), at, step

    def x_ahead(self, points: Points, x_from: ir.Value) -> Stream:
        """What a tile some points further on will read of x."""
        together, step = self.form.together, 4 * len(points.envs)
        at = Aff(0, tuple((a, c * step if c < together else 4 * c) for a, c in self.x_red.terms))
        return emit.beyond(self.b, x_from, 4 * together * self.plan.x_ahead), at, step

    def fetch(self, streams: list[Stream], env: Env, count: int) -> None:
        for start, at, step in streams:
            offset = affine(self.b, at, env)
            for line in range(0, count * step, 4 * LINE):
                emit.prefetch(self.b, emit.beyond(self.b, start, add(self.b, offset, line)))

    def resume(self, points: Points, fresh: ir.Value) -> list[ir.Value]:
        """Accumulators from the output, or zero where the sum begins."""
        b, store, out = self.b, self.form.plain, []
        for point in points.envs:
            for vector in self.active:
                at = affine(b, store.indices[0], self.at(point, vector))
                held = emit.load_(b, self.pointers[store.buffer], F32, self.vl, at)
                out.append(b.select(fresh, const(self.type, 0), held))
        return out

    def finish(self, points: Points, sums: list[ir.Value], clipped_axis: str | None = None) -> None:
        """The epilogue: stores of a tile. Vectors beyond the last channel are sums of nothing. Stores that do not
        reach into the padding of `clipped_axis` are left out."""
        totals = iter(sums)
        for point in points.envs:
            for vector in self.vectors:
                total = next(totals) if vector.valid else const(self.type, 0)
                self.store(self.at(point, vector), vector, total, clipped_axis)

    def store(self, env: Env, vector: Vector, total: ir.Value, clipped_axis: str | None) -> None:
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
