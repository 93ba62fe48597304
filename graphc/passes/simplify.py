"""A graph enters; the graph with algebraic identities applied until none is left leaves.

Every rule is a small function on the result tensor of a node, `before -> after` in its docstring, giving the new tensor
or None. No rule changes a number, but for the sign of a zero (-0 + 0) and the rounding of log_softmax, which gains.
Nothing is assumed finite: 0 * x is not 0 where x is infinite or NaN, so it stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc.ir import Graph, Op
from graphc.ops import Tensor, apply, interpret
from graphc.ops import elementwise as ew
from graphc.ops.contraction import MatMul
from graphc.ops.norm import LogSoftmax, Softmax
from graphc.ops.random import Dropout
from graphc.ops.reduce import Max, Sum
from graphc.ops.shape import Concat, Constant, Expand, Pad, Reshape, Slice, Transpose
from graphc.ops.tensor import keep

Rule = Callable[[Tensor], "Tensor | None"]


def simplify(graph: Graph) -> Graph:
    """The graph with every rule of `RULES` applied wherever it fits."""

    def rule(node, inputs):
        results = keep(node, inputs)
        if len(results) > 1 or (new := simplified(results[0])) is results[0]:
            return None
        return (new,)

    while (new := interpret(graph, rule)) is not graph:
        graph = new
    return graph


def simplified(t: Tensor) -> Tensor:
    """The tensor by the first rules that fit, one after the other."""
    while t.node is not None:
        for rule in rules_of(t.node.op):
            if (new := rule(t)) is not None:
                t = new
                break
        else:
            break
    return t


def rules_of(op: Op) -> tuple[Rule, ...]:
    return RULES.get(type(op), ()) + ((drop_expand,) if isinstance(op, ew.Elementwise) else ())


# What rules ask


def made_by(t: Tensor, *ops: type[Op]) -> bool:
    return t.node is not None and isinstance(t.node.op, ops)


def uniform(t: Tensor) -> float | int | bool | None:
    """The one value of all elements of a constant, else None."""
    return t.node.op.scalar if made_by(t, Constant) else None


def is_value(t: Tensor, value: float) -> bool:
    """A constant of this value (0.0 and -0.0 are the same here)."""
    found = uniform(t)
    return found is not None and found == value


def as_result(x: Tensor, t: Tensor) -> Tensor:
    """x in the shape of t, to which it broadcasts."""
    return x.expand(t.shape)


# Arithmetic


def add_zero(t: Tensor) -> Tensor | None:
    """x + 0 -> x"""
    a, b = t.parents
    return as_result(a, t) if is_value(b, 0) else as_result(b, t) if is_value(a, 0) else None


def add_negative(t: Tensor) -> Tensor | None:
    """x + -y -> x - y"""
    a, b = t.parents
    return a - b.parents[0] if made_by(b, ew.Neg) else b - a.parents[0] if made_by(a, ew.Neg) else None


def subtract_zero(t: Tensor) -> Tensor | None:
    """x - 0 -> x"""
    a, b = t.parents
    return as_result(a, t) if is_value(b, 0) else None


def subtract_negative(t: Tensor) -> Tensor | None:
    """x - -y -> x + y"""
    a, b = t.parents
    return a + b.parents[0] if made_by(b, ew.Neg) else None


def multiply_one(t: Tensor) -> Tensor | None:
    """x * 1 -> x"""
    a, b = t.parents
    return as_result(a, t) if is_value(b, 1) else as_result(b, t) if is_value(a, 1) else None


def multiply_minus_one(t: Tensor) -> Tensor | None:
    """x * -1 -> -x"""
    a, b = t.parents
    return -as_result(a, t) if is_value(b, -1) else -as_result(b, t) if is_value(a, -1) else None


def divide_one(t: Tensor) -> Tensor | None:
    """x / 1 -> x"""
    a, b = t.parents
    return as_result(a, t) if is_value(b, 1) else None


def divide_power_of_two(t: Tensor) -> Tensor | None:
    """x / 2**n -> x * 2**-n, which is exact where 2**-n is a normal number"""
    a, b = t.parents
    value = uniform(b)
    if (
        value is None
        or not math.isfinite(value)
        or abs(math.frexp(value)[0]) != 0.5
        or not 2**-126 <= abs(value) <= 2**126
    ):
        return None
    return a * apply(Constant((1.0 / value,), b.dtype, b.shape))


def negate_negative(t: Tensor) -> Tensor | None:
    """--x -> x"""
    x = t.parents[0]
    return x.parents[0] if made_by(x, ew.Neg) else None


def abs_of_sign(t: Tensor) -> Tensor | None:
    """| |x| | -> |x|, |-x| -> |x|"""
    x = t.parents[0]
    return x if made_by(x, ew.Abs) else abs(x.parents[0]) if made_by(x, ew.Neg) else None


def relu_twice(t: Tensor) -> Tensor | None:
    """relu(relu(x)) -> relu(x)"""
    x = t.parents[0]
    return x if made_by(x, ew.Relu) else None


def not_not(t: Tensor) -> Tensor | None:
    """not not x -> x"""
    x = t.parents[0]
    return x.parents[0] if made_by(x, ew.Not) else None


def cast_same(t: Tensor) -> Tensor | None:
    """cast(x, type of x) -> x"""
    x = t.parents[0]
    return x if x.dtype == t.dtype else None


def select_constant(t: Tensor) -> Tensor | None:
    """select(true, a, b) -> a, select(false, a, b) -> b"""
    c, a, b = t.parents
    value = uniform(c)
    return None if value is None else as_result(a if value else b, t)


def select_same(t: Tensor) -> Tensor | None:
    """select(c, a, a) -> a"""
    _, a, b = t.parents
    return as_result(a, t) if a.value is b.value else None


def select_not(t: Tensor) -> Tensor | None:
    """select(not c, a, b) -> select(c, b, a)"""
    c, a, b = t.parents
    return c.parents[0].select(b, a) if made_by(c, ew.Not) else None


def log_of_softmax(t: Tensor) -> Tensor | None:
    """log(softmax(x)) -> log_softmax(x), which has no log of 0"""
    x = t.parents[0]
    return x.parents[0].apply(LogSoftmax(x.node.op.axis)) if made_by(x, Softmax) else None


def drop_expand(t: Tensor) -> Tensor | None:
    """op(expand(a), b) -> op(a, b) where b has the shape of the result: elementwise ops broadcast by themselves"""
    for i, p in enumerate(t.parents):
        small = unexpanded(p)
        if small is None:
            continue
        operands = (*t.parents[:i], small, *t.parents[i + 1 :])
        if t.node.op.infer(*(x.type for x in operands))[0] == t.type:
            return apply(t.node.op, *operands)
    return None


def unexpanded(p: Tensor) -> Tensor | None:
    """What p is a broadcast of, if it is one."""
    if made_by(p, Expand):
        return p.parents[0]
    if p.shape and uniform(p) is not None:
        return apply(Constant((uniform(p),), p.dtype, ()))
    return None


# Shapes


def reshape_same(t: Tensor) -> Tensor | None:
    """reshape(x, shape of x) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def reshape_twice(t: Tensor) -> Tensor | None:
    """reshape(reshape(x)) -> reshape(x)"""
    x = t.parents[0]
    return x.parents[0].apply(Reshape(t.shape)) if made_by(x, Reshape) else None


