"""Scalar expressions as LLVM values: one element, or one vector of elements along a lanes axis.

What enters: the expression trees of a *flattened* kernel (every index is one element offset into the physical array),
and where the loop axes stand. What leaves: SSA values. All code is straight-line: a guard becomes a select whose body
loads from a safe place, so a value once computed stays valid to the end of the block.
"""

from __future__ import annotations

import copy
import operator
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from graphc.ir.frozen import frozen
from graphc.schedule.expr import Aff, Bound, E
from graphc.schedule.layout import Buffer

from . import ir
from .emit import (
    F32,
    I1,
    I8,
    I32,
    I64,
    MEMORY,
    SIZE,
    VOID,
    Number,
    add,
    address,
    affine,
    const,
    freeze,
    i64,
    intrinsic,
    lanes_of,
    like,
    load_,
    overload,
    parts,
    poison,
    splat,
    store_,
    vec,
)
from .primitives import CASTS, TABLES, match, select
from .target import Target

REGISTER = {"f32": F32, "i32": I32, "u8": I8, "i1": I1}  # how an element of each dtype is held as a value
UNBOUNDED = 1 << 62


@frozen
class Lanes:
    """`axis` takes the values env[axis] + 0 .. width-1, one a lane. `mask`: <width x i1>, the lanes that exist; None
    means all. What the others hold is unspecified, but they touch no memory that is not the buffer's."""

    axis: str
    width: int
    mask: ir.Value | None = None


