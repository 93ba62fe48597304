"""The generic emitter: any `Loops` as one LLVM function of explicit vectors.

What enters: a kernel and the buffers it names. What leaves: `void k(ptr..., i64 lo, i64 hi)`, which computes the units
lo <= u < hi. The order of every reduction is the schedule's (`graphc/schedule/nest.py`), so the bits depend neither on
the vector width nor on how units are shared out. Contractions without a kernel of their own come here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import product

from graphc.schedule.borders import UNROLLED, pieces
from graphc.schedule.canonical import coefficient, stage_accesses, tile_leaves
from graphc.schedule.expr import Aff, E, loads, walk
from graphc.schedule.kernels import Loops, Reduce, Stage, extents, reads, repeatable, writes
from graphc.schedule.layout import Buffer
from graphc.schedule.nest import LANES, SCRATCH_BYTES, Nest, normalise
from graphc.schedule.rewriting import rows_apart
from graphc.schedule.scalar import work

from .. import emit, ir
from ..emit import (
    F32,
    I64,
    MEMORY,
    PTR,
    KernelCode,
    Number,
    add,
    function,
    i64,
    if_,
    if_else,
    load_,
    loop,
    mul,
    prefix_mask,
    stack,
    store_,
)
from ..target import Target
from ..values import Lanes
from .ahead import aheads
from .stages import Parts, Point, Spans, Stages, parts
from .transpose import transpose

VECTORS = 4  # side by side; 2 lose 14 %, 8 gain nothing
COLUMN_VECTORS = 16  # where a reduction walks over rows far apart, each of which gives a short run
COLUMN_STRIDE = 256
NODES = 256  # arithmetic in one iteration of the innermost loop, beyond which fewer vectors go side by side
WINDOW = 7  # points of a sliding window side by side: divides the sizes of most maps; 4 take 1.5 times as long
# Arithmetic beyond which the columns of a transposed tile share one piece of code: the transform of 3x3 weights is
# 1,250 lines instead of 4,350, and the step of resnet18 takes 0.98 of the time.
TILE_NODES = 64
FEW_NODES = 16  # arithmetic beyond which the loop itself costs too little to be worth a second copy of the body
# With more loads and stores in an iteration, LLVM is kept from their addresses: it would take them apart to find better
# ones, in up to two thirds of the time of compiling the kernel, and not make it faster.
FEW_ACCESSES = 16
PACKED = ("weight", "const", "state", "arena", "thread")  # places whose buffers begin at multiples of 64 bytes
Span = tuple[Number, Number] | None
BASE = "%base"  # the lanes axis's value in the first lane


def emit_loops(
    module: ir.Module, name: str, kernel: Loops | Nest, buffers: Mapping[str, Buffer], target: Target, steps: int = 0
) -> KernelCode:
    """A kernel (logical, flat or normalised) as a function of `module`. `steps`: how many of its first parallel axes
    are those of a block."""
    nest = normalise(kernel, buffers, steps)
    nest = _scratch_by_lanes(nest, target.vl) if nest.vector else nest
    loops = nest.kernel
    written = writes(loops)
    names = tuple(dict.fromkeys((*reads(loops), *written)))
    stores = tuple(parts(s, target.vector_registers) for s in loops.stages)
    parted = any(len(groups) > 1 for groups in stores)
    made, b = function(
        module,
        name,
        [PTR] * len(names) + [I64, I64],
        [*names, "units.lo", "units.hi"],
        noalias=names,
        # what is said to be read only, LLVM would not load a second time for a further part of a stage
        readonly=[n for n in names if n not in written and not parted],
        align={n: 64 for n in names if buffers[n].place in PACKED},
    )
    *pointers, lo, hi = made.args
    emitter = _Emitter(b, nest, buffers, dict(zip(names, pointers, strict=True)), target, stores)
    with loop(b, lo, hi, name="unit") as unit:
        emitter.unit(unit)
    b.ret_void()
    return KernelCode(made, names, nest.units)


class _Emitter:
    def __init__(
        self,
        b: ir.IRBuilder,
        nest: Nest,
        buffers: Mapping[str, Buffer],
        pointers: Mapping,
        target: Target,
        stores: Parts,
    ):
        self.b, self.vl, self.vector = b, target.vl, nest.vector
        self.nest = nest
        self.par, self.sizes = nest.kernel.par, extents(nest.kernel)
        self.nodes = self._nodes()
        self.vectors = self._side_by_side(target)
        self.copies = self._copies()
        if window := self._window(target):
            self.vectors, self.copies = 1, window
        # in a chunk of its own a repeated element would belong to another unit
        outs = [o for s in nest.kernel.stages for o in s.outs]
        self.again = nest.vector is not None and not self._chunked(nest.vector) and repeatable(outs)
        own = {s.name: s for s in nest.kernel.scratch}
        opaque = max(map(self._accesses, nest.kernel.stages)) > FEW_ACCESSES
        ahead = aheads(nest, buffers, target)
        self.stages = Stages(b, nest, {**buffers, **own}, pointers, target, stores, ahead, opaque)
        self.scratch: list[dict[str, ir.Value]] = []  # of each point that is computed side by side

    # how much goes side by side

    def _side_by_side(self, target: Target) -> int:
        """Vectors of the lanes axis in one iteration; a power of two."""
        if self.vector is None:
            return 1
        stages = self.nest.kernel.stages
        column = any(self._steps_far(s) for s in stages) and self.sizes[self.vector] >= COLUMN_STRIDE // 4
        wanted = COLUMN_VECTORS if column else VECTORS
        kept = max((self.nest.sets(s) * sum(isinstance(o, Reduce) for o in s.outs) for s in stages), default=1)
        rows = sum(s.bytes for s in self.nest.kernel.scratch)
        chunk = self.nest.chunk if self._chunked(self.vector) else 0  # every part of it but the last has whole vectors
        while wanted > 1 and (
            wanted * kept > target.vector_registers // 2
            or wanted * self.nodes > NODES
            or wanted * rows > SCRATCH_BYTES
            or chunk % (wanted * self.vl)
        ):
            wanted //= 2
        return wanted

    def _copies(self) -> int:
        """Neighbouring values of the innermost loop in one iteration, where one value is less than `vectors`."""
        if self.vector is None or not all(_straight(s) for s in self.nest.kernel.stages):
            return 1
        vectors = -(-self.sizes[self.vector] // self.vl)
        return max(1, min(self.vectors, FEW_NODES // self.nodes) // vectors)

    def _window(self, target: Target) -> int:
        """Points side by side where neighbours read much of the same, as those under a sliding window do: at least one
        load in four serves two of them. Their partial results take half of the registers. 0 elsewhere, and where
        nothing is summed: there stores take the time, and row by row 0.7 to 0.9 of it (AVX-512)."""
        nest, stages = self.nest, [s for s in self.nest.kernel.stages if any(isinstance(o, Reduce) for o in s.outs)]
        walked = self.vector is not None and not nest.tile and nest.grid <= len(self.par) - 2
        if not walked or nest.kernel.scratch or not all(map(_straight, nest.kernel.stages)):
            return 0
        if all(_iterations(s) == 1 for s in stages):
            return 0
        kept = max(sum(1 + (o.op == "argmax") for o in s.outs if isinstance(o, Reduce)) for s in stages)
        most = min(WINDOW, (target.vector_registers // 2 - 1) // kept)
        step = self.par[-2][0]
        alone = {(name, at) for s in stages for name, at in _places(s)}
        together = {(name, at + k * at.coef(step)) for name, at in alone for k in range(most)}
        return most if 4 * len(together) <= 3 * most * len(alone) else 0

    def _nodes(self) -> int:
        """The arithmetic of one vector in one iteration, and what storing takes beside it."""
        total = 0
        for s in self.nest.kernel.stages:
            # lanes that do not lie together are stored one by one
            stores = [at for _, at, is_store in stage_accesses(s) if is_store and self.vector]
            apart = self.vl * sum(coefficient(at, self.vector) not in (0, 1) for at in stores)
            each = apart + sum(work(o.expr) for o in s.outs)
            total += each * (_iterations(s) if _straight(s) else 1)
        return max(total, 1)

    def _accesses(self, stage: Stage) -> int:
        """Loads and stores of one iteration of the innermost loop."""
        one = len(stage_accesses(stage)) * (_iterations(stage) if _straight(stage) else 1)
        vectors = min(self.vectors, -(-self.sizes[self.vector] // self.vl)) if self.vector else 1
        return one * vectors * self.copies

    def _steps_far(self, stage: Stage) -> bool:
        loops = [a for a, _ in stage.axes]
        return not _straight(stage) and any(
            abs(coefficient(e.attr[1][0], loops[-1]) or 0) >= COLUMN_STRIDE
            for o in stage.outs
            for e in walk(o.expr)
            if e.op == "load"
        )

    # parallel axes

    def _chunked(self, name: str) -> bool:
        grid = self.nest.grid
        return grid < len(self.par) and self.par[grid][0] == name and self.nest.chunk < self.par[grid][1]

    def unit(self, unit: ir.Value) -> None:
        """Unit number -> values of the grid axes and the range of the chunked one."""
        b, env, span = self.b, {}, None
        grid = self.nest.grid
        rest: Number = unit
        if grid < len(self.par):
            axis_, extent = self.par[grid]
            span = (0, extent)
            if self._chunked(axis_):
                count = -(-extent // self.nest.chunk)
                rest, number = self._split(rest, count) if grid else (0, unit)
                first = mul(b, number, self.nest.chunk)
                end = add(b, first, self.nest.chunk)
                span = (first, b.select(b.icmp_signed("<", end, emit.const(I64, extent)), end, emit.const(I64, extent)))
        for k in reversed(range(grid)):
            name, extent = self.par[k]
            rest, env[name] = self._split(rest, extent) if k else (0, rest)
        self.descend(0, env, {}, span)

    def _split(self, number: Number, extent: int) -> tuple[Number, Number]:
        return self.b.udiv(number, emit.const(I64, extent)), self.b.urem(number, emit.const(I64, extent))

    def descend(self, k: int, env: dict[str, Number], spans: Spans, span: Span, cut: bool = True) -> None:
        """The parallel axes from the k-th on; `span` is the unit's part of the axis after the grid; `cut`: whether the
        axes are cut at borders."""
        if k == len(self.par):
            self.points([env], spans, [None])
            return
        name, extent = self.par[k]
        parts = pieces(extent, self.nest.cuts.get(name, ()) if cut else ())
        first, stop = span if k == self.nest.grid else (0, extent)
        if k < self.nest.grid:
            self.choose(k, parts, env, spans, span, cut)
        elif self.nest.tile and name in (self.nest.tile, self.vector):
            self.tiles(env, spans, first, stop)
        elif name == self.vector:
            self.lanes([env], spans, first, stop)
        else:
            for low, high, long in parts:
                fixed = isinstance(stop, int)
                begin, end = (low, high) if fixed else (self._clip(first, low, "<"), self._clip(stop, high, ">"))
                self.walk(k, env, {**spans, name: range(low, high)}, begin, end, cut and long)

    def walk(self, k: int, env: dict[str, Number], spans: Spans, begin: Number, end: Number, cut: bool) -> None:
        """The k-th axis from `begin` to `end`, several values at once where it is the last before the lanes."""
        name = self.par[k][0]
        if self.copies > 1 and k + 2 == len(self.par) and cut:
            begin = self.neighbours(name, env, spans, begin, end)
        if not _empty(begin, end):
            with loop(self.b, begin, end, 1, name) as i:
                self.descend(k + 1, {**env, name: i}, spans, None, cut)

    def neighbours(self, name: str, env: dict[str, Number], spans: Spans, begin: Number, end: Number) -> Number:
        """As much of an axis as goes in blocks of neighbours, all about as long; returns where the rest begins."""
        count = len(spans[name])
        step = -(-count // -(-count // self.copies))

        def block(at: Number, count: int) -> None:
            self.lanes([{**env, name: add(self.b, at, c)} for c in range(count)], spans, 0, self.sizes[self.vector])

        whole = self._whole(begin, end, step)
        with loop(self.b, begin, whole, step, name) as i:
            block(i, step)
        if isinstance(whole, int) and isinstance(end, int) and end > whole:
            block(whole, end - whole)
            return end
        return whole

    def _clip(self, x: Number, limit: int, sign: str) -> ir.Value:
        """max(x, limit) for "<", min for ">"."""
        x = i64(x)
        return self.b.select(self.b.icmp_signed(sign, x, emit.const(I64, limit)), emit.const(I64, limit), x)

    def _whole(self, begin: Number, end: Number, step: int) -> Number:
        if isinstance(begin, int) and isinstance(end, int):
            return begin + (end - begin) // step * step
        count = self.b.sub(i64(end), i64(begin))
        return self.b.add(i64(begin), self.b.mul(self.b.sdiv(count, emit.const(I64, step)), emit.const(I64, step)))

    def choose(
        self, k: int, parts: list[tuple[int, int, bool]], env: dict, spans: Spans, span: Span, cut: bool
    ) -> None:
        """A grid axis: one branch for each piece."""
        name = self.par[k][0]
        (low, high, long), *others = parts
        inside = {**spans, name: range(low, high)}
        if not others:
            self.descend(k + 1, env, inside, span, cut and long)
            return
        with if_else(self.b, self.b.icmp_signed("<", env[name], emit.const(I64, high))) as (then, otherwise):
            with then:
                self.descend(k + 1, env, inside, span, cut and long)
            with otherwise:
                self.choose(k, others, env, spans, span, cut)

    def blocks(self, name: str, first: Number, stop: Number, step: int, body: Callable[[Number, int], None]) -> None:
        """body(at, count) for the whole blocks of `step` between `first` and `stop`, then for the rest of the axis."""
        extent = self.sizes[name]
        rest, fixed = extent % step, isinstance(stop, int)
        whole = extent - rest if fixed else self._clip(stop, extent - rest, ">")
        if not _empty(first, whole):
            with loop(self.b, first, whole, step, name) as i:
                body(i, step)
        if rest:
            # only the unit that ends with the axis has a rest, at a place that is known
            last = True if fixed else self.b.icmp_signed("==", stop, emit.const(I64, extent))
            with if_(self.b, last):
                body(extent - rest, rest)

    def tiles(self, env: dict[str, Number], spans: Spans, first: Number, stop: Number) -> None:
        """The tile axis and the lanes axis, the last two, in blocks of 16 by one vector."""
        (outer, _), (inner, extent) = self.par[-2:]
        step = {self.nest.tile: LANES, self.vector: self.vl}
        spans = {**spans, outer: range(self.sizes[outer]), inner: range(extent)}

        def columns(at: Number, count: int) -> None:
            def tile(base: Number, more: int) -> None:
                self.tile({**env, outer: at, inner: base}, spans, {outer: count, inner: more})

            self.blocks(inner, 0, extent, step[inner], tile)

        self.blocks(outer, first, stop, step[outer], columns)

    def tile(self, env: dict[str, Number], spans: Spans, count: Mapping[str, int]) -> None:
        """One tile: loads along the tile axis, transposed; then all else along the lanes axis."""
        (stage,) = self.nest.kernel.stages
        tile, wide, high = self.nest.tile, count[self.nest.tile], count[self.vector]
        known: list[dict[E, ir.Value]] = [{} for _ in range(wide)]
        for leaf in tile_leaves(stage, self.vector, tile):
            for k in range(0, wide, self.vl):
                mask = prefix_mask(self.b, self.vl, wide - k) if wide - k < self.vl else None
                rows = []
                for j in range(high):
                    at = {**env, tile: add(self.b, env[tile], k), self.vector: add(self.b, env[self.vector], j)}
                    rows.append(self.stages.values(at, Lanes(tile, self.vl, mask), spans).vector(leaf))
                rows += [emit.const(rows[0].type, 0)] * (self.vl - high)
                for column, there in zip(transpose(self.b, rows), known[k:], strict=False):
                    there[leaf] = column
        lanes = Lanes(self.vector, self.vl, prefix_mask(self.b, self.vl, high) if high < self.vl else None)
        if self.nodes <= TILE_NODES or any(leaf.dtype != "f32" for leaf in known[0]):
            points = [Point({**env, tile: add(self.b, env[tile], k)}, lanes, {}, known[k]) for k in range(wide)]
            self.stages.run(points, spans)
            return
        for k, columns in enumerate(known):
            for room, column in zip(self.columns, columns.values(), strict=True):
                store_(self.b, column, room, k * self.vl, aligned=4 * self.vl)
        with loop(self.b, 0, wide, name="column") as k:
            at = mul(self.b, k, self.vl)
            rooms = zip(known[0], self.columns, strict=True)
            columns = {leaf: load_(self.b, room, F32, self.vl, at, aligned=4 * self.vl) for leaf, room in rooms}
            self.stages.run([Point({**env, tile: add(self.b, env[tile], k)}, lanes, {}, columns)], spans)

    @cached_property
    def columns(self) -> list[ir.Value]:
        """For each load of a tile, where its columns lie while the loop over them has one of each."""
        (stage,) = self.nest.kernel.stages
        count = len(list(tile_leaves(stage, self.vector, self.nest.tile)))
        return [stack(self.b, F32, LANES * self.vl) for _ in range(count)]

    def lanes(self, envs: list[dict], spans: Spans, first: Number, stop: Number) -> None:
        """The lanes axis from `first` to `stop`, for one or several neighbouring points."""
        spans = {**spans, self.vector: range(self.sizes[self.vector])}
        step = self.vectors * self.vl
        self.blocks(self.vector, first, stop, step, lambda at, count: self.block(envs, spans, at, count))

    def block(self, envs: list[dict], spans: Spans, at: Number, count: int) -> None:
        """`count` elements of the lanes axis from `at` on. Where the last ones fill no vector, elements before them are
        computed again with them, if nobody notices: masked stores take longer."""
        points, lanes = [], []
        for k in range(-(-count // self.vl)):
            left = count - k * self.vl
            again = left < self.vl <= self.sizes[self.vector] and self.again
            mask = prefix_mask(self.b, self.vl, left) if left < self.vl and not again else None
            base = add(self.b, at, count - self.vl if again else k * self.vl)
            points += [{**env, self.vector: base, BASE: base} for env in envs]
            lanes += [Lanes(self.vector, self.vl, mask)] * len(envs)
        self.points(points, spans, lanes)

    def points(self, envs: list[dict], spans: Spans, lanes: Iterable[Lanes | None]) -> None:
        while len(self.scratch) < len(envs):
            self.scratch.append({s.name: stack(self.b, MEMORY[s.dtype], s.elements) for s in self.nest.kernel.scratch})
        made = [Point(env, lane, rows) for env, lane, rows in zip(envs, lanes, self.scratch, strict=False)]
        self.stages.run(made, spans)


def _empty(first: Number, stop: Number) -> bool:
    """Whether a range surely holds nothing, so that its body need not be emitted to be thrown away."""
    return isinstance(stop, int) and (stop == 0 or (isinstance(first, int) and first >= stop))


def _places(stage: Stage) -> Iterator[tuple[str, Aff]]:
    """(buffer, offset) of every load of every iteration of an unrolled stage."""
    names = [a for a, _ in stage.axes]
    for at in product(*(range(n) for _, n in stage.axes)):
        here = {a: Aff(i) for a, i in zip(names, at, strict=True)}
        for e in loads(*(o.expr for o in stage.outs)):
            if isinstance(index := e.attr[1][0], Aff):
                yield e.attr[0], index.substitute(here)


def _iterations(stage: Stage) -> int:
    return math.prod(e for _, e in stage.axes)


def _straight(stage: Stage) -> bool:
    """Whether the stage is emitted without loops."""
    return _iterations(stage) <= UNROLLED


def _scratch_by_lanes(nest: Nest, vl: int) -> Nest:
    """In lane mode each lane has a scratch row of its own: element e of lane l lies at e * vl + l."""
    if not nest.kernel.scratch:
        return nest
    return replace(nest, kernel=rows_apart(nest.kernel, vl, Aff.of(nest.vector) - Aff.of(BASE)))