def reshape_constant(t: Tensor) -> Tensor | None:
    """reshape(constant), expand(constant) -> constant, for one value everywhere"""
    value = uniform(t.parents[0])
    return None if value is None else apply(Constant((value,), t.dtype, t.shape))


def transpose_same(t: Tensor) -> Tensor | None:
    """transpose(x, 0, 1, ...) -> x"""
    axes = t.node.op.axes
    return t.parents[0] if axes == tuple(range(len(axes))) else None


def transpose_twice(t: Tensor) -> Tensor | None:
    """transpose(transpose(x)) -> transpose(x)"""
    x = t.parents[0]
    if not made_by(x, Transpose):
        return None
    return x.parents[0].apply(Transpose(tuple(x.node.op.axes[a] for a in t.node.op.axes)))


def transpose_units(t: Tensor) -> Tensor | None:
    """transpose(x) -> reshape(x) where only extents of 1 change places"""
    x = t.parents[0]
    moved = [a for a in t.node.op.axes if x.shape[a] != 1]
    return x.apply(Reshape(t.shape)) if moved == sorted(moved) else None


def expand_same(t: Tensor) -> Tensor | None:
    """expand(x, shape of x) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def expand_twice(t: Tensor) -> Tensor | None:
    """expand(expand(x)) -> expand(x)"""
    x = t.parents[0]
    return x.parents[0].apply(Expand(t.shape)) if made_by(x, Expand) else None


def slice_all(t: Tensor) -> Tensor | None:
    """x[:] -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def slice_twice(t: Tensor) -> Tensor | None:
    """x[a:b:s][c:d:r] -> x[a + c*s : ... : s*r]"""
    x = t.parents[0]
    if not made_by(x, Slice) or 0 in t.shape:
        return None
    inner, outer = x.node.op, t.node.op
    start = tuple(a + c * s for a, c, s in zip(inner.start, outer.start, inner.step, strict=True))
    step = tuple(r * s for r, s in zip(outer.step, inner.step, strict=True))
    stop = tuple(a + (n - 1) * s + 1 for a, n, s in zip(start, t.shape, step, strict=True))
    return x.parents[0].apply(Slice(start, stop, step))