class Values:
    """Evaluates expression trees at one point, or one vector of points, of a kernel's axes.

    `pointers` are the buffers' first elements; `env` says where each axis stands (an int where known, else i64);
    `temps` holds reductions' results and `acc`. `extents` of the axes (or the range that one stays in), where given,
    let guards and loads be decided without a test. Results are kept for each node, so make a new object when the
    builder moves to another block; `known` holds results that are there already. Evaluators may share `offsets`, the
    index arithmetic done so far; where it is `opaque`, LLVM does not look behind it.
    """

    def __init__(
        self,
        b: ir.IRBuilder,
        buffers: Mapping[str, Buffer],
        pointers: Mapping[str, ir.Value],
        env: Mapping[str, Number],
        target: Target,
        lanes: Lanes | None = None,
        temps: Mapping[str, ir.Value] | None = None,
        extents: Mapping[str, int | range] | None = None,
        known: Mapping[E, ir.Value] | None = None,
        offsets: dict[tuple, ir.Value] | None = None,
        opaque: bool = False,
    ):
        self.b, self.buffers, self.pointers, self.env, self.target = b, buffers, pointers, env, target
        self.lanes, self.temps, self.extents = lanes, temps or {}, extents or {}
        self._memo: ChainMap[E, ir.Value] = ChainMap(dict(known or {}))
        self._sums, self._opaque = {} if offsets is None else offsets, opaque
        # what the guards around the present expression demand: of all lanes together, and of each lane
        self._uniform: ir.Value | None = None
        self._lanewise: ir.Value | None = None

    # results

    def value(self, e: E) -> ir.Value:
        """`e` as a scalar where it is equal in all lanes, else as a vector."""
        found = self._memo.get(e)
        if found is None:
            rule = _RULES.get(e.op, Values._arithmetic)
            found = self._memo[e] = rule(self, e)
        return found

    def vector(self, e: E) -> ir.Value:
        """`e` as a vector, whether or not the lanes are equal."""
        return self.widen(self.value(e))

    def widen(self, x: ir.Value) -> ir.Value:
        return splat(self.b, x, self.lanes.width) if self.lanes and lanes_of(x) is None else x

    def store(self, buffer: str, index: Aff | E, value: ir.Value) -> None:
        """`buffer[index] = value` for one element, or for the lanes that exist: a vector where the index has unit
        stride, a scatter where it has another."""
        if self.buffers[buffer].dtype == "i1":
            value = self.b.zext(value, like(I8, lanes_of(value)))
        pointer, stride = self.pointers[buffer], self._stride(index)
        if stride == 0:
            if lanes_of(value):
                raise ValueError(f"a vector cannot be stored into one element of {buffer} (index {index})")
            store_(self.b, value, self._place(pointer, MEMORY[self.buffers[buffer].dtype], index), 0)
        elif stride == 1:
            place = self._place(pointer, MEMORY[self.buffers[buffer].dtype], index)
            store_(self.b, self.widen(value), place, 0, self.lanes.mask)
        else:
            self._scatter(self.buffers[buffer], pointer, index, stride, self.widen(value))

    # leaves

    def _const(self, e: E) -> ir.Value:
        return const(REGISTER[e.dtype], e.attr)

    def _temp(self, e: E) -> ir.Value:
        return self.temps[e.attr]

    def _axis(self, e: E) -> ir.Value:
        return self._lane_values(e.attr) if self._stride(e.attr) else self._cut(self._affine(e.attr))

    def _load(self, e: E) -> ir.Value:
        name, (index,) = e.attr
        buffer, pointer, stride = self.buffers[name], self.pointers[name], self._stride(index)
        element, safe = MEMORY[buffer.dtype], self._inside(index, buffer)
        if stride == 0:
            demands = [] if safe else self._demands(lanewise=True)
            got = load_(self.b, self._place(pointer, element, index, demands), element, None, 0)
        elif stride == 1 and (safe or self._lanewise is None):
            mask, demands = (None, []) if safe else (self.lanes.mask, self._demands())
            got = load_(self.b, self._place(pointer, element, index, demands), element, self.lanes.width, 0, mask)
        elif stride == 1:
            got = load_(self.b, self._place(pointer, element, index), element, self.lanes.width, 0, self._mask())
        else:
            got = self._gather(buffer, pointer, index, stride, None if safe else self._mask())
        return self.b.icmp_unsigned("!=", got, const(got.type, 0)) if buffer.dtype == "i1" else got

    # guards

    def decided(self, e: E) -> E:
        """`e` without the outer guards that are sure to hold, or sure to fail, where the axes stand."""
        while e.op == "guard":
            spans = [(self._span(aff), lo, hi) for aff, lo, hi in e.attr]
            if any(most < lo or least >= hi for (least, most), lo, hi in spans):
                e = e.args[1]
            elif all(least >= lo and most < hi for (least, most), lo, hi in spans):
                e = e.args[0]
            else:
                break
        return e

    def _guard(self, e: E) -> ir.Value:
        body, fill = e.args
        open_: list[tuple[Bound, int, int]] = []
        for aff, lo, hi in e.attr:
            least, most = self._span(aff)
            if most < lo or least >= hi:
                return self.value(fill)
            if least < lo or most >= hi:
                open_.append(((aff, lo, hi), least, most))
        if not open_:
            return self.value(body)
        inner = copy.copy(self)
        inner._memo = self._memo.new_child()
        conditions = [self._bound(*item) for item in open_]
        for condition in conditions:
            field = "_lanewise" if lanes_of(condition) else "_uniform"
            before = getattr(inner, field)
            setattr(inner, field, condition if before is None else self.b.and_(before, condition))
        return select(self.b, reduce(lambda x, y: self.b.and_(*match(self.b, x, y)), conditions),
                       inner.value(body), self.value(fill))  # fmt: skip

    def _bound(self, bound: Bound, least: int, most: int) -> ir.Value:
        """lo <= aff < hi, as i1 or a mask; the half that is sure to hold is left out."""
        aff, lo, hi = bound
        if self._stride(aff):
            x = self._lane_values(aff)
        else:
            x = self._cut(self._affine(aff))
        if least >= lo:
            return self.b.icmp_signed("<", x, const(x.type, hi))
        if most < hi:
            return self.b.icmp_signed(">=", x, const(x.type, lo))
        return self.b.icmp_unsigned("<", self.b.sub(x, const(x.type, lo)), const(x.type, hi - lo))

    def _span(self, aff: Aff, over: bool = False) -> tuple[int, int]:
        """Least and greatest value of `aff` over the lanes; with `over`, over those too that do not exist."""
        least = most = aff.const
        for axis, coef in aff.terms:
            first, last = self._axis_span(axis, over)
            least += min(coef * first, coef * last)
            most += max(coef * first, coef * last)
        return least, most

    def _axis_span(self, axis: str, over: bool) -> tuple[int, int]:
        at, extent = self.env[axis], self.extents.get(axis)
        stays_in = range(extent) if isinstance(extent, int) else extent
        lanes = self.lanes if self.lanes and self.lanes.axis == axis else None
        beyond = lanes.width - 1 if lanes else 0
        if isinstance(at, int):
            last = at + beyond
            return at, last if over or extent is None or not lanes or lanes.mask is None else min(last, stays_in[-1])
        if extent is None:
            return -UNBOUNDED, UNBOUNDED
        return stays_in[0], stays_in[-1] + (beyond if over and lanes and lanes.mask is not None else 0)

    # indices

    def _place(self, pointer: ir.Value, element: ir.Type, index: Aff | E, demands: Sequence[ir.Value] = ()) -> ir.Value:
        """The address of the first lane's element; the buffer's first one where the `demands` do not hold. Addresses
        that differ by a constant share all else, which halves what LLVM has to read."""
        if demands:
            return address(self.b, pointer, element, self._clamped(self._first(index), demands))
        moving, constant = self._parted(index) if isinstance(index, Aff) else (None, self._first(index))
        if moving is None:
            return address(self.b, pointer, element, constant)
        key = (self.b.block, pointer, moving)
        if key not in self._sums:
            self._sums[key] = self.b.gep(pointer, moving, element)
        # may begin outside of the buffer, where the constant leads back in
        return self.b.gep(self._sums[key], const(I64, constant), element) if constant else self._sums[key]

    def _affine(self, aff: Aff) -> Number:
        """The value of `aff`."""
        moving, constant = self._parted(aff)
        return constant if moving is None else add(self.b, moving, constant)

    def _parted(self, aff: Aff) -> tuple[ir.Value | None, int]:
        """The value of `aff` as one that moves, if any does, and a constant."""
        constant, terms, moving = aff.const, [], {}
        for axis, coef in aff.terms:
            at, shift = parts(self.env[axis])
            constant += coef * shift
            if at is not None:
                moving[axis] = at
                terms.append((axis, coef))
        if not moving:
            return None, constant
        key = (self.b.block, *((coef, moving[axis]) for axis, coef in terms))
        if key not in self._sums:
            value = affine(self.b, Aff(0, tuple(terms)), moving)
            self._sums[key] = freeze(self.b, value) if self._opaque else value
        return self._sums[key], constant

    def _stride(self, index: Aff | E) -> int | None:
        """By how much `index` grows from lane to lane; None where that is not one constant."""
        if self.lanes is None:
            return 0
        if isinstance(index, Aff):
            return index.coef(self.lanes.axis)
        if index.op == "axis":
            return index.attr.coef(self.lanes.axis)
        if index.op in ("add", "sub"):
            x, y = (self._stride(a) for a in index.args)
            return None if x is None or y is None else getattr(operator, index.op)(x, y)
        if index.op == "mul":
            for x, k in (index.args, index.args[::-1]):
                if k.op == "const" and (stride := self._stride(x)) is not None:
                    return stride * k.attr
        return None if lanes_of(self.value(index)) else 0

    def _first(self, index: Aff | E) -> Number:
        """The index in the first lane, as an offset."""
        if isinstance(index, Aff):
            return self._affine(index)
        return self.b.sext(self._first_lane(index), I64)

    def _first_lane(self, e: E) -> ir.Value:
        """An i32 index expression of constant stride, in the first lane."""
        if e.op == "axis":
            return self._cut(self._affine(e.attr))
        if e.op in ("add", "sub", "mul"):
            return TABLES["i32"][e.op](self.b, *(self._first_lane(a) for a in e.args))
        return self.value(e)

    def _lane_values(self, aff: Aff) -> ir.Value:
        """`aff` in each lane, <width x i32>."""
        stride, first = self._stride(aff), self._affine(aff)
        width = self.lanes.width
        if isinstance(first, int):
            return const(vec(I32, width), [first + stride * k for k in range(width)])
        steps = const(vec(I32, width), [stride * k for k in range(width)])
        return self.b.add(splat(self.b, self._cut(first), width), steps)

    def _cut(self, x: Number) -> ir.Value:
        return const(I32, x) if isinstance(x, int) else self.b.trunc(x, I32)

    # memory under guards and masks

    def _inside(self, index: Aff | E, buffer: Buffer) -> bool:
        """Whether no lane, existing or not, can point outside the buffer: then neither guard nor mask matters."""
        if isinstance(index, E):
            return self._uniform is None and self._lanewise is None and (self.lanes is None or self.lanes.mask is None)
        least, most = self._span(index, over=True)
        return least >= 0 and most < buffer.elements

    def _demands(self, lanewise: bool = False) -> list[ir.Value]:
        """What the guards around demand of all lanes together; with `lanewise`, also that one lane needs the access."""
        demands = [] if self._uniform is None else [self._uniform]
        if lanewise and self._lanewise is not None:
            name = "vector.reduce.or" + overload(self._lanewise.type)
            demands.append(intrinsic(self.b, name, I1, [self._lanewise]))
        return demands

    def _clamped(self, offset: Number, demands: Sequence[ir.Value]) -> ir.Value:
        """`offset`, or 0 where the `demands` do not hold: the access is then as long."""
        return self.b.select(reduce(self.b.and_, demands), i64(offset), const(I64, 0))

    def _mask(self) -> ir.Value | None:
        """The lanes that exist and for which the guards around hold; None means all."""
        demands = [self.lanes.mask, self._lanewise, self._uniform and self.widen(self._uniform)]
        demands = [d for d in demands if d is not None]
        return reduce(self.b.and_, demands) if demands else None

    def _offsets(self, buffer: Buffer, index: Aff | E, stride: int | None) -> ir.Value:
        """The element offset of each lane; i32 while that holds every offset, because gathers like it."""
        if buffer.elements > 2**31:
            raise ValueError(f"buffer {buffer.name}: no gather from more than 2**31 elements")
        return self.vector(index) if isinstance(index, E) else self._lane_values(index)

    def _gather(self, buffer: Buffer, pointer, index: Aff | E, stride: int | None, mask) -> ir.Value:
        element, width = MEMORY[buffer.dtype], self.lanes.width
        if mask is None and stride is not None:
            first, got = self._first(index), poison(vec(element, width))
            start = self.b.gep(pointer, i64(first), element, inbounds=True)
            for k in range(width):
                got = self.b.insert_element(got, load_(self.b, start, element, None, stride * k), const(I32, k))
            return got
        offsets = self._offsets(buffer, index, stride)
        if mask is not None:  # lanes that must not load take the first element
            offsets = self.b.select(mask, offsets, const(offsets.type, 0))
        args = [self._places(pointer, element, offsets), const(I32, SIZE[element]), const(vec(I1, width), 1)]
        type_ = vec(element, width)
        return intrinsic(self.b, "masked.gather", type_, [*args, const(type_, 0)], overload(type_) + f".v{width}p0")

    def _scatter(self, buffer: Buffer, pointer, index: Aff | E, stride: int | None, value: ir.Value) -> None:
        element, width, mask = MEMORY[buffer.dtype], self.lanes.width, self.lanes.mask
        if mask is None and stride is not None:
            start = self.b.gep(pointer, i64(self._first(index)), element, inbounds=True)
            for k in range(width):
                store_(self.b, self.b.extract_element(value, const(I32, k)), start, stride * k)
            return
        places = self._places(pointer, element, self._offsets(buffer, index, stride))
        args = [value, places, const(I32, SIZE[element]), const(vec(I1, width), 1) if mask is None else mask]
        intrinsic(self.b, "masked.scatter", VOID, args, overload(value.type) + f".v{width}p0")

    def _places(self, pointer: ir.Value, element: ir.Type, offsets: ir.Value) -> ir.Value:
        return self.b.gep(pointer, offsets, element)

    # arithmetic

    def _select(self, e: E) -> ir.Value:
        return select(self.b, *(self.value(a) for a in e.args))

    def _cast(self, e: E) -> ir.Value:
        x = self.value(e.args[0])
        return CASTS[e.args[0].dtype, e.dtype](self.b, x, like(REGISTER[e.dtype], lanes_of(x)))

    def _extremum(self, e: E) -> ir.Value:
        """max and min; against a constant that is a number, one compare keeps NaN."""
        x, y = e.args
        if x.op == "const":
            x, y = y, x
        if e.dtype == "f32" and y.op == "const" and y.attr == y.attr:
            u, v = match(self.b, self.value(x), self.value(y))
            return self.b.select(self.b.fcmp_ordered("<" if e.op == "max" else ">", u, v), v, u)
        return self._arithmetic(e)

    def _arithmetic(self, e: E) -> ir.Value:
        rule = TABLES[e.args[0].dtype].get(e.op) if e.args else None
        if rule is None:
            raise NotImplementedError(f"no {e.op} of {[a.dtype for a in e.args]} in the LLVM backend")
        return rule(self.b, *match(self.b, *(self.value(a) for a in e.args)))


_RULES: Mapping[str, Callable[[Values, E], ir.Value]] = {
    "const": Values._const, "temp": Values._temp, "axis": Values._axis, "load": Values._load, "guard": Values._guard,
    "select": Values._select, "cast": Values._cast, "max": Values._extremum, "min": Values._extremum,
}  # fmt: skip
