"""Register-tiled contractions: convolution, its two gradients and matrix products from one generator.

What enters: a `Contraction`, flattened or not, whose `w` has unit stride along the lanes. What leaves: an LLVM function
`k(buffers..., i64 lo, i64 hi)` over units. All kinds are one form: `out[points, lanes] = sum over red of x[point, red] *
w[red, lanes]`. A register tile holds points x vectors accumulators as SSA values; each step loads the vectors of w,
broadcasts the points' elements of x, and does one fused multiply-add for each pair. So every output element is one
chain of fused multiply-adds in the order of `red` from 0: tiles, units and targets never change a bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from llvmlite import ir

from graphc.schedule.expr import Aff, substitute_axes, walk
from graphc.schedule.kernels import ACC, Access, Axis, Contraction, Store, reads, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.normal import ClippedStore, FlatContraction, Split, flatten_contraction

from ..emit import (
    F32, I64, PTR, KernelCode, Number, add, address, affine, const, fma, function, i64, if_, if_else, load_, loop,
    loop_carry, mul, prefix_mask, splat, store_, vec,
)  # fmt: skip
from ..target import Target
from ..values import Lanes, Values
from .tiles import Group, Tile, choose, equalised, tiles_along

UNITS = 64  # enough for every thread count in use, few enough that a unit stays long
LEAST_STEPS = 64  # of a block of a sum: below, loading and storing the accumulators costs more than the cache saves
UNROLLED_FMAS = 56  # in the innermost loop; more fill the cache of decoded instructions and make LLVM spill

Buffers = Mapping[str, Buffer]
Env = dict[str, Number]


def emit_contraction(module: ir.Module, name: str, kernel: Contraction, buffers: Buffers, target: Target) -> KernelCode:
    """The kernel as a function `name` of `module`. ValueError where the operands do not have the form that the tiles
    need (then `kernel.to_loops()` is the way)."""
    form = _analyse(flatten_contraction(kernel, buffers), buffers)
    plan = _plan(form, buffers, target)
    written = writes(kernel)
    arguments = tuple(dict.fromkeys([kernel.x.buffer, kernel.w.buffer, *reads(kernel), *written]))
    aliased = set(written) & {kernel.x.buffer, kernel.w.buffer}
    if aliased:
        raise ValueError(f"contraction {kernel.name} writes its operand {', '.join(sorted(aliased))}")
    types = [*(PTR for _ in arguments), I64, I64]
    made, b = function(
        module,
        name,
        types,
        [*arguments, "lo", "hi"],
        noalias=arguments,
        readonly=[a for a in arguments if a not in written],
    )
    *pointers, lo, hi = made.args
    emitter = _Emitter(b, form, plan, buffers, dict(zip(arguments, pointers, strict=True)), target)
    with loop(b, lo, hi, name="unit") as unit:
        emitter.unit(unit)
    b.ret_void()
    return KernelCode(made, arguments, plan.units)


# what the kernel looks like to the tiles


@dataclass(frozen=True)
class _Form:
    """A flattened contraction with its axes by role. `partner` is the axis of lane blocks (None: there is one block);
    `batch` axes appear in both operands; `points` are those that w does not know; `partial` are the reduction axes whose
    last block is incomplete, by their outer axis."""

    name: str
    x: Aff
    w: Aff
    x_buffer: str
    w_buffer: str
    stores: tuple[Store, ...]
    lanes: str
    partner: str | None
    block: int
    channels: int
    batch: tuple[Axis, ...]
    points: tuple[Axis, ...]
    red: tuple[Axis, ...]
    partial: Mapping[str, Split]
    w_clipped: bool
    extents: Mapping[str, int]

    @property
    def steps(self) -> int:
        """Multiply-adds in one output element."""
        total = math.prod(e for _, e in self.red)
        for s in self.partial.values():
            total = total * s.extent // (s.blocks * s.block)
        return total

    @property
    def lanes_clipped(self) -> bool:
        """Whether the lanes beyond `channels` must not be touched somewhere."""
        return self.w_clipped or any(_lane_bounds(s, self.lanes) for s in self.stores)

    @property
    def plain(self) -> Store | None:
        """The only store, where it stores just the sum, along the lanes, everywhere: sums may then rest in memory."""
        if len(self.stores) != 1 or isinstance(self.stores[0], ClippedStore) or self.stores[0].expr is not ACC:
            return None
        return self.stores[0] if self.stores[0].indices[0].coef(self.lanes) == 1 else None


def _lane_bounds(store: Store, lanes: str) -> bool:
    return isinstance(store, ClippedStore) and any(aff.coef(lanes) for aff, _, _ in store.valid)


def _analyse(kernel: FlatContraction, buffers: Buffers) -> _Form:
    """Roles of the axes. Axes of one iteration are dropped and neighbours that every offset sees as one are joined."""
    x, w, split = kernel.x.indices[0], kernel.w.indices[0], kernel.split(kernel.lanes)
    names = {kernel.x.buffer, kernel.w.buffer, *(s.buffer for s in kernel.stores)}
    if any(buffers[n].dtype != "f32" for n in names):
        raise ValueError(f"contraction {kernel.name} is not all f32")
    if w.coef(kernel.lanes) != 1 or x.coef(kernel.lanes):
        raise ValueError(f"contraction {kernel.name}: %{kernel.w.buffer} has stride {w.coef(kernel.lanes)} along lanes")
    if any(s.partial and s.inner in dict(kernel.red) and s.outer not in dict(kernel.red) for s in kernel.splits):
        raise ValueError(f"contraction {kernel.name} sums over part of an incomplete block")
    kernel = _without(kernel, [a for a, e in kernel.par + kernel.red if e == 1 and a != kernel.lanes])
    kernel = _joined(kernel, split.outer)
    x, w = kernel.x.indices[0], kernel.w.indices[0]
    par = [(a, e) for a, e in kernel.par if a != kernel.lanes]
    partner = split.outer if split.outer in dict(par) else None
    if partner and x.coef(partner):
        raise ValueError(f"contraction {kernel.name}: %{kernel.x.buffer} depends on the lanes")
    red = dict(kernel.red)
    return _Form(
        kernel.name,
        x,
        w,
        kernel.x.buffer,
        kernel.w.buffer,
        kernel.stores,
        kernel.lanes,
        partner,
        split.block,
        split.extent,
        tuple((a, e) for a, e in par if a != partner and w.coef(a)),
        tuple((a, e) for a, e in par if a != partner and not w.coef(a)),
        kernel.red,
        {s.outer: s for s in kernel.splits if s.partial and s.inner in red and s.outer in red},
        kernel.w_clipped,
        dict(kernel.par + kernel.red),
    )


def _substituted(kernel: FlatContraction, axes: Mapping[str, Aff], extents: Mapping[str, int]) -> FlatContraction:
    """Axes replaced everywhere. `extents` gives the remaining axes, those replaced left out."""

    def store(s: Store) -> Store:
        s = replace(s, indices=(s.indices[0].substitute(axes),), expr=substitute_axes(s.expr, axes))
        if isinstance(s, ClippedStore):
            s = replace(s, valid=tuple((a.substitute(axes), lo, hi) for a, lo, hi in s.valid))
        return s

    def access(a: Access) -> Access:
        return replace(a, indices=(a.indices[0].substitute(axes),))

    return replace(
        kernel,
        par=tuple((a, extents[a]) for a, _ in kernel.par if a in extents),
        red=tuple((a, extents[a]) for a, _ in kernel.red if a in extents),
        x=access(kernel.x),
        w=access(kernel.w),
        stores=tuple(store(s) for s in kernel.stores),
    )


def _without(kernel: FlatContraction, gone: list[str]) -> FlatContraction:
    """Axes of one iteration dropped. One that holds the only, incomplete block leaves its inner axis shortened."""
    sizes = dict(kernel.par + kernel.red)
    for s in kernel.splits:
        if s.outer in gone and s.inner in dict(kernel.red):
            sizes[s.inner] = s.valid(0)
    return _substituted(kernel, dict.fromkeys(gone, Aff()), {a: e for a, e in sizes.items() if a not in gone})


def _joined(kernel: FlatContraction, partner: str) -> FlatContraction:
    """Neighbouring axes (a, b) become one where every use of them is a multiple of `extent(b) * a + b`."""
    splits = {s.outer: s for s in kernel.splits}
    for axes in (kernel.par, kernel.red):
        for (a, _), (inner, _) in zip(axes, axes[1:], strict=False):
            sizes = dict(kernel.par + kernel.red)
            if {a, inner} & {kernel.lanes, partner} or a not in sizes:
                continue
            uses = _uses(kernel) if axes is not kernel.red and a in dict(kernel.par) else None
            operands = [kernel.x.indices[0], kernel.w.indices[0]]
            split = splits.get(a) if splits.get(a) and splits[a].inner == inner else None
            if split is None and any(s.partial and {a, inner} & {s.outer, s.inner} for s in kernel.splits):
                continue
            if all(u.coef(a) == u.coef(inner) * sizes[inner] for u in (operands if uses is None else uses)):
                whole = sizes.pop(a) * sizes[inner]
                summed = split is not None and inner in dict(kernel.red)
                sizes[inner] = split.extent if summed else whole
                kernel = _substituted(kernel, {a: Aff()}, sizes)
    return kernel


def _uses(kernel: FlatContraction) -> list[Aff]:
    """Every affine form of the kernel: offsets, guards, clips, axis values."""
    out = [kernel.x.indices[0], kernel.w.indices[0]]
    for s in kernel.stores:
        out.append(s.indices[0])
        out += [aff for aff, _, _ in (s.valid if isinstance(s, ClippedStore) else ())]
        for e in walk(s.expr):
            if e.op == "load":
                out += [i for i in e.attr[1] if isinstance(i, Aff)]
            elif e.op == "guard":
                out += [aff for aff, _, _ in e.attr]
            elif e.op == "axis":
                out.append(e.attr)
    return out


# how it is cut


@dataclass(frozen=True)
class _Plan:
    """`groups` of lanes with their tiles, `chunks` of points, and the order of units: `points_first` keeps a piece of x
    near while the groups go by, else a group's weights stay near while the points go by. `rest`: (position in `red`,
    length) of the blocks of the sum between which accumulators rest in the output. `unroll`: steps of the innermost loop."""

    groups: tuple[Group, ...]
    chunks: int
    points_first: bool
    rest: tuple[int, int] | None
    unroll: int
    units: int


def _plan(form: _Form, buffers: Buffers, target: Target) -> _Plan:
    if form.block % target.vl:
        raise ValueError(f"contraction {form.name}: blocks of {form.block} lanes are no multiple of {target.vl}")
    per_block = form.block // target.vl
    vectors = -(-form.channels // target.vl)
    strides = {a: form.x.coef(a) for a, _ in form.points}
    apart = form.lanes_clipped and form.channels % target.vl != 0
    groups = choose(form.points, vectors, per_block, form.steps, strides, target, apart)
    outer = math.prod(e for _, e in form.batch) * sum(g.count for g in groups)
    most = max(g.tile.chunks for g in groups)
    chunks = min(most, -(-UNITS // outer))
    weights, x = buffers[form.w_buffer].bytes, buffers[form.x_buffer].bytes
    points_first = weights <= target.l2_bytes // 2 < x
    if points_first:
        chunks = min(most, max(chunks, -(-UNITS // math.prod(e for _, e in form.batch))))
    rest = _rest(form, groups, chunks, target)
    if rest and len(form.points) > 1 and form.points[0][1] <= most:
        # one outermost point at a time: its piece of x is what the blocks of the sum keep in the cache
        chunks = max(chunks, form.points[0][1])
        rest = _rest(form, groups, chunks, target)
    units = outer * chunks
    return _Plan(groups, chunks, points_first and not rest, rest, _unroll(form, groups), units)


def _unroll(form: _Form, groups: tuple[Group, ...]) -> int:
    """Steps in one iteration of the innermost loop, such that no two of them read the same element of x for different
    points: LLVM would keep every such element in a register, across the whole block, and spill the accumulators."""
    if not form.red:
        return 1
    axis, extent = form.red[-1]
    step, widest = abs(form.x.coef(axis)), max(max(g.tile.rows, g.tile.cols) for g in groups)
    tiled = {a for g in groups for a in (g.tile.axes or dict(form.points))}
    most = max(max(g.tile.rows * g.tile.cols, 1) * g.tile.vectors for g in groups)

    def distinct(n: int) -> bool:
        reached = {abs(form.x.coef(a)) * d for a in tiled for d in range(1, min(form.extents[a], widest))}
        return not any(step * k in reached for k in range(1, n))

    return next(n for n in (4, 2, 1) if n == 1 or (n <= extent and n * most <= UNROLLED_FMAS and distinct(n)))


def _rest(form: _Form, groups: tuple[Group, ...], chunks: int, target: Target) -> tuple[int, int] | None:
    """Where to cut the sum so that a block's part of both operands stays in the first-level cache while all tiles of a
    unit go by; None where nothing is gained, or the accumulators cannot rest in the output."""
    if form.plain is None or form.partial or not form.red:
        return None
    tile = groups[0].tile
    if (
        math.prod(
            tiles_along(s, c) for s, c in zip(tile.spans, (tile.rows, tile.cols)[-len(tile.spans) :], strict=True)
        )
        * (math.prod(e for _, e in tile.rest))
        <= 2 * chunks
    ):
        return None
    budget, blocks = target.l1_bytes * 3 // 4, -(-tile.vectors * target.vl // form.block)
    near = form.points[1:] if chunks % form.points[0][1] == 0 else form.points

    def footprint(position: int, length: int) -> int:
        inner = {a: e for a, e in form.red[position:]} | {form.red[position][0]: length}
        spans = [
            aff.range(inner | dict(extra))
            for aff, extra in ((_only(form.x, inner, near), near), (_only(form.w, inner), ()))
        ]
        (xl, xh), (wl, wh) = spans
        return 4 * (xh - xl + 1 + (wh - wl + form.block) * blocks)

    for position, (_, extent) in enumerate(form.red):
        inside = math.prod(e for _, e in form.red[position + 1 :])
        least = max(1, -(-LEAST_STEPS // inside))
        fitting = [n for n in range(min(least, extent), extent + 1) if footprint(position, n) <= budget]
        if fitting:
            if position == 0 and fitting[-1] == extent:
                return None
            return position, equalised(extent, fitting[-1])[0][0]
    return None


def _only(aff: Aff, *axes) -> Aff:
    kept = {a for group in axes for a in (group if isinstance(group, dict) else dict(group))}
    return Aff(0, tuple((a, c) for a, c in aff.terms if a in kept))


# the code


@dataclass(frozen=True)
class _Vector:
    """One vector of a group: `block` after the group's first, `lane` in it, and how many of its lanes exist."""

    block: int
    lane: int
    valid: int


