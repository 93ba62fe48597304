"""The partial results of a stage's reductions: how they start, take a value, and meet.

What enters: a `Reduce` and values. What leaves: a state, one value for sum, max and min, and (value, index) for argmax,
scalars or vectors. NaN is the greatest and the least value for max, min and argmax; least index wins ties.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.schedule.expr import E
from graphc.schedule.flat import IDENTITY, LEAST
from graphc.schedule.kernels import Reduce

from .. import ir
from ..emit import I32, const, fma, lanes_of, like, poison, vec
from ..primitives import TABLES
from ..values import REGISTER, Values

State = tuple[ir.Value, ...]
_PRIMITIVE = {"sum": "add", "max": "max", "min": "min"}
_NO_INDEX = 2**31 - 1


def start(out: Reduce, lanes: int | None) -> State:
    """The state before the first value."""
    type_ = like(REGISTER[out.expr.dtype], lanes)
    least = IDENTITY if out.expr.dtype == "f32" else LEAST
    value = const(type_, least[out.op])
    return (value, const(like(I32, lanes), _NO_INDEX)) if out.op == "argmax" else (value,)


def is_identity(out: Reduce, e: E) -> bool:
    """Whether taking `e` would change nothing."""
    least = IDENTITY if e.dtype == "f32" else LEAST
    return e.op == "const" and e.attr == least[out.op]


def take(values: Values, out: Reduce, e: E, state: State, in_order: bool) -> State:
    """The state after the value of `e`. A sum of products takes each with one rounding, on every target. `in_order`:
    all values come one after the other, so that ties need no look at the index, and each lane has a result of its own.
    Else lanes meet in the end, and those that do not exist keep what they began with.
    """
    b = values.b
    if out.op == "sum" and e.op == "mul" and e.dtype == "f32":
        x, y = (values.widen(values.value(a)) for a in e.args)
        new: State = (fma(b, x, y, state[0]),)
    elif out.op == "argmax" and in_order:
        value, index = values.vector(e), values.vector(out.index)
        wins = _greater(b, out.expr.dtype == "f32", state[0], value)
        new = b.select(wins, value, state[0]), b.select(wins, index, state[1])
    elif out.op in ("max", "min") and isinstance(state[0], ir.Constant):
        new = (values.vector(e),)  # the first value
    else:
        value = values.vector(e)
        new = meet(b, out, state, (value,) if out.index is None else (value, values.vector(out.index)))
    mask = None if in_order else values.lanes and values.lanes.mask
    return tuple(b.select(mask, n, s) for n, s in zip(new, state, strict=True)) if mask else new


def meet(b: ir.IRBuilder, out: Reduce, x: State, y: State) -> State:
    """Two states as one; x comes first."""
    if out.op == "argmax":
        return _later_wins(b, out.expr.dtype == "f32", x, y)
    return (TABLES[out.expr.dtype][_PRIMITIVE[out.op]](b, x[0], y[0]),)


def halve(b: ir.IRBuilder, out: Reduce, states: Sequence[State]) -> State:
    """A power of two of states as one: 2k with 2k/2, until one is left."""
    states = list(states)
    while len(states) > 1:
        half = len(states) // 2
        states = [meet(b, out, states[k], states[k + half]) for k in range(half)]
    return states[0]


def across(b: ir.IRBuilder, out: Reduce, state: State) -> State:
    """The lanes of a vector state as one scalar, by halving."""
    width = lanes_of(state[0])
    while width > 1:
        width //= 2
        low, high = (tuple(_part(b, v, first, width) for v in state) for first in (0, width))
        state = meet(b, out, low, high)
    return tuple(b.extract_element(v, const(I32, 0)) for v in state)


def _part(b: ir.IRBuilder, v: ir.Value, first: int, count: int) -> ir.Value:
    return b.shuffle_vector(v, poison(v.type), const(vec(I32, count), list(range(first, first + count))))


def _later_wins(b: ir.IRBuilder, real: bool, x: State, y: State) -> State:
    """argmax: y's where it is greater, or equal with a smaller index."""
    (u, i), (v, k) = x, y
    if real:
        equal = b.or_(b.fcmp_ordered("==", u, v), b.and_(b.fcmp_unordered("uno", u, u), b.fcmp_unordered("uno", v, v)))
    else:
        equal = b.icmp_signed("==", v, u)
    wins = b.or_(_greater(b, real, u, v), b.and_(equal, b.icmp_signed("<", k, i)))
    return b.select(wins, v, u), b.select(wins, k, i)


def _greater(b: ir.IRBuilder, real: bool, u: ir.Value, v: ir.Value) -> ir.Value:
    """v > u, NaN being the greatest."""
    if not real:
        return b.icmp_signed(">", v, u)
    return b.and_(b.fcmp_unordered(">", v, u), b.fcmp_ordered("ord", u, u))
