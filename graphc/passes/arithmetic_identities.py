"""Identities of arithmetic and logic for `simplify`: rules on the result tensor of a node, `before -> after`.

Nothing is assumed finite: 0 * x is not 0 where x is infinite or NaN, so it stays.
"""

from __future__ import annotations

import math

from graphc.ir import Op
from graphc.ops import Tensor, apply
from graphc.ops import elementwise as ew
from graphc.ops.norm import LogSoftmax, Softmax
from graphc.ops.random import Dropout
from graphc.ops.shape import Concat, Constant, Expand, Pad, pad

from .matching import Rule, as_result, is_value, made_by, replaced, uniform


def add_zero(t: Tensor) -> Tensor | None:
    """x + 0 -> x"""
    a, b = t.parents
    return as_result(a, t) if is_value(b, 0) else as_result(b, t) if is_value(a, 0) else None


def add_negative(t: Tensor) -> Tensor | None:
    """x + -y -> x - y"""
    a, b = t.parents
    return a - b.parents[0] if made_by(b, ew.Neg) else b - a.parents[0] if made_by(a, ew.Neg) else None


def add_pads(t: Tensor) -> Tensor | None:
    """pad(x) + pad(y) -> pad(concat(x, y)) where y lies right behind x, or x behind y: gradients of the parts of a
    tensor"""
    if not all(made_by(p, Pad) and not any(p.node.op.interior) and p.shape == t.shape for p in t.parents):
        return None
    first, second = sorted(t.parents, key=lambda p: p.node.op.before)
    a, b = first.node.op, second.node.op
    apart = [d for d in range(t.ndim) if (a.before[d], a.after[d]) != (b.before[d], b.after[d])]
    if len(apart) != 1 or a.before[apart[0]] + first.parents[0].shape[apart[0]] != b.before[apart[0]]:
        return None
    join = Concat(apart[0])
    parts = [x for p in (first, second) for x in joined_by(p.parents[0], join)]
    return pad(apply(join, *parts), a.before, replaced(a.after, apart[0], b.after[apart[0]]), a.interior)


def joined_by(t: Tensor, join: Concat) -> tuple[Tensor, ...]:
    """What the tensor is a concatenation of by this op, or the tensor."""
    return t.parents if made_by(t, Concat) and t.node.op == join else (t,)


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


def dropout_nothing(t: Tensor) -> Tensor | None:
    """dropout(x, p=0) -> x"""
    return t.parents[0] if t.node.op.p == 0.0 else None


ARITHMETIC: dict[type[Op], tuple[Rule, ...]] = {
    ew.Add: (add_zero, add_negative, add_pads),
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
    Dropout: (dropout_nothing,),
}
