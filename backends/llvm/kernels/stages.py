"""The stages of a generic kernel at some of its parallel points.

What enters: a `Nest`, and a list of points that are computed side by side: vectors along the parallel lanes axis (lane
mode), or single points whose stages run vectors along their own inner axis (row mode), or scalars. What leaves: code
that runs all stages for these points. Partial results are values carried by the loops, never memory.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from functools import partial

from graphc.ir.frozen import frozen
from graphc.schedule.borders import UNROLLED, pieces
from graphc.schedule.expr import Aff, E, guard, is_arithmetic, loads, substitute_axes, walk
from graphc.schedule.expr import const as constant
from graphc.schedule.kernels import Reduce, Stage, Store, repeatable
from graphc.schedule.layout import Buffer
from graphc.schedule.nest import Nest
from graphc.schedule.scalar import DEAR, waits

from .. import ir
from ..emit import F32, SIZE, Number, add, affine, beyond, if_, lanes_of, loop_carry, mul, prefetch, prefix_mask
from ..emit import parts as parts_of
from ..target import Target
from ..values import Lanes, Values
from . import reductions
from .ahead import Ahead
from .form import LINE
from .reductions import State

Spans = Mapping[str, range]
Parts = Sequence[Sequence[Sequence[Store]]]  # by stage: the groups that its stores are computed in
# Cells whose polynomials go by turns, at most: softmax's exp takes 0.75 of the time for four at once; with many more,
# too little of each is left in registers.
BY_TURNS = 5
ROW_VECTORS = 4  # vectors side by side in a row stage that reduces nothing


@frozen
class Point:
    """Where the parallel axes stand, for one point or one vector of points; `pointers` of its own scratch; `known`
    values of expressions there."""

    env: Mapping[str, Number]
    lanes: Lanes | None = None
    pointers: Mapping[str, ir.Value] = field(default_factory=dict)
    known: Mapping[E, ir.Value] = field(default_factory=dict)


@frozen
class _Cell:
    """One vector (or scalar) at work: `point`, and which of the point's partial results it belongs to."""

    point: int
    slot: int
    env: Mapping[str, Number]
    lanes: Lanes | None


@frozen
class Stages:
    """Emits stages. `buffers` holds the scratch buffers too, `pointers` the kernel's arguments; `stores` says how each
    stage computes its stores, `ahead` what it asks for ahead of its turn."""

    b: ir.IRBuilder
    nest: Nest
    buffers: Mapping[str, Buffer]
    pointers: Mapping[str, ir.Value]
    target: Target
    stores: Parts
    ahead: Sequence[Ahead | None]
    opaque: bool = False  # whether addresses are kept from LLVM
    offsets: dict[tuple, ir.Value] = field(default_factory=dict)

    def run(self, points: Sequence[Point], spans: Spans) -> None:
        """All stages, in order, at `points`. `spans`: in which range each axis that is no int stands."""
        temps: list[dict[str, ir.Value]] = [{} for _ in points]
        for number in range(len(self.nest.kernel.stages)):
            _Stage(self, number, points, spans, temps).run()

    def values(
        self,
        env: Mapping[str, Number],
        lanes: Lanes | None,
        spans: Spans,
        point: Point | None = None,
        temps: Mapping[str, ir.Value] | None = None,
    ) -> Values:
        """An evaluator of expressions at `env`, with what belongs to `point`."""
        pointers, known = (point.pointers, point.known) if point else ({}, {})
        pointers = {**self.pointers, **pointers}
        shared = self.offsets, self.opaque
        return Values(self.b, self.buffers, pointers, env, self.target, lanes, temps, spans, known, *shared)