class _Emitter:
    def __init__(self, b, form: _Form, plan: _Plan, buffers: Buffers, pointers: Mapping[str, ir.Value], target: Target):
        self.b, self.form, self.plan, self.buffers, self.pointers = b, form, plan, buffers, pointers
        self.target, self.vl = target, target.vl
        self.type = vec(F32, target.vl)
        red = {a for a, _ in form.red}
        self.x_red, self.w_red = _only(form.x, form.red), _only(form.w, form.red)
        self.x_par = Aff(form.x.const, tuple(t for t in form.x.terms if t[0] not in red))
        self.w_par = Aff(form.w.const, tuple(t for t in form.w.terms if t[0] not in red))

    def unit(self, unit: ir.Value) -> None:
        """One unit: a chunk of the points times one group of lanes."""
        form, plan, b = self.form, self.plan, self.b
        order = [("", plan.chunks), ("group", sum(g.count for g in plan.groups))]
        dims = [*form.batch, *(order if plan.points_first else order[::-1])]
        at = self.decode(unit, [e for _, e in dims])
        env: Env = dict(zip((a for a, _ in form.batch), at, strict=False))
        chunk, group = at[-2:] if plan.points_first else at[:-3:-1]
        main, *last = plan.groups
        if not last:
            self.group(env, main, group, chunk)
            return
        with if_else(b, b.icmp_signed("<", i64(group), i64(main.count))) as (then, otherwise):
            with then:
                self.group(env, main, group, chunk)
            with otherwise:
                self.group(env, last[0], main.count, chunk)

    def decode(self, flat: Number, extents: list[int]) -> list[Number]:
        """A flat number as coordinates, the last one fastest."""
        out: list[Number] = []
        for extent in extents[:0:-1]:
            if isinstance(flat, int):
                flat, rest = divmod(flat, extent)
            elif extent == 1:
                rest = 0
            else:
                q = self.b.udiv(flat, i64(extent))
                rest, flat = self.b.sub(flat, mul(self.b, q, extent), flags=("nsw",)), q
            out.append(rest)
        # the first coordinate needs no remainder
        return [flat if extents and extents[0] > 1 else 0, *out[::-1]]

    def group(self, env: Env, group: Group, number: Number, chunk: Number) -> None:
        """The points of a chunk for one group of lanes, in blocks of the sum where the plan says so."""
        form, b, main = self.form, self.b, self.plan.groups[0]
        per_block = form.block // self.vl
        extents = dict(form.extents)
        if group is main and main.count > 1:
            first = mul(b, number, main.tile.vectors // per_block)
            extents[form.partner] = main.count * main.tile.vectors // per_block
            valid = [self.vl] * group.tile.vectors
        else:
            first = 0 if group is main else main.count * main.tile.vectors // per_block
            lane = first * form.block
            valid = [min(self.vl, form.channels - lane - k * self.vl) for k in range(group.tile.vectors)]
            valid += [0] * (-len(valid) % per_block)
        vectors = [_Vector(k // per_block, k % per_block * self.vl, n) for k, n in enumerate(valid)]
        lanes = _Group(self, env, first, vectors, extents)
        tile, count = group.tile, self.plan.chunks
        lo, hi = 0, tile.chunks
        if count > 1:
            lo, hi = (b.udiv(i64(mul(b, add(b, chunk, k), tile.chunks)), i64(count)) for k in (0, 1))
        if self.plan.rest is None:
            for points in self.tiles(tile, lo, hi):
                sums = lanes.sum(points, [const(self.type, 0)] * (len(points.envs) * len(lanes.active)))
                lanes.finish(points, sums)
            return
        position, length = self.plan.rest
        with ExitStack() as stack:
            fixed: Env = {}
            for axis, extent in form.red[:position]:
                fixed[axis] = stack.enter_context(loop(b, 0, extent, name=axis))
            axis, extent = form.red[position]
            start = stack.enter_context(loop(b, 0, extent, length, name=axis))
            stop = add(b, start, length)
            if extent % length:
                stop = self.least(stop, extent)
            begun = [b.icmp_signed("==", i64(i), i64(0)) for i in (*fixed.values(), start)]
            fresh = begun[0]
            for condition in begun[1:]:
                fresh = b.and_(fresh, condition)
            for points in self.tiles(tile, lo, hi):
                held = lanes.resume(points, fresh)
                lanes.finish(points, lanes.sum(points, held, position, fixed, {axis: (start, stop)}))

    def least(self, x: Number, y: Number) -> Number:
        return self.bound("<", x, y)

    def bound(self, sign: str, x: Number, y: Number) -> Number:
        if isinstance(x, int) and isinstance(y, int):
            return min(x, y) if sign == "<" else max(x, y)
        return self.b.select(self.b.icmp_signed(sign, i64(x), i64(y)), i64(x), i64(y))

    def along(self, extent: int, size: int, lo: Number, hi: Number) -> Iterator[tuple[Number, int]]:
        """(start, size) of the equalised tiles number lo .. hi-1 of an axis, inside the loops over them."""
        first = offset = 0
        for many, count in equalised(extent, size):
            begin, end = self.bound(">", lo, first), self.bound("<", hi, first + count)
            with loop(self.b, begin, end, name="tile") as t:
                yield add(self.b, mul(self.b, t, many), offset), many
            # each large tile before it puts a small one a point further than its number says
            first, offset = first + count, offset + count

    def tiles(self, tile: Tile, lo: Number, hi: Number) -> Iterator[_Points]:
        """The register tiles of chunk pieces lo .. hi-1, inside the loops over them."""
        b, x = self.b, self.form.x
        if tile.gather:
            names, extents = [a for a, _ in tile.sizes], [e for _, e in tile.sizes]
            for start, n in self.along(tile.spans[0], tile.cols, lo, hi):
                at = [self.decode(add(b, start, k), extents) for k in range(n)]
                yield _Points([dict(zip(names, p, strict=True)) for p in at], None)
            return
        *row_axis, col_axis = tile.axes or (None,)
        row_span, col_span = tile.spans[0] if row_axis else 1, tile.spans[-1]
        whole_rows, whole_cols = (0, tiles_along(row_span, tile.rows)), (0, tiles_along(col_span, tile.cols))
        with ExitStack() as stack:
            env: Env = {}
            if tile.rest:
                piece = stack.enter_context(loop(b, lo, hi, name="piece"))
                env = dict(zip((a for a, _ in tile.rest), self.decode(piece, [e for _, e in tile.rest]), strict=True))
            elif row_axis:
                whole_rows = lo, hi
            else:
                whole_cols = lo, hi
            for row, rows in self.along(row_span, tile.rows, *whole_rows):
                for col, cols in self.along(col_span, tile.cols, *whole_cols):
                    envs, shifts = [], []
                    for i in range(rows):
                        for j in range(cols):
                            at = {row_axis[0]: add(b, row, i)} if row_axis else {}
                            envs.append(env | at | ({col_axis: add(b, col, j)} if col_axis else {}))
                            shifts.append(
                                (x.coef(row_axis[0]) * i if row_axis else 0) + (x.coef(col_axis) * j if col_axis else 0)
                            )
                    yield _Points(envs, shifts)


@dataclass(frozen=True)
class _Points:
    """The points of a tile: where the point axes stand, and how far each lies in x from the first; None when only at
    run time known."""

    envs: list[Env]
    shifts: list[int] | None


class _Group:
    """One group of lanes within a unit: sums over its vectors, and stores them."""

    def __init__(self, emitter: _Emitter, env: Env, first: Number, vectors: list[_Vector], extents: Mapping[str, int]):
        self.e, self.b, self.form, self.env, self.extents = emitter, emitter.b, emitter.form, env, extents
        self.first, self.vectors = first, vectors
        self.active = [v for v in vectors if v.valid]

    def at(self, point: Env, vector: _Vector) -> Env:
        env = self.env | point | {self.form.lanes: vector.lane}
        if self.form.partner:
            env[self.form.partner] = add(self.b, self.first, vector.block)
        return env

    def mask(self, vector: _Vector) -> ir.Value | None:
        return None if vector.valid == self.e.vl else prefix_mask(self.b, self.e.vl, vector.valid)

    def sum(self, points: _Points, acc: list, level: int = 0, red: Env | None = None, limits: Mapping | None = None):
        """Accumulators of a tile, points by vectors, with the sum over `red[level:]` added."""
        b, e, form = self.b, self.e, self.form
        x, w = e.pointers[form.x_buffer], e.pointers[form.w_buffer]
        zero = dict.fromkeys((a for a, _ in form.red), 0)
        base = self.at(points.envs[0], self.active[0])
        w_at = address(b, w, F32, affine(b, e.w_par, base))
        w_shifts = [v.lane + (form.w.coef(form.partner) * v.block if form.partner else 0) for v in self.active]
        masks = [self.mask(v) if form.w_clipped else None for v in self.active]
        if points.shifts is None:
            places = [(address(b, x, F32, affine(b, e.x_par, self.at(p, self.active[0]))), 0) for p in points.envs]
        else:
            start = address(b, x, F32, affine(b, e.x_par, base))
            places = [(start, s) for s in points.shifts]
        many = len(self.active)

        def broadcast(k: int, offset: Number) -> ir.Value:
            pointer, shift = places[k]
            return splat(b, load_(b, pointer, F32, None, add(b, offset, shift)), e.vl)

        def weights(j: int, offset: Number) -> ir.Value:
            return load_(b, w_at, F32, e.vl, add(b, offset, w_shifts[j]), masks[j])

        def step(x_at: Number, w_at: Number, acc: list) -> list:
            """One step: the shorter side is held in registers, the longer one streams."""
            out = list(acc)
            if many <= len(places):
                held = [weights(j, w_at) for j in range(many)]
                for k in range(len(places)):
                    value = broadcast(k, x_at)
                    for j in range(many):
                        out[k * many + j] = fma(b, value, held[j], acc[k * many + j])
            else:
                held = [broadcast(k, x_at) for k in range(len(places))]
                for j in range(many):
                    value = weights(j, w_at)
                    for k in range(len(places)):
                        out[k * many + j] = fma(b, held[k], value, acc[k * many + j])
            return out

        def steps(axis: str, at: Number, count: int, env: Env, acc: list) -> list:
            env = env | {axis: at}
            x_at, w_at = affine(b, e.x_red, env), affine(b, e.w_red, env)
            for k in range(count):
                acc = step(add(b, x_at, e.x_red.coef(axis) * k), add(b, w_at, e.w_red.coef(axis) * k), acc)
            return acc

        def nest(level: int, env: Env, limits: Mapping[str, tuple[Number, Number]], acc: list) -> list:
            if level == len(form.red):
                return step(0, 0, acc)
            axis, extent = form.red[level]
            lo, hi = limits.get(axis, (0, extent))
            if level == len(form.red) - 1:
                unroll = e.plan.unroll if isinstance(lo, int) and isinstance(hi, int) else 1
                even = lo + (hi - lo) // unroll * unroll if unroll > 1 else hi
                with loop_carry(b, lo, even, unroll, acc, axis) as (i, inner, carried):
                    carried.yield_(steps(axis, i, unroll, env, inner))
                acc = carried.values
                return steps(axis, even, hi - even, env, acc) if unroll > 1 and even < hi else acc
            split = form.partial.get(axis)
            stop = split.blocks - 1 if split else hi
            with loop_carry(b, lo, stop, 1, acc, axis) as (i, inner, carried):
                carried.yield_(nest(level + 1, env | {axis: i}, limits, inner))
            acc = carried.values
            if split:
                last = dict(limits) | {split.inner: (0, split.valid(stop))}
                acc = nest(level + 1, env | {axis: stop}, last, acc)
            return acc

        return nest(level, zero | (red or {}), limits or {}, acc)

    def resume(self, points: _Points, fresh: ir.Value) -> list[ir.Value]:
        """Accumulators from the output, or zero where the sum begins."""
        b, store, out = self.b, self.form.plain, []
        for point in points.envs:
            for vector in self.active:
                at = affine(b, store.indices[0], self.at(point, vector))
                held = load_(b, self.e.pointers[store.buffer], F32, self.e.vl, at)
                out.append(b.select(fresh, const(self.e.type, 0), held))
        return out

    def finish(self, points: _Points, sums: list[ir.Value]) -> None:
        """The epilogue: stores of a tile. Vectors beyond the last channel count as sums of zero."""
        rows = iter(sums)
        for point in points.envs:
            for vector in self.vectors:
                total = next(rows) if vector.valid else const(self.e.type, 0)
                self.store(point, vector, total)

    def store(self, point: Env, vector: _Vector, total: ir.Value) -> None:
        form, b, env = self.form, self.b, self.at(point, vector)
        whole = Lanes(form.lanes, self.e.vl)
        made: dict[tuple[bool, bool], Values] = {}
        for s in form.stores:
            lanes = replace(whole, mask=self.mask(vector)) if _lane_bounds(s, form.lanes) else whole
            exists = self.exists(s, env)
            if exists is False or (lanes.mask is not None and not vector.valid):
                continue
            with if_(b, exists):
                key = (lanes.mask is None, exists is True)
                if key not in made or exists is not True:
                    made[key] = self.values(env, lanes, total)
                made[key].store(s.buffer, s.indices[0], made[key].vector(s.expr))

    def values(self, env: Env, lanes: Lanes, total: ir.Value) -> Values:
        e = self.e
        return Values(self.b, e.buffers, e.pointers, env, e.target, lanes, {ACC.attr: total}, self.extents)

    def exists(self, s: Store, env: Env) -> ir.Value | bool:
        """Whether a point is one that the unflattened kernel has."""
        condition: ir.Value | bool = True
        for aff, lo, hi in s.valid if isinstance(s, ClippedStore) else ():
            if aff.coef(self.form.lanes):
                continue
            at = affine(self.b, aff, env)
            if isinstance(at, int):
                inside: ir.Value | bool = lo <= at < hi
                condition = condition if inside else False
            elif condition is not False:
                inside = self.b.icmp_unsigned("<", self.b.sub(at, i64(lo)), i64(hi - lo))
                condition = inside if condition is True else self.b.and_(condition, inside)
        return condition