def slice_of_concat(t: Tensor) -> Tensor | None:
    """concat(x, y, ...)[where y lies] -> y, and a slice within one operand -> a slice of it"""
    joined, op = t.parents[0], t.node.op
    if not made_by(joined, Concat):
        return None
    axis, offset = joined.node.op.axis, 0
    for x in joined.parents:
        end = offset + x.shape[axis]
        if offset <= op.start[axis] and op.stop[axis] <= end and op.start[axis] < end:
            start = replaced(op.start, axis, op.start[axis] - offset)
            return x.apply(Slice(start, replaced(op.stop, axis, op.stop[axis] - offset), op.step))
        offset = end
    return None


def replaced(items: tuple, at: int, value) -> tuple:
    return (*items[:at], value, *items[at + 1 :])


def slice_of_pad(t: Tensor) -> Tensor | None:
    """pad(x)[where x lies] -> x"""
    padded, op = t.parents[0], t.node.op
    if not made_by(padded, Pad) or padded.parents[0].shape != t.shape or 0 in t.shape:
        return None
    put = padded.node.op
    steps = tuple(i + 1 for i in put.interior)
    same_steps = all(s == p or n == 1 for s, p, n in zip(op.step, steps, t.shape, strict=True))
    return padded.parents[0] if op.start == put.before and same_steps else None


def pad_nothing(t: Tensor) -> Tensor | None:
    """pad(x, 0) -> x"""
    x = t.parents[0]
    return x if x.shape == t.shape else None


def pad_twice(t: Tensor) -> Tensor | None:
    """pad(pad(x)) -> pad(x) where neither puts zeros in between"""
    x, outer = t.parents[0], t.node.op
    if not made_by(x, Pad) or any(outer.interior + x.node.op.interior):
        return None
    before = tuple(map(sum, zip(outer.before, x.node.op.before, strict=True)))
    after = tuple(map(sum, zip(outer.after, x.node.op.after, strict=True)))
    return x.parents[0].apply(Pad(before, after, outer.interior))


def concat_one(t: Tensor) -> Tensor | None:
    """concat(x) -> x, and operands without elements go"""
    axis = t.node.op.axis
    full = [x for x in t.parents if x.shape[axis]] or t.parents[:1]
    if len(full) == len(t.parents) > 1:
        return None
    return full[0] if len(full) == 1 else apply(t.node.op, *full)


def reduce_units(t: Tensor) -> Tensor | None:
    """sum(x), max(x) over axes of extent 1 -> reshape(x)"""
    x = t.parents[0]
    return x.apply(Reshape(t.shape)) if all(x.shape[a] == 1 for a in t.node.op.axes) else None


# Others


def matmul_of_transpose(t: Tensor) -> Tensor | None:
    """matmul(a.T, b) -> matmul(a, b, transpose_a), likewise for b; the last two axes only"""
    (a, b), op = t.parents, t.node.op
    left, right = swaps_last(a), swaps_last(b)
    if not (left or right):
        return None
    a, b = (a.parents[0] if left else a), (b.parents[0] if right else b)
    return a.apply(MatMul(op.transpose_a != left, op.transpose_b != right), b)


def swaps_last(t: Tensor) -> bool:
    rank = t.ndim
    return made_by(t, Transpose) and t.node.op.axes == (*range(rank - 2), rank - 1, rank - 2)


def dropout_nothing(t: Tensor) -> Tensor | None:
    """dropout(x, p=0) -> x"""
    return t.parents[0] if t.node.op.p == 0.0 else None


RULES: dict[type[Op], tuple[Rule, ...]] = {
    ew.Add: (add_zero, add_negative),
    ew.Sub: (subtract_zero, subtract_negative),
    ew.Mul: (multiply_one, multiply_minus_one),
    ew.Div: (divide_one, divide_power_of_two),
    ew.Neg: (negate_negative,),
    ew.Abs: (abs_of_sign,),
    ew.Relu: (relu_twice,),
    ew.Not: (not_not,),
    ew.Cast: (cast_same,),
    ew.Select: (select_constant, select_same, select_not),
    ew.Log: (log_of_softmax,),
    Reshape: (reshape_same, reshape_twice, reshape_constant),
    Transpose: (transpose_same, transpose_twice, transpose_units),
    Expand: (expand_same, expand_twice, reshape_constant),
    Slice: (slice_all, slice_twice, slice_of_concat, slice_of_pad),
    Pad: (pad_nothing, pad_twice),
    Concat: (concat_one,),
    Sum: (reduce_units,),
    Max: (reduce_units,),
    MatMul: (matmul_of_transpose,),
    Dropout: (dropout_nothing,),
}