class _Stage:
    def __init__(self, stages: Stages, number: int, points: Sequence[Point], spans: Spans, temps: list[dict]):
        self.stages, self.points, self.spans, self.temps = stages, points, spans, temps
        self.b, self.nest, self.vl = stages.b, stages.nest, stages.target.vl
        self.stage: Stage = self.nest.kernel.stages[number]
        self.row = self.nest.rows[number]
        self.loops = [x for x in self.stage.axes if x[0] != self.row]
        self.reduces = [o for o in self.stage.outs if isinstance(o, Reduce)]
        self.sets = self.nest.sets(self.stage) if self.reduces else 1
        self.vectors = 1
        if self.row is not None:
            self.vectors = max(1, self.nest.width(self.stage) // self.vl) if self.reduces else ROW_VECTORS
        self.slots = self.sets * self.vectors
        self.parts = stages.stores[number]
        self.ahead = stages.ahead[number]

    def run(self) -> None:
        state = [
            value
            for number in range(len(self.points))
            for _ in range(self.slots)
            for out in self.reduces
            for value in self.start(number, out)
        ]
        state = self.iterate(0, {}, self.spans, state, 0)
        for number, temps in enumerate(self.temps):
            cells = [self.unpack(state, number, slot) for slot in range(self.slots)]
            for r, out in enumerate(self.reduces):
                # slot = set * vectors + vector: halving the slots takes first the sets, then the vectors
                result = reductions.halve(self.b, out, [cell[r] for cell in cells])
                if self.row is not None:
                    result = reductions.across(self.b, out, result)
                temps |= dict(zip((out.name, f"{out.name}.i"), result, strict=False))

    def start(self, number: int, out: Reduce) -> State:
        if self.row is not None:
            return reductions.start(out, self.vl)
        point = self.points[number]
        state = reductions.start(out, point.lanes and point.lanes.width)
        if out.op != "argmax":
            return state
        # in order, the first iteration's index stands until something greater comes
        first = substitute_axes(out.index, {a: Aff() for a, _ in self.stage.axes})
        return state[0], self.values(_Cell(number, 0, {}, point.lanes), self.spans).vector(first)

    # state: for each point, for each slot, for each reduction, its values

    def widths(self) -> list[int]:
        return [2 if o.op == "argmax" else 1 for o in self.reduces]

    def unpack(self, state: Sequence[ir.Value], point: int, slot: int) -> list[State]:
        widths = self.widths()
        at = (point * self.slots + slot) * sum(widths)
        out = []
        for width in widths:
            out.append(tuple(state[at : at + width]))
            at += width
        return out

    def pack(self, state: list[ir.Value], point: int, slot: int, cell: Sequence[State]) -> None:
        at = (point * self.slots + slot) * sum(self.widths())
        values = [v for s in cell for v in s]
        state[at : at + len(values)] = values

    # loops over the stage's axes

    def iterate(self, depth: int, env: Mapping, spans: Spans, state: list, number: int) -> list:
        """The loops from `depth` on. `number`: which set of partial results the iteration belongs to."""
        if depth == len(self.loops):
            return self.row_loop(env, spans, state, number) if self.row else self.body(env, spans, state, number)
        axis, extent = self.loops[depth]
        last = depth == len(self.loops) - 1
        sets = self.sets if last else 1
        if math.prod(e for _, e in self.loops) <= (UNROLLED if self.row is None else self.sets):
            for i in range(extent):
                state = self.iterate(depth + 1, {**env, axis: i}, spans, state, i % sets)
            return state
        for first, stop, _ in pieces(extent, self.nest.cuts.get(axis, ())):
            inside = {**spans, axis: range(first, stop)}
            whole = first + (stop - first) // sets * sets
            if first < whole:
                with loop_carry(self.b, first, whole, sets, state, axis) as (i, carried, result):
                    carried = list(carried)
                    for k in range(sets):
                        at = {**env, axis: add(self.b, i, k)}
                        carried = self.iterate(depth + 1, at, inside, carried, (first + k) % sets)
                    result.yield_(carried)
                state = list(result.values)
            for i in range(whole, stop):
                state = self.iterate(depth + 1, {**env, axis: i}, spans, state, i % sets)
        return state

    def row_loop(self, env: Mapping, spans: Spans, state: list, number: int) -> list:
        extent, step = dict(self.stage.axes)[self.row], self.vectors * self.vl
        spans = {**spans, self.row: range(extent)}
        whole = extent // step * step
        if whole:
            with loop_carry(self.b, 0, whole, step, state, self.row) as (i, carried, result):
                result.yield_(self.row_block(env, spans, list(carried), number, i, step))
            state = list(result.values)
        return self.row_block(env, spans, state, number, whole, extent - whole) if whole < extent else state

    def row_block(self, env: Mapping, spans: Spans, state: list, number: int, at: Number, count: int) -> list:
        """`count` elements of the row from `at` on. Where the last ones fill no vector, elements before them are stored
        again with them, if nobody notices: masked stores take longer."""
        extent, cells = dict(self.stage.axes)[self.row], []
        again = extent >= self.vl and not self.reduces and repeatable(self.stage.outs)
        for k in range(-(-count // self.vl)):
            rest = count - k * self.vl
            mask = prefix_mask(self.b, self.vl, rest) if rest < self.vl and not again else None
            here = {**env, self.row: add(self.b, at, count - self.vl if rest < self.vl and again else k * self.vl)}
            slot = number * self.vectors + k
            cells += [_Cell(p, slot, here, Lanes(self.row, self.vl, mask)) for p in range(len(self.points))]
        return self.cells(cells, spans, state)

    def body(self, env: Mapping, spans: Spans, state: list, number: int) -> list:
        return self.cells([_Cell(k, number, env, p.lanes) for k, p in enumerate(self.points)], spans, state)

    # one iteration

    def cells(self, cells: Sequence[_Cell], spans: Spans, state: list) -> list:
        """All values of the iteration first, then its stores, then what it adds to the partial results."""
        if self.ahead:
            self.ask(cells)
        at = [self.values(cell, spans) for cell in cells]
        *parts, last = self.parts
        for part in parts:
            for values, out, value in self.stored([self.values(cell, spans) for cell in cells], part):
                self.store(values, out, value)
            self.b.fence("acq_rel", "singlethread")
        stored = self.stored(at, last)
        for values, cell in zip(at, cells, strict=True):
            if not self.reduces:
                break
            states = self.unpack(state, cell.point, cell.slot)
            for r, out in enumerate(self.reduces):
                e = values.decided(out.expr)
                if not reductions.is_identity(out, e):
                    states[r] = reductions.take(values, out, e, states[r], self.row is None)
            self.pack(state, cell.point, cell.slot, states)
        for values, out, value in stored:
            self.store(values, out, value)
        return state

    def ask(self, cells: Sequence[_Cell]) -> None:
        """Asks for what the same cells of a later row, or of the next point, will touch, each line once."""
        b, ahead, lines = self.b, self.ahead, {}
        for cell in cells:
            env, starts = {**self.points[cell.point].env, **cell.env}, {}
            env[ahead.axis] = add(b, env[ahead.axis], ahead.distance)
            for name, index in ahead.places:
                if index.terms not in starts:
                    starts[index.terms] = parts_of(affine(b, index - index.const, env))
                start, past = starts[index.terms]
                lines.setdefault((name, start), {})[(past + index.const) // LINE] = None
        for (name, start), numbers in lines.items():
            offset = 0 if start is None else mul(b, start, SIZE[F32])
            place = beyond(b, self.stages.pointers[name], offset)
            for number in numbers:
                prefetch(b, beyond(b, place, number * LINE * SIZE[F32]), name in ahead.written)

    def stored(self, at: Sequence[Values], outs: Sequence[Store]) -> list[tuple[Values, Store, ir.Value]]:
        """What is to be stored, computed; long chains of several cells by turns."""

        def one(values: Values) -> list[tuple[Values, Store, ir.Value]]:
            return [(values, out, values.value(out.expr)) for out in outs]

        if not waits(DEAR, *(out.expr for out in outs)):
            return [found for values in at for found in one(values)]
        found, turns = [], -(-len(at) // -(-len(at) // BY_TURNS))
        for k in range(0, len(at), turns):
            found += self.b.by_turns([partial(one, values) for values in at[k : k + turns]])
        return [x for each in found for x in each]

    def values(self, cell: _Cell, spans: Spans) -> Values:
        point = self.points[cell.point]
        return self.stages.values({**point.env, **cell.env}, cell.lanes, spans, point, self.temps[cell.point])

    def store(self, values: Values, out: Store, value: ir.Value) -> None:
        if not out.valid:
            values.store(out.buffer, out.indices[0], value)
            return
        where = values.decided(guard(constant(1, "i1"), constant(0, "i1"), out.valid))
        if where.op == "const":
            if where.attr:
                values.store(out.buffer, out.indices[0], value)
            return
        condition = values.value(where)
        if not lanes_of(condition):  # the same for all lanes; on some processors a masked store takes ten times as long
            with if_(self.b, condition):
                values.store(out.buffer, out.indices[0], value)
            return
        mask = condition if values.lanes.mask is None else self.b.and_(condition, values.lanes.mask)
        clipped = copy.copy(values)
        clipped.lanes = replace(values.lanes, mask=mask)
        clipped.store(out.buffer, out.indices[0], value)


def parts(stage: Stage, registers: int) -> list[list[Store]]:
    """The stores of a stage in groups that share no arithmetic, where all that they load exceeds the registers: each
    group then loads what it needs, instead of keeping what all of them will need. Winograd's transforms so compute rows
    by twos, and spill nothing."""
    stores = [o for o in stage.outs if isinstance(o, Store)]
    used = loads(*(s.expr for s in stores))
    names = {e.attr[0] for e in used}
    if len(stores) != len(stage.outs) or len(used) <= registers or any(s.buffer in names for s in stores):
        return [stores]
    groups: list[tuple[set[E], list[Store]]] = []
    for s in stores:
        own = {e for e in walk(s.expr) if is_arithmetic(e)}
        apart = [g for g in groups if not g[0] & own]
        meet = [g for g in groups if g[0] & own]
        groups = [*apart, (own.union(*(g[0] for g in meet)), [*(o for g in meet for o in g[1]), s])]
    return [outs for _, outs in groups]
