"""Scalar expressions as CUDA C: one element, or a thread's few neighbouring elements along a lanes axis.

What enters: the expression trees of a *flattened* kernel (every index is one element offset into the physical array),
and where the loop axes stand. What leaves: `const` declarations, one for each node, and the names they give. All code
is straight-line: a guard becomes a predicate of the loads below it and a choice, so a name once written stays valid to
the end of its braces.
"""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence

from graphc.ir.frozen import frozen
from graphc.schedule.canonical import coefficient, divisible
from graphc.schedule.expr import Aff, Bound, E
from graphc.schedule.kernels import Store
from graphc.schedule.layout import Buffer

from .emit import LIMIT, SCALAR, Writer, affine
from .primitives import CASTS, TABLES, literal

Parts = tuple[str, ...]  # what all lanes share, or one expression a lane
VECTOR = {"f32": ("float4", "ld4", "st4"), "i32": ("int4", "ld4i", "st4i"), "u8": ("uchar4", "ld4b", "st4b"),
          "i1": ("uchar4", "ld4b", "st4b")}  # fmt: skip
WIDTH = 4  # lanes of a vector access


@frozen
class Lanes:
    """`axis` takes the values at + 0 .. width-1, one a lane, where `at` is what `axes` says of it, a multiple of
    `width`."""

    axis: str
    width: int = WIDTH


class Values:
    """Evaluates expression trees at one point, or at the lanes of a vector of points, of a kernel's axes.

    `pointers`: the C pointer to each buffer's first element; `axes`: where each axis stands, a name or a number;
    `temps`: names of reductions' results and `acc`, one or one a lane. `sizes` of the axes, where given, let guards
    be decided without a test. `known` holds what is computed already. `live`: a condition, one or one a lane, without
    which nothing may be read or written. `multiples`: of what number an axis is surely a multiple.
    """

    def __init__(
        self,
        write: Writer,
        buffers: Mapping[str, Buffer],
        pointers: Mapping[str, str],
        axes: Mapping[str, str],
        temps: Mapping[str, str | Parts] | None = None,
        lanes: Lanes | None = None,
        sizes: Mapping[str, int] | None = None,
        known: Mapping[E, Parts] | None = None,
        live: Parts = (),
        multiples: Mapping[str, int] | None = None,
    ):
        self.write, self.buffers, self.pointers, self.axes = write, buffers, pointers, axes
        self.temps, self.lanes, self.sizes, self.live = temps or {}, lanes, sizes or {}, live
        self.multiples = {**(multiples or {}), **({lanes.axis: lanes.width} if lanes else {})}
        self._memo: ChainMap[E, Parts] = ChainMap(dict(known or {}))
        self._guarded: dict[tuple[Bound, ...], Values] = {}
        self._within: frozenset[str] = frozenset()  # axes of the guards around
        self._always_live = not live  # but for the guards
        self._alone: Values | None = None

    # results

    def value(self, e: E) -> str:
        """`e` where it is the same in all lanes, as it is where there are none: a name or a literal."""
        parts = self.parts(e)
        if len(parts) > 1:
            raise ValueError(f"{e} differs from lane to lane")
        return parts[0]

    def parts(self, e: E) -> Parts:
        """`e` as one name or literal if all lanes share it, else as one a lane."""
        found = self._memo.get(e)
        if found is None:
            found = self._memo[e] = _RULES.get(e.op, Values._arithmetic)(self, e)
        return found

    def store(self, *stores: Store) -> None:
        """All values and conditions first, then the stores."""
        ready = [(out, self.parts(out.expr), self._where(out), self._offsets(out.indices[0])) for out in stores]
        for out, parts, where, offsets in ready:
            self._store(out, parts, where, offsets)

    # leaves

    def _const(self, e: E) -> Parts:
        return (literal(e.attr, e.dtype),)

    def _temp(self, e: E) -> Parts:
        found = self.temps[e.attr]
        return (found,) if isinstance(found, str) else found

    def _axis(self, e: E) -> Parts:
        stride = self._stride(e.attr)
        texts = [affine(e.attr, self.axes, stride * k) for k in range(self.lanes.width if stride else 1)]
        return tuple(t if t.isidentifier() or t.isdigit() else self.write.let("int", t) for t in texts)

    def _load(self, e: E, fill: E | None = None) -> Parts:
        """Where `live` fails nothing is read: the value is then `fill`, or anything."""
        name, (index,) = e.attr
        dtype, pointer, stride = self.buffers[name].dtype, self.pointers[name], self._stride(index)
        otherwise = "0" if fill is None else literal(fill.attr, fill.dtype)
        live = () if self._unguarded(e) else self.live
        if stride == 1 and len(live) < 2 and self.aligned(index):
            return self._vector_load(dtype, f"{pointer} + {self._offsets(index)[0]}", live, otherwise)
        offsets = self._offsets(index) if stride != 0 else self._offsets(index)[:1]
        out = []
        for k in range(max(len(offsets), len(live))):
            text = f"{pointer}[{_lane(offsets, k)}]" + (" != 0" if dtype == "i1" else "")
            text = f"{_lane(live, k)} ? {text} : {otherwise}" if live else text
            out.append(self.write.let(SCALAR[dtype], text))
        return tuple(out)

    def _unguarded(self, e: E) -> bool:
        """Whether a load needs no look at the guards around: it is inside of the buffer anyway, and the same element
        wherever they hold."""
        name, (index,) = e.attr
        if not self._always_live or isinstance(index, E) or index.axes & self._within:
            return False
        least, most = self._span(index)
        return least >= 0 and most < self.buffers[name].elements

    def _vector_load(self, dtype: str, address: str, live: Parts, otherwise: str) -> Parts:
        type_, load, _ = VECTOR[dtype]
        if live:
            got = self.write.name("v")
            self.write(f"{type_} {got} = {{{', '.join([otherwise] * WIDTH)}}};")
            self.write(f"if ({live[0]}) {got} = {load}({address});")
        else:
            got = self.write.let(type_, f"{load}({address})")
        parts = tuple(f"{got}.{c}" for c in "xyzw")
        return tuple(self.write.let("bool", f"{p} != 0") for p in parts) if dtype == "i1" else parts

    # guards

    def _guard(self, e: E) -> Parts:
        body, fill = e.args
        open_ = tuple(b for b in e.attr if not self._holds(b))
        if any(self._fails(b) for b in open_):
            return self.parts(fill)
        if not open_:
            return self.parts(body)
        if open_ not in self._guarded:
            inner = self._guarded[open_] = copy.copy(self)
            inner._memo, inner._guarded, inner._alone = self._memo.new_child(), {}, None
            inner.live = self._both(self.live, self._conditions(open_))
            inner._within = self._within.union(*(aff.axes for aff, _, _ in open_))
        inner = self._guarded[open_]
        if body.op == "load" and fill.op == "const" and body not in inner._memo and not inner._unguarded(body):
            inner._memo[body] = inner._load(body, fill)
            return inner._memo[body]
        return self._choice(inner.live, inner.parts(body), self.parts(fill), e.dtype)

    def _choice(self, condition: Parts, then: Parts, other: Parts, dtype: str) -> Parts:
        count = max(map(len, (condition, then, other)))
        texts = [f"{_lane(condition, k)} ? {_lane(then, k)} : {_lane(other, k)}" for k in range(count)]
        return tuple(self.write.let(SCALAR[dtype], t) for t in texts)

    def _both(self, x: Parts, y: Parts) -> Parts:
        if not x or not y:
            return x or y
        return tuple(
            self.write.let("bool", f"{_lane(x, k)} && {_lane(y, k)}", "in") for k in range(max(len(x), len(y)))
        )

    def _conditions(self, bounds: Sequence[Bound]) -> Parts:
        """All of `bounds`, as one condition or one a lane; () for none."""
        count = self.lanes.width if any(self._stride(aff) for aff, _, _ in bounds) else 1
        texts = [[self._bound(*bound, lane) for bound in bounds] for lane in range(count)]
        return tuple(self.write.let("bool", " && ".join(t), "in") for t in texts) if bounds else ()

    def _bound(self, aff: Aff, lo: int, hi: int, lane: int) -> str:
        """lo <= aff < hi; the half that is sure to hold is left out."""
        least, most = self._span(aff)
        shift = (self._stride(aff) or 0) * lane
        if least >= lo:
            return f"{affine(aff, self.axes, shift)} < {hi}"
        if most < hi:
            return f"{affine(aff, self.axes, shift)} >= {lo}"
        return f"(unsigned)({affine(aff, self.axes, shift - lo)}) < {hi - lo}u"

    def _holds(self, bound: Bound) -> bool:
        least, most = self._span(bound[0])
        return bound[1] <= least and most < bound[2]

    def _fails(self, bound: Bound) -> bool:
        least, most = self._span(bound[0])
        return most < bound[1] or least >= bound[2]

    def _span(self, aff: Aff) -> tuple[int, int]:
        """Least and greatest value of `aff` over all lanes."""
        least = most = aff.const
        for axis, coef in aff.terms:
            at = self.axes[axis]
            if at.isdigit():
                ends = (coef * int(at), coef * int(at))
            elif axis in self.sizes:
                ends = (0, coef * (self.sizes[axis] - 1))
            else:
                return -LIMIT, LIMIT
            least, most = least + min(ends), most + max(ends)
        return least, most

    # memory

    def _stride(self, index: Aff | E) -> int | None:
        """By how much `index` grows from lane to lane; None where that is not one constant."""
        return coefficient(index, self.lanes.axis) if self.lanes else 0

    def aligned(self, index: Aff | E) -> bool:
        """Whether `index` is surely a multiple of the vector's width in the first lane."""
        return self.lanes is not None and self.lanes.width == WIDTH and divisible(index, WIDTH, self.multiples)

    def _offsets(self, index: Aff | E) -> Parts:
        """The element offset in each lane."""
        stride, count = self._stride(index), self.lanes.width if self.lanes else 1
        if isinstance(index, Aff):
            return tuple(affine(index, self.axes, stride * k) for k in range(count))
        if stride is None or len(self.live) > 1:
            parts = self.parts(index)
            return tuple(_lane(parts, k) for k in range(count))
        first = self._first_lane().value(index)
        return tuple(f"{first} + {stride * k}" if stride * k else first for k in range(count))

    def _first_lane(self) -> Values:
        """An evaluator of the first lane alone."""
        if self.lanes is None:
            return self
        if self._alone is None:
            self._alone = copy.copy(self)
            self._alone.lanes, self._alone._memo, self._alone._guarded = None, ChainMap({}), {}
            self._alone.live = self.live[:1]
            self._alone.temps = {n: t if isinstance(t, str) else t[0] for n, t in self.temps.items()}
        return self._alone

    def _where(self, out: Store) -> Parts:
        """When the store happens."""
        open_ = [b for b in out.valid if not self._holds(b)]
        if any(map(self._fails, open_)):
            return ("false",)
        return self._both(self.live, self._conditions(open_))

    def _store(self, out: Store, parts: Parts, where: Parts, offsets: Parts) -> None:
        (index,), buffer, pointer = out.indices, self.buffers[out.buffer], self.pointers[out.buffer]
        stride = self._stride(index)
        if stride == 0 and self.lanes:
            raise ValueError(f"lanes along {self.lanes.axis} would all store into one element of %{out.buffer}")
        if stride == 1 and len(where) < 2 and self.aligned(index):
            type_, _, store = VECTOR[buffer.dtype]
            packed = self.write.let(type_, "{" + ", ".join(_lane(parts, k) for k in range(WIDTH)) + "}")
            condition = f"if ({where[0]}) " if where else ""
            self.write(f"{condition}{store}({pointer} + {offsets[0]}, {packed});")
            return
        for k, offset in enumerate(offsets):
            condition = f"if ({_lane(where, k)}) " if where else ""
            self.write(f"{condition}{pointer}[{offset}] = {_lane(parts, k)};")

    # arithmetic

    def _select(self, e: E) -> Parts:
        return self._choice(*(self.parts(a) for a in e.args), e.dtype)

    def _cast(self, e: E) -> Parts:
        return self._each(CASTS[e.args[0].dtype, e.dtype], e.dtype, self.parts(e.args[0]))

    def _extremum(self, e: E) -> Parts:
        """max and min; against a constant that is a number, one compare keeps NaN."""
        x, y = e.args if e.args[1].op == "const" else e.args[::-1]
        if e.dtype == "f32" and y.op == "const" and y.attr == y.attr:
            sign = "<" if e.op == "max" else ">"
            return self._each(f"{{x}} {sign} {{y}} ? {{y}} : {{x}}", e.dtype, self.parts(x), self.parts(y))
        return self._arithmetic(e)

    def _division(self, e: E) -> Parts:
        """idiv and imod, by one where the divisor is zero."""
        x, y = e.args
        divisor = self.parts(y)
        if y.op != "const" or y.attr == 0:
            divisor = self._each("{x} == 0 ? 1 : {x}", e.dtype, divisor)
        return self._each(TABLES[e.dtype][e.op], e.dtype, self.parts(x), divisor)

    def _arithmetic(self, e: E) -> Parts:
        template = TABLES[e.args[0].dtype].get(e.op) if e.args else None
        if template is None:
            raise NotImplementedError(f"no {e.op} of {[a.dtype for a in e.args]} in the CUDA backend")
        return self._each(template, e.dtype, *(self.parts(a) for a in e.args))

    def _each(self, template: str, dtype: str, *args: Parts) -> Parts:
        """The template filled in for each lane."""
        holes = [dict(zip("xyz", (_lane(a, k) for a in args), strict=False)) for k in range(max(map(len, args)))]
        return tuple(self.write.let(SCALAR[dtype], template.format(**h)) for h in holes)


def _lane(parts: Parts, k: int) -> str:
    return parts[k] if len(parts) > 1 else parts[0]


_RULES: Mapping[str, Callable[[Values, E], Parts]] = {
    "const": Values._const, "temp": Values._temp, "axis": Values._axis, "load": Values._load, "guard": Values._guard,
    "select": Values._select, "cast": Values._cast, "max": Values._extremum, "min": Values._extremum,
    "idiv": Values._division, "imod": Values._division,
}  # fmt: skip
